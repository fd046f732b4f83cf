import math

import pytest

from lightning_advreg.callbacks import convergence_rules as rules
from lightning_advreg.callbacks.convergence_course import Course
from lightning_advreg.callbacks.convergence_look import Look
from lightning_advreg.callbacks.convergence_measurements import Clean, Seen
from lightning_advreg.callbacks.convergence_moment import Now

N = 10_000


def right(share, images=N):
    """The first images are right, so that a higher share contains a lower one."""
    return tuple(i < round(share * images) for i in range(images))


def looks(pgd, fgsm=None, train=None, images=N, every=1.0):
    fgsm = pgd if fgsm is None else fgsm
    train = [0.5] * len(pgd) if train is None else train
    return [
        Look(
            epoch=int(i * every),
            step=10 * (i + 1),
            trained=(i + 1) * every,
            fgsm=right(f, images),
            pgd=right(p, images),
            train_pgd=right(t, images),
        )
        for i, (p, f, t) in enumerate(zip(pgd, fgsm, train, strict=True))
    ]


@pytest.mark.parametrize(("gap", "raised"), [(0.19, False), (0.2, False), (0.21, True)])
def test_a_gap_of_more_than_20_points_is_catastrophic_overfitting(gap, raised):
    alarm = rules.catastrophic_overfitting(looks([0.4], fgsm=[0.4 + gap]))
    assert (alarm is not None) == raised
    if alarm is not None:
        assert (alarm.name, alarm.epoch, alarm.step) == ("catastrophic_overfitting", 0, 10)
        assert "FGSM leaves an accuracy of 61.0 %, PGD-10 40.0 % on 10000 images, a gap of 21.0 points" in alarm.message
        assert "N-FGSM, GradAlign or PGD of 2 steps" in alarm.message


@pytest.mark.parametrize(("fall", "raised"), [(0.08, False), (0.1, False), (0.11, True)])
def test_a_drop_of_more_than_10_points_in_an_epoch_is_catastrophic_overfitting(fall, raised):
    alarm = rules.catastrophic_overfitting(looks([0.3, 0.5, 0.5 - fall]))
    assert (alarm is not None) == raised
    if alarm is not None:
        assert "Epoch 2: the accuracy under PGD-10 fell from 50.0 % to 39.0 %" in alarm.message


def test_a_drop_counts_within_one_epoch_only():
    assert rules.catastrophic_overfitting(looks([0.5, 0.43, 0.36])) is None
    # four looks an epoch: three small drops make one large one, and a fifth look back is too far
    assert rules.catastrophic_overfitting(looks([0.5, 0.46, 0.42, 0.38], every=0.25)) is not None
    assert rules.catastrophic_overfitting(looks([0.49, 0.43, 0.42, 0.41, 0.4, 0.38], every=0.25)) is None
    assert rules.catastrophic_overfitting(looks([0.5, 0.3], every=2.0)) is None


def test_few_images_need_a_difference_beyond_noise():
    assert rules.catastrophic_overfitting(looks([0.375], fgsm=[0.625], images=64)) is None  # 25 points of 26 needed
    assert rules.catastrophic_overfitting(looks([0.375], fgsm=[0.6875], images=64)) is not None
    assert rules.catastrophic_overfitting(looks([0.5, 0.375], images=256)) is None  # 12.5 of 13
    assert rules.catastrophic_overfitting(looks([0.5, 0.35], images=256)) is not None


def test_all_of_very_few_images_are_no_certainty():
    # by the plain standard error, 16 of 16 would be 0 +- 0 away from certainty, and 37.5 points beyond noise
    assert rules.catastrophic_overfitting(looks([10 / 16], fgsm=[1.0], images=16)) is None
    assert rules.catastrophic_overfitting(looks([6 / 16], fgsm=[1.0], images=16)) is not None


def test_nothing_is_judged_while_the_budget_grows():
    history = looks([0.6, 0.3, 0.1], fgsm=[0.9, 0.9, 0.2])
    assert rules.catastrophic_overfitting(history[:2], judge_from=2.0) is None
    # from there on, the look at the end of the growth is the first that counts
    assert "fell from 30.0 % to 10.0 %" in rules.catastrophic_overfitting(history, judge_from=2.0).message
    assert "fell from 60.0 %" not in rules.catastrophic_overfitting(history, judge_from=2.0).message


@pytest.mark.parametrize(
    ("pgd", "train", "raised"),
    [
        ([0.5] + 5 * [0.475], [0.6] + 5 * [0.7], True),
        ([0.5] + 5 * [0.48], [0.6] + 5 * [0.7], False),  # 2 points, and not more
        ([0.5] + 4 * [0.475], [0.6] + 4 * [0.7], False),  # 4 epochs
        ([0.5] + 5 * [0.475], 6 * [0.6], False),  # training accuracy stands still
        ([0.5] + 5 * [0.475], [0.6] + 5 * [0.5], False),  # and falls
        ([0.5, 0.475, 0.475, 0.49, 0.475, 0.475], [0.6] + 5 * [0.7], False),  # recovers in between
        ([0.5, 0.49, 0.49] + 5 * [0.475], [0.6] * 3 + 5 * [0.7], True),
    ],
)
def test_robust_overfitting(pgd, train, raised):
    alarm = rules.robust_overfitting(looks(pgd, train=train))
    assert (alarm is not None) == raised
    if alarm is not None:
        assert "after 50.0 % in epoch 0" in alarm.message
        assert "from 60.0 % to 70.0 % on training images" in alarm.message
        assert "AWP" in alarm.message


def test_five_epochs_are_five_epochs_however_often_one_looks():
    assert rules.robust_overfitting(looks([0.5] + 16 * [0.475], train=[0.6] + 16 * [0.7], every=0.25)) is None
    assert rules.robust_overfitting(looks([0.5] + 17 * [0.475], train=[0.6] + 17 * [0.7], every=0.25)) is not None
    assert rules.robust_overfitting(looks([0.5, 0.475], train=[0.6, 0.7], every=2.0)) is None
    assert rules.robust_overfitting(looks([0.5] + 3 * [0.475], train=[0.6] + 3 * [0.7], every=2.0)) is not None


def test_robust_overfitting_on_few_images_must_exceed_their_flicker():
    def flickering(pgd, train):
        """Nested sets of images would differ in nothing but the fall."""
        changing = [tuple((i + 7 * look.epoch) % 64 < 64 * p for i in range(64)) for look, p in pgd]
        return [
            Look(**{**vars(look), "pgd": bits, "fgsm": bits, "train_pgd": t.train_pgd})
            for (look, _), bits, t in zip(pgd, changing, train, strict=True)
        ]

    rates = [0.5] + 5 * [0.46875]
    frames = looks(rates, train=[0.5] + 5 * [0.9], images=64)
    assert rules.robust_overfitting(flickering(list(zip(frames, rates, strict=True)), frames)) is None
    rates = [0.75] + 5 * [0.25]
    frames = looks(rates, train=[0.5] + 5 * [0.9], images=64)
    assert rules.robust_overfitting(flickering(list(zip(frames, rates, strict=True)), frames)) is not None


def test_fewer_images_are_compared_with_themselves():
    """After the sample is halved, the best look counts on what is left of it."""
    before, after = (
        looks([0.5], train=[0.5], images=256),
        looks([0.0, *[0.98] * 6], train=[0.0, *[1.0] * 6], images=128),
    )
    # all of the first 128 images were right: the fall is 2 points of noise, not 48 points of gain
    assert rules._paired(before[0].pgd, [look.pgd for look in after[1:]])[0] == pytest.approx(1 - 125 / 128)


def test_robust_overfitting_is_judged_on_images_that_all_looks_saw():
    # a lucky best on the first 16 images must not stay the best for ever
    few, many = looks([1.0], train=[0.5], images=16), looks([0.0, 0.6, *5 * [0.4]], train=[0.0, 0.5, *5 * [0.7]])[1:]
    alarm = rules.robust_overfitting([*few, *many])
    assert alarm is not None
    assert "is 40.0 % on 10000 images, after 60.0 % in epoch 1" in alarm.message
    # where looks become smaller, what counts of the best is what they still see
    larger = looks([0.6], train=[0.2], images=1000)
    smaller = [
        Look(epoch=i, step=i, trained=i + 1.0, fgsm=bits, pgd=bits, train_pgd=right(0.9, 500))
        for i in range(1, 6)
        for bits in [right(0.8, 500)]
    ]
    # 60 % of 1000 are all of the first 500
    alarm = rules.robust_overfitting([*larger, *smaller])
    assert alarm is not None
    assert "is 80.0 % on 500 images, after 100.0 % in epoch 0" in alarm.message
    assert "from 40.0 % to 90.0 % on training images" in alarm.message


PLATEAU = {"trained": 1.0, "loss": math.log(10), "right": 100, "images": 1000, "num_classes": 10}


@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({}, True),
        ({"loss": math.log(10) + 0.009}, True),
        ({"loss": math.log(10) + 0.011}, False),
        ({"loss": math.log(10) - 0.011}, False),
        ({"right": 128}, True),  # 3 standard errors are 28.5
        ({"right": 129}, False),
        ({"right": 71}, False),
        ({"trained": 0.9}, False),
        ({"num_classes": 2}, False),
        ({"num_classes": 2, "loss": math.log(2), "right": 500}, True),
    ],
)
def test_start_plateau(changes, raised):
    alarm = rules.start_plateau(0, 7, **{**PLATEAU, **changes})
    assert (alarm is not None) == raised
    if alarm is not None:
        assert (alarm.name, alarm.step) == ("start_plateau", 7)
        assert "eps_warmup_epochs" in alarm.message


@pytest.mark.parametrize(
    ("rates", "still"),
    [
        ([], []),
        ([[0.1, 0.1]], []),
        ([[0.1, 0.1], [0.1, 0.1]], []),
        ([[0.1, 0.1], [0.05, 0.05]], []),
        ([[0.1, 0.1], [0.05, 0.1]], [1]),
        ([[0.1, 0.1], [0.05, 0.1], [0.02, 0.09]], []),
        ([[0.1, 0.0], [0.05, 0.0]], []),  # frozen
        ([[0.2], [0.1, 0.01]], []),  # joined after the only move
        ([[0.2], [0.1, 0.01], [0.05, 0.01]], [1]),
    ],
)
def test_unscheduled_groups(rates, still):
    assert rules.unscheduled_groups(rates) == still


def test_sentences_name_batch_and_group():
    alarm = rules.non_finite_loss(3, 350, batch=17, seen=50)
    assert "Epoch 3: the loss of batch 17 was infinite" in alarm.message
    assert "after batch 49, at step 350" in alarm.message
    assert "batch 17 of process 1 was" in rules.non_finite_loss(3, 350, batch=17, seen=50, rank=1).message
    assert "never those of a and b" in rules.unscheduled_group(0, 0, ["a", "b"]).message


def clean(**changes):
    base = {"images": 1000, "loss": 1.0, "right": 600, "num_classes": 10, "finite": True, "differentiable": True}
    return Clean(**{**base, "signs": (), **changes})


def test_going_back_makes_the_good_look_the_one_to_compare_with():
    course = Course()
    names = []
    for i, look in enumerate(looks([0.5, 0.1, 0.45, 0.3])):
        now = Now(look.epoch, look.step, look.trained)
        alarms = course.judge(now, Seen(clean=clean(), look=look), judge_from=0)
        names.append([alarm.name for alarm in alarms])
        if i == 1:
            course.go_back(now)
            assert [rules.accuracy(seen.pgd) for seen in course.history] == [0.5, 0.5]
            assert course.history[-1].trained == 2.0
            assert rules.accuracy(course.good.pgd) == 0.5
    # from 10 % the third look would be a rise and the fourth no drop
    assert names == [[], ["catastrophic_overfitting"], [], ["catastrophic_overfitting"]]


def test_the_most_robust_look_is_known_and_gone_back_to():
    course = Course()
    best = []
    for look in [*looks([1.0], images=16), *looks([0.0, 0.8, 0.85, 0.82, 0.85])[1:], *looks(6 * [0.7], images=32)[5:]]:
        course.judge(Now(look.epoch, look.step, look.trained), Seen(clean=clean(), look=look), judge_from=0)
        best.append(course.best.epoch)
    # more images count more than luck on few; on 32 of them, 70 % are less than the 85 % of all, which has all of these
    assert best == [0, 1, 2, 2, 2, 2]
    course.go_back(Now(7, 80, 8.0), to_best=True)
    assert (course.history[-1].pgd, course.history[-1].epoch) == (course.best.pgd, 7)
    assert course.good.pgd == course.best.pgd
    resumed = Course()
    resumed.load_state_dict(course.state_dict())
    assert resumed.best == course.best


def test_outputs_that_are_not_finite_are_judged_as_that_alone():
    course = Course()
    alarms = course.judge(Now(4, 9, 5.0), Seen(clean=clean(finite=False, loss=math.nan), look=None), judge_from=0)
    assert [alarm.name for alarm in alarms] == ["non_finite_loss"]
    assert course.good is None


def test_a_course_survives_its_state():
    course, resumed = Course(), Course()
    for look in looks([0.5, 0.48], images=70):
        course.judge(Now(look.epoch, look.step, look.trained), Seen(clean=clean(), look=look), judge_from=0)
    course.judge_rates(Now(0, 0, 0.0), [0.1, 0.2], ["a", "b"])
    resumed.load_state_dict(course.state_dict())
    assert (resumed.history, resumed.good, resumed.rates) == (course.history, course.good, course.rates)

import random

import pytest

from lightning_advreg.callbacks.convergence_course import Course, news_in, without_outdone
from lightning_advreg.callbacks.convergence_look import Look
from lightning_advreg.callbacks.convergence_measurements import Clean, Seen
from lightning_advreg.callbacks.convergence_moment import Now
from lightning_advreg.callbacks.convergence_rules import (
    catastrophic_overfitting,
    robust_overfitting,
    unscheduled_groups,
)

CLEAN = Clean(images=64, loss=1.0, right=32, num_classes=10, finite=True, differentiable=True, signs=())


def course_of(seed, *, epochs=40, per_epoch=1):
    """Looks at a network that gets better on training images, and better and worse on others."""
    draw = random.Random(seed)
    rate, images, trained = 0.3, 64, 0.0
    for index in range(epochs * per_epoch):
        trained += 1 / per_epoch
        rate = min(max(rate + draw.gauss(0, 0.06), 0.05), 0.95)
        if draw.random() < 0.1:
            images = draw.choice([16, 32, 64])
        right = tuple(draw.random() < rate for _ in range(images))
        on_training = tuple(draw.random() < min(1, index / 20 / per_epoch) for _ in range(images))
        yield Look(epoch=int(trained), step=index, trained=trained, fgsm=right, pgd=right, train_pgd=on_training)


@pytest.mark.parametrize("per_epoch", [1, 3])
def test_looks_that_are_left_out_would_have_decided_nothing(per_epoch):
    raised, most = set(), 0
    for seed in range(12):
        everything, kept = [], []
        for look in course_of(seed, per_epoch=per_epoch):
            everything.append(look)
            kept = [*without_outdone(kept, look.trained), look]
            most = max(most, len(kept))
            for rule in (catastrophic_overfitting, robust_overfitting):
                assert rule(kept) == rule(everything)
                raised.add((rule.__name__, rule(kept) is not None))
    # both verdicts of both rules were among them
    assert len(raised) == 4
    assert most < 20 * per_epoch


def test_a_course_of_hundreds_of_epochs_takes_no_more_room_than_one_of_dozens():
    course, sizes = Course(), []
    for look in course_of(0, epochs=250):
        course.judge(Now(look.epoch, look.step, look.trained), Seen(clean=CLEAN, look=look), judge_from=0.0)
        course.judge_rates(Now(look.epoch, look.step, look.trained), [0.1 / (1 + look.epoch)] * 2, ["a", "b"])
        sizes.append(len(str(course.state_dict())))
    assert max(sizes[50:]) < 1.5 * max(sizes[:50])
    assert len(course.rates) == 2


@pytest.mark.parametrize("seed", range(20))
def test_learning_rates_that_are_left_out_would_have_decided_nothing(seed):
    draw = random.Random(seed)
    everything, kept, rates = [], [], [0.1, 0.1]
    for _ in range(30):
        if draw.random() < 0.1 and len(rates) < 5:
            rates = [*rates, draw.choice([0.0, 0.1])]
        if draw.random() < 0.2:
            moved = draw.randrange(len(rates))
            rates = [draw.choice([0.1, 0.2]) if index == moved else rate for index, rate in enumerate(rates)]
        everything.append(rates)
        if news_in(rates, kept):
            kept.append(rates)
        assert unscheduled_groups(kept) == unscheduled_groups(everything)

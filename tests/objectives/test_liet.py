import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM
from lightning_advreg.modules.hyperparameters import describe
from lightning_advreg.objectives.liet import LIET
from lightning_advreg.objectives.pgi import PGI

from ..modules.parts import BUILDERS, conv, digits
from ..modules.test_resume import StopAfterFirstEpoch, assert_same_run, run
from .test_nuat import EPS, assert_same_loss_and_gradients, count_passes, literal_step, make_net
from .test_nuat import batch as batch


def literal_labels(y, classes, smoothing=0.6):
    """Soft labels in a loop, from the numbers that are drawn for all of them at once."""
    drawn = torch.rand(len(y), classes).double()
    rows = []
    for k, u in zip(y, drawn, strict=True):
        wrong = sum(u[j] for j in range(classes) if j != k)
        rows.append(
            torch.stack([torch.tensor(1 - smoothing) if j == k else smoothing * u[j] / wrong for j in range(classes)])
        )
    return torch.stack(rows)


def literal_soft_cross_entropy(logits, labels):
    return -sum((t * (z - z.exp().sum().log())).sum() for z, t in zip(logits, labels, strict=True)) / len(logits)


def literal_jensen_shannon(logits, other):
    total = 0.0
    for z, w in zip(logits, other, strict=True):
        p, q = z.exp() / z.exp().sum(), w.exp() / w.exp().sum()
        m = (p + q) / 2
        total = total + sum(p[k] * (p[k] / m[k]).log() + q[k] * (q[k] / m[k]).log() for k in range(len(p))) / 2
    return total / len(logits)


@pytest.mark.parametrize("mode", ["eval", "batch_stats", "train"])
def test_loss_and_gradients_equal_the_formula(batch, mode, monkeypatch):
    x, y = batch
    net = make_net()
    # the reference draws in float32, like the numbers that it is compared with
    rand_like = torch.rand_like
    monkeypatch.setattr(torch, "rand_like", lambda t: rand_like(t, dtype=torch.float32).to(t.dtype))
    reference = copy.deepcopy(net)
    torch.manual_seed(5)

    reference.eval()
    pattern = torch.zeros(5, 1, 6, 6).double()
    labels = literal_labels(torch.arange(5), 5)
    for k in range(5):
        grey = torch.full((1, 1, 6, 6), 0.5).double().requires_grad_()
        literal_soft_cross_entropy(reference(grey), labels[k : k + 1]).backward()
        pattern[k] = grey.grad[0].sign()

    side = 2 * torch.empty(6).double().bernoulli_() - 1
    share = 0.1 + 0.4 * torch.rand(())
    chosen, noise = torch.rand(x.shape), 2 * torch.rand(x.shape).double() - 1
    start = torch.zeros_like(x)
    for i in range(6):
        moved = torch.where(chosen[i] < share, noise[i], side[i] * pattern[y[i]])
        start[i] = (x[i] + EPS * moved).clamp(0, 1)

    reference.train(mode != "eval")
    labels = literal_labels(y, 5)
    x_adv = literal_step(start, x, lambda images: literal_soft_cross_entropy(reference(images), labels))
    reference.train()
    logits_adv = reference(x_adv)
    labels = literal_labels(y, 5)
    distance = literal_jensen_shannon(reference(start), logits_adv)
    expected = literal_soft_cross_entropy(logits_adv, labels) + 100 * 0.3 * distance

    torch.manual_seed(5)
    objective = LIET()
    output = objective.during(0.3, 0)(net, x, y, FGSM(eps=EPS, model_mode=mode))
    assert torch.equal(objective.pattern.double(), pattern)
    assert_same_loss_and_gradients(output, net, expected, reference)
    torch.testing.assert_close(output.logits_adv, logits_adv)
    assert output.logits is None


@pytest.mark.parametrize("method", [partial(LIET, refresh_every=2), PGI])
def test_one_pass_for_step_and_loss_changes_nothing(batch, method):
    attack = FGSM(eps=EPS, model_mode="batch_stats")
    results = []
    for in_one in (True, False):
        net, objective = make_net(), method()
        for step in range(3):
            torch.manual_seed(step)
            moment = objective.during(0.5, step)
            if in_one:
                output = moment(net, *batch, attack)
            else:
                output = moment.loss(net, *batch, moment.craft(net, *batch, attack))
        gradients = torch.autograd.grad(output.loss, list(net.parameters()))
        results.append((output.loss, *gradients, *net.buffers(), *objective.buffers()))
        assert net[1].num_batches_tracked == 1 + 2 * 3
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("mode", "first", "later", "split"), [("eval", 5, 3, 3), ("batch_stats", 4, 2, 3), ("train", 4, 2, 3)]
)
def test_number_of_passes(batch, mode, first, later, split):
    net, objective = make_net(), LIET()
    calls, attack = count_passes(net), FGSM(eps=EPS, model_mode=mode)
    # the first batch counts the classes at one grey image, and takes the pattern at one for each class
    objective.during(0.1, 0)(net, *batch, attack)
    assert len(calls) == first
    calls.clear()
    moment = objective.during(0.2, 1)
    moment(net, *batch, attack)
    assert len(calls) == later
    calls.clear()
    moment.loss(net, *batch, moment.craft(net, *batch, attack))
    assert len(calls) == split
    calls.clear()
    objective.during(0.3, 20)(net, *batch, attack)
    assert len(calls) == later + 1
    calls.clear()
    moment = objective.during(0.0, 1)
    moment.loss(net, *batch, moment.craft(net, *batch, attack))
    assert len(calls) == 2, "the start is not needed where its weight is 0"


def test_without_gradients_the_loss_is_still_to_be_had(batch):
    net = make_net().eval()
    with torch.no_grad():
        assert LIET()(net, *batch, FGSM(eps=EPS, model_mode="train")).loss.isfinite()


def test_the_pattern_is_refreshed_every_so_many_batches(batch):
    net, objective = make_net(), LIET(refresh_every=3)
    refreshed = []
    for step in range(7):
        before = objective.pattern.clone()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))
        objective.during(0.5, step).craft(net, *batch, FGSM(eps=EPS))
        refreshed.append(not torch.equal(before, objective.pattern))
    assert refreshed == [True, False, False, True, False, False, True]


def test_a_pattern_of_other_classes_or_images_is_replaced(batch):
    x, y = batch
    objective = LIET()
    objective.craft(make_net(), x, y, FGSM())
    assert objective.pattern.shape == (5, 1, 6, 6)
    three = nn.Sequential(nn.Flatten(), nn.Linear(36, 3).double())
    objective.craft(three, x, y % 3, FGSM())
    assert objective.pattern.shape == (3, 1, 6, 6)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 3).double())
    objective.during(0.5, 1).craft(wide, x[..., :4, :4], y % 3, FGSM())
    assert objective.pattern.shape == (3, 1, 4, 4)


def test_the_start_is_the_pattern_up_to_sign_with_a_share_of_noise():
    torch.manual_seed(0)
    x, y = torch.full((8, 3, 16, 16), 0.5), torch.arange(8) % 4
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    objective, shares, sides = LIET(), [], []
    for _ in range(30):
        _, start, _ = objective.craft(net, x, y, FGSM(eps=0.25))
        delta = (start - x) / 0.25
        agree = (delta == objective.pattern[y]).float().mean((1, 2, 3))
        oppose = (delta == -objective.pattern[y]).float().mean((1, 2, 3))
        kept = torch.maximum(agree, oppose)
        assert torch.minimum(agree, oppose).max() < 0.01, "the sign differs within an image"
        assert kept.std() < 0.05, "the share differs within a batch"
        shares.append(1 - kept.mean().item())
        sides.append((agree > oppose).float())
        replaced = delta[(delta.abs() < 1)]
        assert abs(replaced.mean()) < 0.1
        assert replaced.abs().mean() == pytest.approx(0.5, abs=0.05)
    assert 0.08 < min(shares) < 0.2
    assert 0.4 < max(shares) < 0.52
    assert 0.3 < torch.stack(sides).mean() < 0.7
    assert any(0 < side.mean() < 1 for side in sides), "one sign for all images of a batch"


@pytest.mark.parametrize("classes", [2, 7])
def test_labels_have_random_shares_of_wrong_classes(classes, monkeypatch):
    y, logits = torch.tensor([0, 1, 1]), torch.zeros(3, classes)
    labels = LIET(label_smoothing=0.6).labels(y, logits)
    torch.testing.assert_close(labels.sum(1), torch.ones(3))
    torch.testing.assert_close(labels[range(3), y], torch.full((3,), 0.4))
    assert labels.min() > 0
    assert classes == 2 or len(labels.unique()) > 10
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    assert LIET().labels(y, logits).isfinite().all()


def test_the_divergence_is_that_of_jensen_and_shannon():
    far, near = torch.tensor([[0.0, 200.0]]), torch.tensor([[200.0, 0.0]])
    distance = LIET().distance
    assert distance(far, near).item() == pytest.approx(math.log(2))
    torch.manual_seed(0)
    z, w = torch.randn(2, 4, 3).double()
    torch.testing.assert_close(distance(z, w), literal_jensen_shannon(z, w))
    torch.testing.assert_close(distance(z, w), distance(w, z))
    for start, end in ((far, far), (far, near), (1e4 * far, 1e4 * near)):
        start = start.clone().requires_grad_()
        distance(start, end).backward()
        assert start.grad.isfinite().all()


def test_a_moment_shares_the_pattern_and_leaves_the_objective_alone(batch):
    objective = LIET()
    moment = objective.during(0.25, 0)
    assert (moment.strength, objective.strength) == (25.0, 100.0)
    moment.craft(make_net(), *batch, FGSM())
    assert objective.pattern.shape == (5, 1, 6, 6)
    assert objective.during(0.5, 1).pattern is objective.pattern


@pytest.mark.parametrize("method", [LIET, PGI])
def test_buffers_go_through_a_file_whatever_their_shapes(method, batch, tmp_path):
    objective = method()
    objective.craft(make_net(), *batch, FGSM())
    torch.save(objective.state_dict(), tmp_path / "state.pt")
    assert len(objective.state_dict()) == 1
    stored = torch.load(tmp_path / "state.pt", weights_only=True)
    used = method()
    used.craft(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3).double()), batch[0][:3, :, :4, :4], batch[1][:3] % 3, FGSM()
    )
    for other in (method(), used):
        assert other.load_state_dict(stored).missing_keys == []
        for name, value in objective.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
            assert other.state_dict()[name].data_ptr() != stored[name].data_ptr()
    # an objective that has seen nothing has a state as well
    used.load_state_dict(method().state_dict())
    assert next(used.buffers()).numel() == 0


@pytest.mark.parametrize("mode", ["eval", "batch_stats"])
@pytest.mark.parametrize("method", [partial(LIET, refresh_every=4), PGI])
def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(method, mode, tmp_path, monkeypatch):
    def build():
        network = conv(norm="batch", dropout=0.3)
        return AdversarialClassifier(network, attack=FGSM(eps=0.2, model_mode=mode), objective=method())

    # 90 images: the last batch is smaller, and the pattern of batch 4 serves batch 6, the first of the next epoch
    monkeypatch.setitem(BUILDERS, "started", build)
    whole = run("started", tmp_path / "whole", {"datamodule": digits(train_size=90)}, seed=0)
    data = {"datamodule": digits(train_size=90)}
    run("started", tmp_path / "part", data, seed=0, callbacks=[StopAfterFirstEpoch()])
    last = tmp_path / "part" / "last.ckpt"
    resumed = run("started", tmp_path / "part", {"datamodule": digits(train_size=90)}, seed=99, ckpt_path=last)
    assert next(whole[0].objective.buffers()).numel() > 0
    assert_same_run(whole, resumed)


def test_plain_values_describe_what_was_chosen():
    assert describe(LIET(weight="200", label_smoothing=0.8))["init_args"] == {"weight": "200", "label_smoothing": 0.8}


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        LIET(weight=-1)
    with pytest.raises(ValueError, match="label_smoothing must be less than 1, got 1"):
        LIET(label_smoothing=1)
    with pytest.raises(ValueError, match=r"noise_max must be at least 0\.6, got 0\.5"):
        LIET(noise_min=0.6)
    with pytest.raises(ValueError, match="noise_max must be at most 1"):
        LIET(noise_max=1.5)
    with pytest.raises(ValueError, match="refresh_every must be an integer of at least 1, got 0"):
        LIET(refresh_every=0)

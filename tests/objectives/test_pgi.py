import copy

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM
from lightning_advreg.modules.hyperparameters import describe
from lightning_advreg.objectives.pgi import PGI

from .test_nuat import EPS, assert_same_loss_and_gradients, count_passes, literal_step, make_net


def batches():
    generator = torch.Generator().manual_seed(3)
    for size in (4, 6, 2, 5):
        x = 1.2 * torch.rand(size, 1, 6, 6, generator=generator).double() - 0.1
        yield x.clamp(0, 1), torch.arange(size) % 5


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
@pytest.mark.parametrize("mode", ["eval", "batch_stats"])
def test_loss_and_gradients_equal_the_formula(mode, smoothing):
    net, objective = make_net(), PGI(label_smoothing=smoothing)
    deltas = []

    def literal_loss(logits, y):
        total = 0.0
        for z, k in zip(logits, y, strict=True):
            log_p = z - z.exp().sum().log()
            total = total - (1 - smoothing) * log_p[k] - smoothing / 5 * sum(log_p[j] for j in range(5))
        return total / len(y)

    for seed, (x, y) in enumerate(batches()):
        reference = copy.deepcopy(net)
        torch.manual_seed(seed)
        fresh = EPS * (2 * torch.empty_like(x[len(deltas) :]).bernoulli_() - 1)
        start = torch.zeros_like(x)
        for i in range(len(x)):
            delta = deltas[i] if i < len(deltas) else fresh[i - len(deltas)]
            start[i] = (x[i] + delta).clamp(0, 1)
        reference.train(mode != "eval")
        x_adv = literal_step(start, x, lambda images, f=reference, y=y: literal_loss(f(images), y))
        reference.train()
        # rows that this batch does not have wait for the next
        deltas[: len(x)] = list(x_adv - x)
        logits_adv = reference(x_adv)
        squares = (logits_adv - reference(start)).flatten() ** 2
        expected = literal_loss(logits_adv, y) + 10 * sum(squares) / len(squares)

        torch.manual_seed(seed)
        output = objective(net, x, y, FGSM(eps=EPS, model_mode=mode))
        torch.testing.assert_close(objective.prior, torch.stack(deltas))
        assert_same_loss_and_gradients(output, net, expected, reference)
        torch.testing.assert_close(output.logits_adv, logits_adv)


def test_each_row_starts_where_the_row_before_it_ended():
    net, objective = make_net(), PGI()
    (x, y), (larger, more) = list(batches())[:2]
    x_adv = objective.craft(net, x, y, FGSM(eps=EPS))[0]
    _, start, _ = objective.craft(net, larger, more, FGSM(eps=EPS))
    torch.testing.assert_close(start[:4], (larger[:4] + x_adv - x).clamp(0, 1))
    inside = (larger[4:] > EPS) & (larger[4:] < 1 - EPS)
    corners = (start[4:] - larger[4:])[inside]
    torch.testing.assert_close(corners.abs(), torch.full_like(corners, EPS))
    assert -0.05 < corners.mean() < 0.05


def test_a_smaller_batch_leaves_the_other_rows():
    net, objective = make_net(), PGI()
    _, (x, y), (few, labels), _ = batches()
    objective.craft(net, x, y, FGSM(eps=EPS))
    before = objective.prior.clone()
    objective.craft(net, few, labels, FGSM(eps=EPS))
    assert objective.prior.shape == x.shape
    assert torch.equal(objective.prior[2:], before[2:])
    assert not torch.equal(objective.prior[:2], before[:2])


def test_perturbations_of_a_larger_eps_are_cut():
    # an eps that falls must not let images out of the ball
    objective, (x, y) = PGI(), next(batches())
    objective.craft(make_net(), x, y, FGSM(eps=0.3))
    x_adv, start, _ = objective.craft(make_net(), x, y, FGSM(eps=0.05))
    assert (start - x).abs().max() == pytest.approx(0.05)
    assert (x_adv - x).abs().max() == pytest.approx(0.05)


def test_images_of_another_shape_begin_anew():
    objective, (x, y) = PGI(), next(batches())
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 5)).double()
    objective.craft(net, x, y, FGSM(eps=EPS))
    objective.craft(net, x[:3, :, :4, :4], y[:3], FGSM(eps=EPS))
    assert objective.prior.shape == (3, 1, 4, 4)


@pytest.mark.parametrize(("mode", "weight", "passes"), [("eval", 10, 3), ("batch_stats", 10, 2), ("eval", 0, 2)])
def test_number_of_passes(mode, weight, passes):
    net, objective = make_net(), PGI(weight=weight)
    calls = count_passes(net)
    for _ in range(2):
        calls.clear()
        objective(net, *next(batches()), FGSM(eps=EPS, model_mode=mode))
        assert len(calls) == passes


def test_nothing_of_the_last_graph_is_kept():
    objective = PGI()
    output = objective(make_net(), *next(batches()), FGSM(eps=EPS, model_mode="batch_stats"))
    assert output.loss.requires_grad
    assert not objective.prior.requires_grad


def test_arguments_are_checked_and_described():
    assert describe(PGI(label_smoothing="4/9"))["init_args"] == {"label_smoothing": "4/9"}
    assert PGI(label_smoothing="4/9").label_smoothing == 4 / 9
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        PGI(weight=-1)
    with pytest.raises(ValueError, match="label_smoothing must be less than 1, got 1"):
        PGI(label_smoothing=1)
    with pytest.raises(ValueError, match="label_smoothing must be at least 0"):
        PGI(label_smoothing=-0.1)

import copy

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.metrics import AccuracyUnderAttack


class Shift(Attack):
    """Adds a number to every pixel, as if that were an attack."""

    def __init__(self, amount):
        self.amount = amount

    def __call__(self, model, x, y):
        return (x + self.amount).clamp(0, 1)


def bright(x):
    """Class 1 where the mean is above a half."""
    mean = x.flatten(1).mean(1)
    return torch.stack([0.5 - mean, mean - 0.5], dim=1)


X = torch.tensor([0.1, 0.45, 0.55, 0.9, 0.45]).view(5, 1, 1, 1).expand(5, 1, 2, 2)
Y = torch.tensor([0, 0, 1, 1, 1])


def test_by_hand():
    accuracy = AccuracyUnderAttack({"up": Shift(0.1), "down": Shift(-0.1)})
    accuracy.update(bright, X, Y)
    # up turns image 1 wrong and image 4 right, down turns image 2 wrong; image 4 is wrong without attack
    assert {name: value.item() for name, value in accuracy.compute().items()} == pytest.approx(
        {"clean": 0.8, "up": 0.8, "down": 0.6, "worst_case": 0.4}
    )


def test_being_wrong_without_attack_counts_in_the_worst_case():
    accuracy = AccuracyUnderAttack({"up": Shift(0.1)})
    accuracy.update(bright, X[4:], Y[4:])
    assert {name: value.item() for name, value in accuracy.compute().items()} == {"clean": 0, "up": 1, "worst_case": 0}


def test_images_that_are_not_counted_enter_no_sum():
    accuracy = AccuracyUnderAttack(Shift(0.1))
    accuracy.update(bright, X, Y, counted=torch.tensor([True, True, False, False, False]))
    assert accuracy.names == ("clean", "shift")
    assert accuracy.correct.tolist() == [2, 1, 1]
    assert accuracy.total == 2


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    net[2].eval()
    net[1].weight.requires_grad_(False)
    return net


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_left_as_it_was_found(context):
    net, x, y = network(), torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    before = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()]
    accuracy = AccuracyUnderAttack(PGD(steps=3, eps=0.3, step_size=0.1))
    with context():
        accuracy.update(net, x.clone(), y.clone())
    assert [module.training for module in net.modules()] == flags
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_predictions_are_made_in_evaluation_mode():
    net, x, y = network().train(), torch.rand(40, 1, 4, 4), torch.arange(40) % 3
    accuracy = AccuracyUnderAttack(FGSM(eps=0))
    accuracy.update(net, x, y)
    right = (copy.deepcopy(net).eval()(x).argmax(1) == y).float().mean()
    assert {name: value.item() for name, value in accuracy.compute().items()} == pytest.approx(
        {"clean": right.item(), "fgsm": right.item(), "worst_case": right.item()}
    )


def test_the_images_are_not_changed_even_by_a_model_that_works_in_place():
    x = X.clone()
    accuracy = AccuracyUnderAttack(Shift(0.1))
    with torch.inference_mode():
        inside = X.clone()
        accuracy.update(lambda images: bright(images.sub_(0.01)), inside, Y)
    accuracy.update(lambda images: bright(images.sub_(0.01)), x, Y)
    assert torch.equal(x, X) and torch.equal(inside, X)
    assert accuracy.correct.tolist() == [8, 8, 6]


@pytest.mark.parametrize(
    ("attacks", "error", "message"),
    [
        ({}, ValueError, "attacks must name at least one attack"),
        ({"clean": FGSM()}, ValueError, "the name 'clean' is that of images without attack"),
        ({"worst_case": FGSM()}, ValueError, "the name 'worst_case' is that of all attacks together"),
        ({"": FGSM()}, ValueError, "names must be a sequence"),
        ({"pgd": "PGD"}, TypeError, r"attacks\['pgd'\] must be an attack, called as attack\(model, x, y\), got 'PGD'"),
        ({"pgd": PGD(targeted=True)}, ValueError, r"attacks\['pgd'\] is targeted and would move images towards"),
    ],
)
def test_bad_attacks_are_named(attacks, error, message):
    with pytest.raises(error, match=message):
        AccuracyUnderAttack(attacks)


def test_bad_batches_are_named_before_anything_is_attacked():
    def never(model, x, y):
        raise AssertionError("attacked")

    accuracy = AccuracyUnderAttack({"never": never})
    with pytest.raises(TypeError, match=r"labels must be integer class indices, got torch.float32"):
        accuracy.update(bright, X, Y.float())
    with pytest.raises(ValueError, match=r"labels must have shape \(5,\)"):
        accuracy.update(bright, X, Y[:4])
    with pytest.raises(ValueError, match=r"counted must be a bool mask of shape \(5,\)"):
        accuracy.update(bright, X, Y, Y)
    with pytest.raises(ValueError, match=r"must have shapes \(N, K\) and \(N,\), got \(5,\) and \(5,\)"):
        accuracy.update(lambda x: x.flatten(1)[:, 0], X, Y)

"""How often an attack runs the model, and how often it waits for the device."""

import pytest
import torch

from lightning_advreg.attacks import FGSM, PGD

SYNCHRONISING = ["item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "cpu", "nonzero"]


class Counting:
    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, x):
        self.calls += 1
        return self.model(x)


@pytest.mark.parametrize(
    ("attack", "passes"),
    [
        (FGSM(), 1),
        (FGSM(random_start=True), 1),
        (FGSM(random_start=True, loss="kl"), 2),
        (PGD(steps=1), 1),
        (PGD(steps=7), 7),
        (PGD(steps=7, norm="l1", eps=2), 7),
        (PGD(steps=7, targeted=True), 7),
        # the clean logits are computed once, not at each step or restart
        (PGD(steps=7, loss="kl"), 8),
        (PGD(steps=7, loss="dlr"), 7),
        (PGD(steps=7, loss="dlr", targeted=True), 8),
    ],
    ids=repr,
)
def test_number_of_passes(net, batch, attack, passes):
    model = Counting(net)
    attack(model, *batch)
    assert model.calls == passes


@pytest.mark.parametrize(("loss", "clean"), [("ce", 0), ("kl", 1)])
def test_restarts_cost_a_pass_more_each_and_none_for_images_that_have_fallen(net, batch, loss, clean):
    x = batch[0]
    y = net(x).argmax(1)
    model = Counting(net)
    PGD(eps=1e-6, step_size=1e-7, steps=7, restarts=3, loss=loss)(model, x, y)
    assert model.calls == 3 * 8 + clean
    model.calls = 0
    PGD(eps=1e-6, step_size=1e-7, steps=7, restarts=3, loss=loss)(model, x, (y + 1) % 6)
    assert model.calls == 8 + clean


@pytest.fixture
def waits(monkeypatch):
    calls = []
    for name in SYNCHRONISING:
        original = getattr(torch.Tensor, name)

        def recorded(self, *args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, recorded)
    return calls


ATTACKS = {
    f"{norm}-{loss}-{'targeted' if targeted else 'untargeted'}": {"norm": norm, "loss": loss, "targeted": targeted}
    for norm in ("linf", "l2", "l1")
    for loss, targeted in (("ce", False), ("margin", True), ("dlr", True), ("kl", False))
}


@pytest.mark.parametrize("arguments", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("seed", [None, 1])
def test_an_unchecked_attack_never_waits_for_the_device(net, batch, waits, arguments, seed):
    PGD(**arguments, steps=4, seed=seed, check=False)(net, *batch)
    FGSM(**arguments, random_start=True, seed=seed, check=False)(net, *batch, eps=torch.rand(5))
    assert waits == []


@pytest.mark.parametrize("arguments", ATTACKS.values(), ids=ATTACKS)
def test_a_checked_attack_waits_once(net, batch, waits, arguments):
    PGD(**arguments, steps=4)(net, *batch)
    assert waits == ["tolist"]

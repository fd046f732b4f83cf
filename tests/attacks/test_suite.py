"""Attacks in stages: who is attacked by what, in which batches, and what it says."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import (
    APGD,
    FGSM,
    PGD,
    Alone,
    Attack,
    BoundedAttack,
    Square,
    attack_in_stages,
    evaluate,
)
from lightning_advreg.attacks.batch_size import fitting_batch_size, halving, largest_batch

from .stages import STAGES, Recording, network


class Sensitive(nn.Module):
    """Image i is wrong as soon as its first pixel exceeds its second by 0: distances to fall are known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2))

    def forward(self, x):
        return x.flatten(1)[:, :2] @ self.weight


def known(margins):
    """Images of class 1 whose margin to class 0 is given; Linf needs half of it."""
    x = torch.stack([torch.tensor([[[0.5 - m / 2, 0.5 + m / 2]]]) for m in margins])
    return x, torch.ones(len(margins), dtype=torch.long)


def test_each_stage_attacks_the_survivors_of_those_before():
    x, y = known([0.1, 0.3, 0.5, -0.1, 0.7])
    stages = {"small": FGSM(eps=0.1), "large": PGD(eps=0.3, step_size=0.1)}
    outcome = attack_in_stages(Sensitive(), x, y, stages)
    assert outcome.stage.tolist() == [0, 1, 1, -1, 2]
    assert outcome.clean.tolist() == [True, True, True, False, True]
    assert outcome.robust.tolist() == [False, False, False, False, True]
    assert (outcome.standing_after("small"), outcome.standing_after("large")) == (3, 1)
    assert outcome.names == ("small", "large") and all(second > 0 for second in outcome.seconds)
    # what withstood, and what was wrong anyway, comes back clean
    assert torch.equal(outcome.x_adv[3:], x[3:])
    assert (Sensitive()(outcome.x_adv[:3]).argmax(1) == 0).all()
    moved = (outcome.x_adv - x).abs().flatten(1).amax(1)
    assert moved[0] <= 0.1 + 1e-6 and (moved[1:3] > 0.1).all() and (moved[1:3] <= 0.3 + 1e-6).all()


def test_foreign_attacks_get_the_network_itself_and_batches_of_the_survivors():
    x, y = known([0.2 + 0.01 * i for i in range(10)])
    first, second = Recording(calls=[], bound=0.37), Recording(calls=[], bound=0.0)
    outcome = attack_in_stages(Sensitive(), x, y, {"first": first, "second": second}, batch_size=4, seed=3)
    assert [len(pixels) for _, pixels, _ in first.calls] == [4, 4, 2]
    fallen = (x[:, 0, 0, 0] < 0.37).sum().item()
    assert 0 < fallen < 10
    assert [len(pixels) for _, pixels, _ in second.calls] == [4] * ((10 - fallen) // 4) + [(10 - fallen) % 4]
    assert all(kind is Sensitive for kind, _, _ in first.calls)
    # every batch has random numbers of its own, and another seed has others
    drawn = [number for _, _, number in first.calls + second.calls]
    assert len(set(drawn)) == len(drawn)
    again, other = Recording(calls=[], bound=0.37), Recording(calls=[], bound=0.37)
    before = torch.get_rng_state()
    attack_in_stages(Sensitive(), x, y, {"again": again}, batch_size=4, seed=3)
    attack_in_stages(Sensitive(), x, y, {"other": other}, batch_size=4, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert [n for _, _, n in again.calls] == [n for _, _, n in first.calls] != [n for _, _, n in other.calls]
    assert outcome.standing_after("second") == 10 - fallen


@dataclass(frozen=True, kw_only=True)
class Cheating(BoundedAttack):
    """Leaves the ball, or the box."""

    far: float = 0.5

    def perturb(self, objective, feasible, factor):
        return objective.x + torch.tensor([self.far, -self.far])


@pytest.mark.parametrize(("far", "eps", "falls"), [(0.5, 0.1, False), (0.9, 1.0, False), (0.3, 0.3, True)])
def test_what_leaves_ball_or_box_does_not_count(far, eps, falls):
    x, y = known([0.1])
    outcome = attack_in_stages(Sensitive(), x, y, {"cheating": Cheating(eps=eps, far=far)})
    assert bool(outcome.robust) is not falls
    assert torch.equal(outcome.x_adv, x) is not falls


def test_targeted_stages_fall_where_the_target_is_reached():
    x, _ = known([0.1, 0.6, -0.2])
    outcome = attack_in_stages(
        Sensitive(), x, torch.zeros(3, dtype=torch.long), {"t": FGSM(eps=0.1, targeted=True)}, targeted=True
    )
    assert outcome.stage.tolist() == [0, 1, -1]


def test_the_model_is_left_as_it_was():
    model, x, y = network()
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attack_in_stages(model, x, y, STAGES)
    assert model.training and not model[1].training
    assert not model[0].weight.requires_grad and model[4].weight.requires_grad and model[4].weight.grad is None
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_without_gradients_around(context):
    model, x, y = network()
    expected = attack_in_stages(model, x, y, STAGES)
    with context():
        outcome = attack_in_stages(model, x.clone(), y.clone(), STAGES)
    assert torch.equal(outcome.stage, expected.stage) and 0 < outcome.robust.sum() < 40


def test_batch_size_changes_nothing_where_nothing_is_random():
    model, x, y = (part.double() if i < 2 else part for i, part in enumerate(network()))
    apgd = PGD(eps=0.02, step_size=0.005, steps=6, random_start=False)
    whole, parts = (attack_in_stages(model, x, y, {"a": apgd}, batch_size=size) for size in (40, 7))
    assert torch.equal(whole.stage, parts.stage)
    torch.testing.assert_close(whole.x_adv, parts.x_adv, atol=1e-9, rtol=0)


class OutOfMemory(Attack):
    """A device that takes no more than so many images."""

    def __init__(self, inner, most):
        self.inner, self.most, self.sizes = inner, most, []

    def __call__(self, model, x, y):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.inner(model, x, y)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost():
    model, x, y = network()
    inner = PGD(eps=0.02, step_size=0.005, steps=6, random_start=False)
    attack = OutOfMemory(inner, most=6)
    outcome = attack_in_stages(model, x, y, {"a": attack}, batch_size=20)
    # found once, and kept for later batches
    assert attack.sizes == [20, 10, 5, 5, 5, 5, 5, 5, 5, 5]
    assert torch.equal(outcome.stage, attack_in_stages(model, x, y, {"a": inner}).stage)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        attack_in_stages(model, x, y, {"a": OutOfMemory(inner, most=0)})


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="boom"):
        halving(lambda rows: (_ for _ in ()).throw(RuntimeError("boom")), torch.arange(4), 4)


def test_batch_sizes():
    assert largest_batch(1.0, 1e9) == 4096
    assert largest_batch(1e6, 1.5e6) == 1 and largest_batch(1e9, 1.0) == 1
    cpu = torch.device("cpu")
    assert fitting_batch_size(nn.Identity(), torch.rand(1, 3, 32, 32), cpu) == 128
    assert fitting_batch_size(nn.Identity(), torch.rand(1, 3, 224, 224), cpu) == 16
    assert fitting_batch_size(nn.Identity(), torch.rand(1, 1, 28, 28), cpu) == 501
    assert fitting_batch_size(nn.Identity(), torch.rand(1, 2), cpu) == 512


def test_messages():
    model, x, y = network()
    with pytest.raises(ValueError, match=r"stages must name at least one attack"):
        attack_in_stages(model, x, y, {})
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, or None"):
        attack_in_stages(model, x, y, STAGES, batch_size=0)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        attack_in_stages(model, x * 255, y, STAGES)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 5\), for 5 classes"):
        attack_in_stages(model, x, y + 1, STAGES)
    with pytest.raises(ValueError, match=r"batch_size must be an integer of at least 1"):
        APGD(batch_size=0)


def test_a_single_attack_runs_as_its_settings_say(tmp_path):
    model, x, y = network()
    attack = APGD(eps=0.02, steps=8, batch_size=16, checkpoint=str(tmp_path), seed=2)
    outcome = evaluate(attack, model, x, y)
    assert sorted(path.name for path in (tmp_path / "0_apgd").iterdir()) == ["000000.pt", "000001.pt", "000002.pt"]
    assert json.loads((tmp_path / "manifest.json").read_text())["seed"] == "2"
    assert torch.equal(attack(model, x, y), outcome.x_adv)
    assert Alone().gather(3) == [3]


def test_the_bar_shows_images_left_and_accuracy(capfd):
    model, x, y = network()
    outcome = attack_in_stages(model, x, y, STAGES, batch_size=16, progress=True)
    shown = capfd.readouterr().err
    left, end = outcome.standing_after("pgd"), outcome.standing_after("square")
    assert f"0 left, robust acc {100 * left / 40:.2f} %" in shown.split("square")[0]
    assert f"square: 100%|██████████| {left}/{left}" in shown and f"robust acc {100 * end / 40:.2f} %" in shown


@pytest.mark.filterwarnings("ignore:The search runs")
def test_a_model_that_draws_random_numbers_takes_none_of_the_callers():
    model, x, y = network()
    noisy = nn.Sequential(nn.Dropout(0.1), *model)
    noisy.forward = lambda images: model(images + 0.01 * torch.randn_like(images))
    before = torch.get_rng_state()
    evaluate(Square(eps=0.02, queries=3), noisy, x, y)
    assert torch.equal(torch.get_rng_state(), before)

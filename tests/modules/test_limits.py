"""The same hard limits in all three modules: enforced, reported, averaged, in low precision, saved."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from lightning_advreg import RegularizedClassifier
from lightning_advreg.callbacks import WeightAverage
from lightning_advreg.constraints import (
    AdaptiveBound,
    Budget,
    LipschitzReport,
    MagnitudePruning,
    MaxNorm,
    NonNegative,
    SpectralProjection,
    WeightClip,
    lipschitz_bound,
)
from lightning_advreg.modules.limits import Limits
from lightning_advreg.schedules import Ramp

from .parts import BUILDERS, ForeignNet, conv, digits, discriminator, every_constraint, gan, generator, trainer
from .test_resume import InterruptAtBatch, assert_same_run, run

# as they are, whatever a test puts in their place
MAKE = dict(BUILDERS)
every_module = pytest.mark.parametrize("kind", BUILDERS)


def build(kind, make=every_constraint, **settings):
    if kind == "gan":
        both = {f"{network}_constraints": make() for network in ("generator", "discriminator")}
        return gan(**{"n_critic": 1, **both, **settings})
    return MAKE[kind](**{"constraints": make(), **settings})


def limited(module):
    """The networks of a module, with their limits and the prefix of their reports."""
    if isinstance(module.limits, Limits):
        return [(module.network, module.limits, "train/constraint/")]
    networks = {"d": module.discriminator, "g": module.generator}
    return [(network, module.limits[key], f"train/{key}_constraint/") for key, network in networks.items()]


def kernels(network):
    return [p.detach() for p in network.parameters() if p.dim() > 1]


def assert_all_hold(module, sparsity):
    for network, limits, _ in limited(module):
        bound = limits.by_name["maxnorm"].bound
        for kernel in kernels(network):
            assert kernel.dtype == torch.float32
            assert kernel.abs().max() <= 0.5
            assert (kernel == 0).sum() >= math.floor(sparsity * kernel.numel())
            # the bound has moved since, by its rate at most
            assert kernel.flatten(1).norm(dim=1).max() <= bound.value * math.exp(0.1) * (1 + 1e-5)
            assert torch.linalg.svdvals(kernel.flatten(1))[0] <= 1.5 * 1.05


@every_module
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_all_limits_hold_together_after_training_and_are_reported(kind, precision):
    torch.manual_seed(0)
    module = build(kind)
    fitting = trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=0, precision=precision)
    fitting.fit(module, datamodule=digits())
    assert_all_hold(module, sparsity=0.4)
    logged = fitting.logged_metrics
    for network, _, prefix in limited(module):
        names = {
            **dict.fromkeys(("parseval", "spectralprojection", "maxnorm", "weightclip", "magnitudepruning"), "moved"),
            "budget": "parameters",
        }
        for name, what in names.items():
            assert 0 <= logged[f"{prefix}{name}/{what}"] <= 1
        assert logged[f"{prefix}budget/parameters"] == sum(p.numel() for p in network.parameters()) / 100_000
        # means over the steps of the last epoch, whose schedules have gone on
        assert 1.5 <= logged[f"{prefix}spectralprojection/bound"] < 1.75
        assert 0.4 < logged[f"{prefix}magnitudepruning/at_bound"] <= 0.5
        assert logged[f"{prefix}maxnorm/bound"] != pytest.approx(0.6)
        assert logged[f"{prefix}parseval/distance"] > 0


SEEN = []


@dataclass(frozen=True)
class Watched(MaxNorm):
    def project_(self, module, *, epoch=math.inf):
        projected = super().project_(module, epoch=epoch)
        SEEN.append((epoch, projected))
        return projected


@every_module
def test_reports_are_means_over_the_steps_of_an_epoch_and_know_the_time(kind):
    SEEN.clear()
    module = build(kind, lambda: [Watched(Ramp(epochs=2, start=0.8, end=0.4))])
    if kind == "gan":
        module = build(kind, lambda: [], discriminator_constraints=[Watched(Ramp(epochs=2, start=0.8, end=0.4))])
    fitting = trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=0)
    fitting.fit(module, datamodule=digits())
    # once before the first step, and after each
    assert [epoch for epoch, _ in SEEN] == pytest.approx([0, *(0.25 * step for step in range(1, 9))])
    prefix = limited(module)[0][2]
    last = [projected for _, projected in SEEN[5:]]
    for what in ("moved", "distance", "at_bound", "bound"):
        mean = torch.stack([getattr(projected, what) for projected in last]).mean().item()
        assert fitting.logged_metrics[f"{prefix}watched/{what}"].item() == pytest.approx(mean, rel=1e-5)
    assert fitting.logged_metrics[f"{prefix}watched/bound"] == pytest.approx(0.4 + 0.4 * (0.75 + 0.5 + 0.25) / 8)


@every_module
def test_a_run_stopped_within_an_epoch_goes_on_with_the_same_bits(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(BUILDERS, kind, partial(build, kind))
    whole = run(kind, tmp_path / "whole", {"datamodule": digits()}, seed=0)
    saving = {"every_n_train_steps": 1, "save_top_k": -1}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(kind, tmp_path / "part", {"datamodule": digits()}, seed=0, callbacks=[InterruptAtBatch(3)], **saving)
    last = tmp_path / "part" / "last.ckpt"
    resumed = run(kind, tmp_path / "rest", {"datamodule": digits()}, seed=99, ckpt_path=last)
    assert_same_run(whole, resumed)
    assert len(limited(whole[0])[0][1].state_dict()) > 5


@every_module
def test_a_checkpoint_rebuilds_constraints_with_what_they_carry(kind, tmp_path):
    module = build(kind)
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(module, datamodule=digits())
    fitting.save_checkpoint(tmp_path / "limits.ckpt")
    loaded = type(module).load_from_checkpoint(tmp_path / "limits.ckpt")
    for (_, limits, _), (_, again, _) in zip(limited(module), limited(loaded), strict=True):
        state, other = limits.state_dict(), again.state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)
        assert again.by_name["maxnorm"].bound.value != 0.6
        assert [type(each) for each in again.by_name.values()] == [type(each) for each in every_constraint()]
        assert again.by_name["weightclip"] == WeightClip(0.5)
        assert again.by_name["magnitudepruning"].sparsity == limits.by_name["magnitudepruning"].sparsity


def test_an_average_of_weights_meets_limits_that_are_convex_and_masks_that_stay():
    constraints = [
        SpectralProjection(1.0, exact=True),
        MaxNorm(0.6),
        WeightClip(0.3),
        NonNegative(pattern="features.*"),
        MagnitudePruning(0.5, pattern="classifier.*"),
    ]
    network = conv(norm="none")
    torch.manual_seed(0)
    module = RegularizedClassifier(network, constraints=constraints, optimizer=partial(torch.optim.SGD, lr=0.5))
    average = WeightAverage(decay=0.9, validate=False)
    trainer(max_epochs=2, callbacks=[average], limit_val_batches=0).fit(module, datamodule=digits())
    found = {name: value for name, value in average.average.values.items() if value.dim() > 1}
    raw = dict(module.named_parameters())
    assert found and not any(torch.equal(value, raw[name]) for name, value in found.items())
    for name, value in found.items():
        assert value.abs().max() <= 0.3 * (1 + 1e-6)
        assert value.flatten(1).norm(dim=1).max() <= 0.6 * (1 + 1e-6)
        assert torch.linalg.svdvals(value.flatten(1))[0] <= 1 + 1e-5
        if "classifier" in name:
            assert (value == 0).sum() >= value.numel() // 2
        else:
            assert value.min() >= 0


def test_the_lipschitz_bound_of_the_trained_network_is_reported():
    module = RegularizedClassifier(conv(norm="batch"), constraints=[LipschitzReport(image_shape=(1, 8, 8))])
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(module, datamodule=digits())
    bound = lipschitz_bound(module.network, torch.zeros(1, 1, 8, 8)).item()
    assert fitting.logged_metrics["train/constraint/lipschitzreport/bound"] == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ([Budget(layers=1)], r"network exceeds its budget: 2 layers used, 1 allowed"),
        ([MaxNorm(1.0, pattern="heads.*")], r"pattern 'heads\.\*' matches no parameter of Sequential"),
        ([LipschitzReport(image_shape=(1, 8, 8))], r"network has no Lipschitz bound: layer_norm is an operation"),
    ],
)
def test_what_no_training_could_meet_is_said_before_it_begins(constraints, message):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10))
    with pytest.raises(ValueError, match=message):
        RegularizedClassifier(network, constraints=constraints)


def test_constraints_that_carry_tensors_are_not_shared():
    bound = AdaptiveBound(1.0)
    with pytest.raises(ValueError, match=r"MaxNorm and WeightClip share one AdaptiveBound, which holds the state of"):
        RegularizedClassifier(ForeignNet(), constraints=[MaxNorm(bound), WeightClip(bound)])
    pruning = MagnitudePruning(0.5)
    with pytest.raises(ValueError, match=r"share one MagnitudePruning"):
        gan(generator=generator(), generator_constraints=[pruning], discriminator_constraints=[pruning])
    # those without are plain values
    clip = WeightClip(0.1)
    gan(discriminator=discriminator(), generator_constraints=[clip], discriminator_constraints=[clip])

"""Every penalty in every module: in half precision, with averaged weights, continued, and from checkpoints."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_advreg import RegularizedClassifier
from lightning_advreg.callbacks import WeightAverage
from lightning_advreg.penalties import (
    L1,
    L2,
    L2SP,
    ActivityL1,
    ConfidencePenalty,
    ElasticNet,
    GroupLasso,
    InputGradient,
    Jacobian,
    Orthogonality,
    SpectralNormPenalty,
)
from lightning_advreg.schedules import Ramp
from tests.modules.parts import (
    AtBatches,
    adversarial,
    conv,
    digits,
    discriminator,
    gan,
    generator,
    regularized,
    trainer,
)
from tests.modules.test_resume import StopAfterFirstEpoch, assert_same

KINDS = ["regularized", "adversarial", "gan"]
EPOCHS, BATCHES = 3, 2
each_kind = pytest.mark.parametrize("kind", KINDS)


def weight_penalties():
    """One of each kind, one with a schedule, and two of a kind that have a state."""
    return [
        L1(1e-3),
        L2(Ramp(epochs=2, end=0.1)),
        ElasticNet(1e-3, 1e-2),
        GroupLasso(1e-3),
        Orthogonality(1e-2, diagonal=False),
        SpectralNormPenalty(1e-2),
        L2SP(0.1),
        L2SP(Ramp(epochs=2, end=0.2), include_biases=True),
    ]


def image_penalties():
    return [InputGradient(0.1), Jacobian(0.01), ConfidencePenalty(0.1), ActivityL1(0.1, layers="features.*")]


def build(kind, **settings):
    if kind == "gan":
        both = [*weight_penalties(), ActivityL1(0.1, layers="*")]
        chosen = {"generator_penalties": both, "discriminator_penalties": both, "generator_constraints": ()}
        return gan(**{**chosen, "discriminator_constraints": (), **settings})
    make = adversarial if kind == "adversarial" else regularized
    return make(**{"penalties": [*weight_penalties(), *image_penalties()], "constraints": (), **settings})


def values(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Run(NamedTuple):
    model: LightningModule
    average: WeightAverage
    weights: list
    logged: list


def train(kind, folder, *, seed=0, callbacks=(), ckpt_path=None):
    seed_everything(seed, verbose=False)
    run = Run(build(kind), WeightAverage(decay=0.5, validate=False), [], [])
    run.weights.append(values(run.model))

    def see(trainer, module, batch):
        run.weights.append(values(module))
        run.logged.append({name: v.item() for name, v in trainer.callback_metrics.items() if "penalty" in name})

    fitting = trainer(
        max_epochs=EPOCHS,
        limit_train_batches=BATCHES,
        limit_val_batches=0,
        enable_checkpointing=True,
        default_root_dir=folder,
        callbacks=[run.average, AtBatches(see), *callbacks, ModelCheckpoint(folder, save_last=True)],
    )
    fitting.fit(run.model, datamodule=digits(augment=True), ckpt_path=ckpt_path, weights_only=True)
    return run


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    return {kind: (train(kind, folder := tmp_path_factory.mktemp(kind)), folder) for kind in KINDS}


@each_kind
def test_a_continued_run_has_the_same_penalties_and_ends_with_the_same_bits(kind, wholes, tmp_path):
    whole, _ = wholes[kind]
    train(kind, tmp_path, callbacks=[StopAfterFirstEpoch()])
    # another seed: other weights, which L2SP must not take for the start
    resumed = train(kind, tmp_path, seed=99, ckpt_path=tmp_path / "last.ckpt")
    assert_same(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    assert_same(resumed.average.state_dict(), whole.average.state_dict())
    assert len(resumed.logged) == (EPOCHS - 1) * BATCHES
    # a step without the generator shows the values of the one before, which a new process has not seen
    for ours, theirs in zip(resumed.logged[1:], whole.logged[BATCHES + 1 :], strict=True):
        assert ours == theirs
    assert any(name.endswith("l2sp_2") and value > 0 for name, value in resumed.logged[-1].items())


@each_kind
def test_checkpoints_rebuild_penalties_with_their_states(kind, wholes):
    whole, folder = wholes[kind]
    model = type(whole.model).load_from_checkpoint(folder / "last.ckpt")
    assert_same(dict(model.state_dict()), dict(whole.model.state_dict()))
    for ours, theirs in zip(_flat(model.penalties), _flat(whole.model.penalties), strict=True):
        if isinstance(theirs, torch.nn.Module):
            # what is rebuilt has the defaults among its arguments
            assert type(ours) is type(theirs) and ours.init_args.items() >= theirs.init_args.items()
            assert ours.begun == 1
        else:
            assert ours == theirs


def _flat(penalties):
    nested = [p.values() if isinstance(p, dict) else [p] for p in penalties.values()]
    return [penalty for some in nested for penalty in some]


@each_kind
def test_the_average_is_of_the_weights_alone_and_l2sp_keeps_its_start(kind, wholes):
    whole, _ = wholes[kind]
    expected = {name: value.double() for name, value in whole.weights[0].items()}
    for t, now in enumerate(whole.weights[1:], start=1):
        tau = min(0.5, (1 + t) / (10 + t))
        expected = {name: tau * value + (1 - tau) * now[name] for name, value in expected.items()}
    average = whole.average.average.weights
    assert average and not any("penalt" in name for name in average)
    for name, value in average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6)
    starts = {key: start for key, start in whole.model.state_dict().items() if "l2sp_2.of/" in key}
    assert len(starts) == len({key for key in whole.weights[0] if "ema" not in key})
    for key, start in starts.items():
        place, name = key.split(".l2sp_2.of/")
        network = {"g": "generator", "d": "discriminator"}.get(place.rpartition(".")[2], "network")
        assert torch.equal(start, whole.weights[0][f"{network}.{name.replace('/', '.')}"])


def without_chance(kind):
    seed_everything(0, verbose=False)
    if kind == "gan":
        return build(kind, generator=generator(), discriminator=discriminator(), instance_noise=0, n_critic=1)
    return build(kind, network=conv(norm="batch"))


@each_kind
def test_half_precision_changes_little(kind):
    logged = {}
    for precision in ("32-true", "bf16-mixed"):
        model, seen = without_chance(kind), []
        watch = AtBatches(lambda t, m, b, seen=seen: seen.append(dict(t.callback_metrics)))
        fitting = trainer(limit_train_batches=2, limit_val_batches=0, precision=precision, callbacks=[watch])
        fitting.fit(model, datamodule=digits())
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
        logged[precision] = [{name: v for name, v in now.items() if "penalty" in name} for now in seen]
    wide, half = logged.values()
    assert len(wide[0]) == (36 if kind == "gan" else 24) and wide[1].keys() == half[1].keys()
    for name, value in half[0].items():
        assert value.dtype == torch.float32
        on_images = any(part in name for part in ("gradient", "jacobian", "confidence", "activity"))
        torch.testing.assert_close(value, wide[0][name], rtol=0.3 if on_images else 0, atol=0)
    assert all(value.isfinite() for value in half[1].values())


def saved(penalties, folder):
    torch.manual_seed(0)
    model = RegularizedClassifier(conv(), penalties=penalties, optimizer=partial(torch.optim.SGD, lr=0.1))
    fitting = trainer(limit_train_batches=1, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint(folder / "last.ckpt")
    return model


def test_fine_tuning_takes_up_l2sp_at_the_weights_of_a_checkpoint_without_it(tmp_path):
    before = saved([L2(0.1)], tmp_path)
    model = RegularizedClassifier.load_from_checkpoint(tmp_path / "last.ckpt", penalties=[L2SP(0.1)])
    trainer(limit_train_batches=1, limit_val_batches=0).fit(model, datamodule=digits())
    assert torch.equal(model.penalties["l2sp"].memory("features.0.weight"), before.network.features[0].weight)
    assert not torch.equal(model.network.features[0].weight, before.network.features[0].weight)


def test_a_checkpoint_with_the_state_of_a_penalty_loads_without_the_penalty(tmp_path):
    before = saved([L2SP(0.1)], tmp_path)
    model = RegularizedClassifier.load_from_checkpoint(tmp_path / "last.ckpt", penalties=[])
    assert torch.equal(model.network.features[0].weight, before.network.features[0].weight)
    with pytest.raises(RuntimeError, match=r"network.features.0.weight is \(4, 1, 4, 4\) instead of \(2, 1, 4, 4\)"):
        RegularizedClassifier.load_from_checkpoint(tmp_path / "last.ckpt", penalties=[], network=conv(width=2))

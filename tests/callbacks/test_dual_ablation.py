"""NormAblation("dual"): statistics of clean and of attacked images, in training and out of it."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.attacks.worst_of import WorstOf
from lightning_advreg.callbacks import AdversarialTraining, NormAblation, RobustAccuracy, WeightAverage
from lightning_advreg.modules import Engine
from lightning_advreg.networks.dual_norm import clean_pass, dual_norms
from lightning_advreg.objectives import (
    ALP,
    GAT,
    HAT,
    LIET,
    MART,
    PGDAT,
    PGI,
    TRADES,
    AdversarialMixup,
    AverageOverAttacks,
    FreeAT,
    GradAlign,
    NuAT,
)
from lightning_advreg.perturbations import AWP

from .foreign import At, Foreign, loader, trainer

PLAIN = Engine(attack_copy=False)
SGD = partial(torch.optim.SGD, lr=0.1)


def network(seed=0):
    torch.manual_seed(seed)
    convolution, second = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(128, 2)
    # the first norm sees the images themselves
    return nn.Sequential(nn.BatchNorm2d(1), convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), second)


def module(objective=None, engine=PLAIN, **settings):
    attack = settings.pop("attack", FGSM(eps=0.1, random_start=True))
    objective = TRADES() if objective is None else objective
    return AdversarialClassifier(
        settings.pop("network", None) or network(), attack, objective, engine=engine, optimizer=SGD, **settings
    )


@dataclass(frozen=True)
class Recording(Attack):
    seen: list

    def __call__(self, model, x, y):
        x_adv = FGSM(eps=0.2)(model, x, y)
        self.seen.append(x_adv)
        return x_adv

    def maximising(self, loss):
        return self


def statistics_of(batches):
    norm = nn.BatchNorm2d(1)
    for x in batches:
        norm(x)
    return {name: norm.state_dict()[name] for name in ("running_mean", "running_var", "num_batches_tracked")}


def statistics(norm):
    return {name: norm.state_dict()[name] for name in ("running_mean", "running_var", "num_batches_tracked")}


@pytest.mark.parametrize(
    "objective", [PGDAT(clean_weight=0.5), TRADES(), MART(), ALP(), AverageOverAttacks(TRADES())], ids=repr
)
def test_each_half_has_seen_its_own_images_alone(tmp_path, objective):
    seen = []
    attack = Recording(seen)
    if isinstance(objective, AverageOverAttacks):
        attack = WorstOf([attack])
    model = module(objective, attack=attack)
    trainer(tmp_path, NormAblation("dual"), max_epochs=2).fit(model, loader(16))
    clean = [x for x, _ in loader(16)] * 2
    first = dual_norms(model.network)[0]
    assert len(seen) == len(clean) == 8
    for half, batches in ((first.clean, clean), (first.adversarial, seen)):
        for name, value in statistics_of(batches).items():
            torch.testing.assert_close(statistics(half)[name], value, rtol=0, atol=0)
    scales = [half.weight for half in (first.clean, first.adversarial)]
    assert not torch.equal(*scales), "each scale is trained on images of its own"


@pytest.mark.parametrize(
    "make", [NuAT, GAT, AdversarialMixup, lambda: HAT(network(1))], ids=["NuAT", "GAT", "AdversarialMixup", "HAT"]
)
def test_objectives_with_passes_of_their_own_mark_the_clean_one(tmp_path, make):
    model = module(make())
    trainer(tmp_path, NormAblation("dual")).fit(model, loader(16))
    first = dual_norms(model.network)[0]
    # HAT has helper images besides, which lie beyond the attacked ones
    expected = 8 if isinstance(model.objective, HAT) else 4
    assert (int(first.clean.num_batches_tracked), int(first.adversarial.num_batches_tracked)) == (4, expected)
    if not isinstance(model.objective, AdversarialMixup):
        wanted = statistics_of(x for x, _ in loader(16))
        assert torch.equal(first.clean.running_mean, wanted["running_mean"])


@pytest.mark.parametrize("make", [PGDAT, FreeAT, LIET, PGI, GradAlign, AverageOverAttacks])
def test_an_objective_without_clean_images_is_refused_before_training(tmp_path, make):
    with pytest.raises(ValueError, match=rf"{make.__name__} runs no pass of clean.*PGDAT\(clean_weight=0.5\), or use"):
        trainer(tmp_path, NormAblation("dual")).fit(module(make()), loader(16))


def test_training_that_cannot_tell_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match=r"nothing says so: train with AdversarialClassifier"):
        trainer(tmp_path, NormAblation("dual")).fit(RegularizedClassifier(network()), loader(16))
    with pytest.raises(RuntimeError, match=r"nothing says so: train with AdversarialClassifier"):
        trainer(tmp_path, NormAblation("dual"), AdversarialTraining(FGSM())).fit(Foreign(), loader(16))


def test_evaluate_is_checked():
    with pytest.raises(ValueError, match=r"evaluate='clean' has no effect with kind='group'; use it with kind='dual'"):
        NormAblation("group", evaluate="clean")
    with pytest.raises(ValueError, match=r"evaluate must be one of clean, adversarial; got 'both'"):
        NormAblation("dual", evaluate="both")


def fitted(tmp_path, model, epochs, **settings):
    run = trainer(tmp_path, NormAblation("dual"), max_epochs=epochs)
    run.fit(model, loader(16), **settings)
    run.save_checkpoint(tmp_path / f"{epochs}.ckpt")


def test_checkpoint_resume_and_both_evaluations(tmp_path):
    attack = PGD(eps=0.1, steps=2, seed=0)
    whole, half, resumed = module(attack=attack), module(attack=attack), module(attack=attack, network=network(5))
    fitted(tmp_path, half, 1)
    fitted(tmp_path, resumed, 2, ckpt_path=tmp_path / "1.ckpt", weights_only=True)
    fitted(tmp_path, whole, 2)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())

    file = tmp_path / "2.ckpt"
    found, (x, _) = {}, next(iter(loader(16)))
    for branch in ("clean", "adversarial"):
        tested = module(network=network(7))
        callbacks = NormAblation("dual", evaluate=branch), RobustAccuracy({"fgsm": FGSM(eps=0.1)})
        run = trainer(tmp_path, *callbacks)
        found[branch] = run.test(tested, loader(16, seed=3), ckpt_path=file, verbose=False, weights_only=True)[0]
        with clean_pass() if branch == "clean" else torch.no_grad():
            expected = whole.eval().network(x)
        torch.testing.assert_close(tested.eval()(x), expected)
    assert found["clean"]["test/loss"] != found["adversarial"]["test/loss"]
    loaded = AdversarialClassifier.load_from_checkpoint(file, network=network(9))
    torch.testing.assert_close(loaded.eval()(x), whole.eval()(x))
    with pytest.raises(ValueError, match=r"NormAblation\(kind='dual'\)"):
        trainer(tmp_path).test(module(), loader(16), ckpt_path=file, weights_only=True)


@pytest.mark.parametrize("settings", [{}, {"weight_perturbation": AWP(start_epoch=0)}], ids=["plain", "awp"])
def test_the_live_copy_trains_as_the_network_does(tmp_path, settings):
    models = []
    for engine in (Engine(), None):
        # without rounding that a sign could turn: a smooth step in L2
        model = module(engine=engine, attack=PGD(norm="l2", eps=0.5, step_size=0.2, steps=2, seed=0), **settings)
        alive = []
        at = At("on_train_batch_end", lambda _, m, alive=alive: alive.append(bool(m._copy and m._copy[0] is not None)))
        trainer(tmp_path, NormAblation("dual"), at).fit(model, loader(16))
        assert all(alive) == (engine is not None)
        models.append(model)
    fast, slow = (model.state_dict() for model in models)
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, atol=1e-4, rtol=1e-3)


def test_recomputed_statistics_of_averaged_weights_are_those_of_each_kind(tmp_path):
    model = module()
    average = WeightAverage(recompute_statistics=True, statistics_attack=FGSM(eps=0.1))
    trainer(tmp_path, NormAblation("dual"), average).fit(model, loader(16))
    batches = [x for x, _ in loader(16)]
    state = average.average.statistics
    mean = torch.stack([x.mean() for x in batches]).mean().view(1)
    clean, attacked = (state[f"network.0.{half}.running_mean"] for half in ("clean", "adversarial"))
    torch.testing.assert_close(clean, mean)
    assert not torch.allclose(attacked, mean, atol=1e-5)

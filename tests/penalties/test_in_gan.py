"""Penalties on the two networks of a GAN."""

from functools import partial

import pytest
import torch

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
from tests.modules.parts import FROZEN, AtBatches, discriminator, fit_gan, generator, plain_gan

SGD = partial(torch.optim.SGD, lr=0.5)
NAMES = {"d": "discriminator", "g": "generator"}
each_network = pytest.mark.parametrize("key", NAMES)


def build(**settings):
    torch.manual_seed(0)
    networks = {"generator": generator(), "discriminator": discriminator()}
    return plain_gan(**{**networks, "generator_optimizer": FROZEN, "discriminator_optimizer": FROZEN, **settings})


def run(model, **settings):
    seen = []
    torch.manual_seed(1)
    watch = AtBatches(lambda t, m, b: seen.append({name: v.item() for name, v in t.callback_metrics.items()}))
    fit_gan(model, **{"batches": 1, "precision": "64-true", "callbacks": [watch], **settings})
    return seen


def several():
    spectral = SpectralNormPenalty(0.02, iterations=100)
    return [L1(0.01), L2(0.02), ElasticNet(0.01, 0.02), GroupLasso(0.01), Orthogonality(0.02), spectral]


@each_network
def test_gradients_of_penalties_are_added_to_those_of_the_step(key):
    penalised = {f"{NAMES[key]}_penalties": [*several(), lambda network: 0.1 * next(network.parameters()).sum()]}
    results = []
    for settings in ({}, penalised):
        model = build(**settings, **{f"{NAMES[key]}_optimizer": SGD})
        start = {n: p.detach().double().clone() for n, p in getattr(model, NAMES[key]).named_parameters()}
        run(model)
        results.append(dict(getattr(model, NAMES[key]).named_parameters()))
    reference = getattr(build(), NAMES[key]).double()
    total = sum(penalty(reference) for penalty in several()) + 0.1 * next(reference.parameters()).sum()
    total.backward()
    plain, other = results
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(parameter.detach(), start[name])
        expected = plain[name].detach() - 0.5 * (0 if parameter.grad is None else parameter.grad)
        torch.testing.assert_close(other[name].detach(), expected, rtol=1e-6, atol=1e-8)


@each_network
def test_values_are_logged_weighted_and_raw_under_the_name_of_the_network(key):
    model = build(**{f"{NAMES[key]}_penalties": several()})
    (metrics,) = run(model)
    network = getattr(model, NAMES[key])
    for name, penalty in model.penalties[key].items():
        value = metrics[f"train/{key}_penalty/{name}"]
        assert value == pytest.approx(penalty(network).item(), rel=1e-5)
        if name != "elasticnet":
            assert value == pytest.approx(penalty.weight * metrics[f"train/{key}_penalty/{name}_raw"])
    other = "g" if key == "d" else "d"
    assert not any(name.startswith(f"train/{other}_penalty") for name in metrics)


@each_network
def test_activities_are_those_of_the_passes_that_the_step_has(key):
    passes, counts = [], []
    for penalties in ([], [ActivityL1(0.5, layers="*")]):
        model = build(**{f"{NAMES[key]}_penalties": penalties})
        network, count = getattr(model, NAMES[key]), []

        def see(module, args, count=count):
            count.append(1)
            if torch.is_grad_enabled() and all(p.requires_grad for p in module.parameters()):
                passes.append(args[0].detach().double())

        network.register_forward_pre_hook(see)
        passes.clear()
        metrics = run(model)[-1]
        counts.append(len(count))
    assert counts[0] == counts[1]
    # real and generated images to the discriminator, one batch of noise to the generator
    assert len(passes) == (2 if key == "d" else 1)
    seen = {name: [] for name, _ in network.named_modules() if name}
    for name, layer in network.named_modules():
        if name:
            layer.register_forward_hook(lambda m, a, output, name=name: seen[name].append(output.abs().mean()))
    for inputs in list(passes):
        network(inputs)
    # a container whose layers are called one by one has no output of its own
    expected = sum(torch.stack(means).mean().item() for means in seen.values() if means)
    assert metrics[f"train/{key}_penalty/activityl1_raw"] == pytest.approx(expected, rel=1e-6)
    assert metrics[f"train/{key}_penalty/activityl1"] == pytest.approx(0.5 * expected, rel=1e-6)


@each_network
def test_activities_are_differentiated(key):
    ends = []
    for penalties in ([], [ActivityL1(5, layers="*")]):
        model = build(**{f"{NAMES[key]}_penalties": penalties, f"{NAMES[key]}_optimizer": SGD})
        run(model)
        ends.append(next(getattr(model, NAMES[key]).parameters()).detach())
    assert (ends[0] - ends[1]).abs().max() > 1e-3


@each_network
def test_coefficients_follow_their_schedules_batch_by_batch(key):
    model = build(**{f"{NAMES[key]}_penalties": [L1(Ramp(epochs=2, end=1))]})
    seen = run(model, batches=3, epochs=2)
    found = [m[f"train/{key}_penalty/l1"] / m[f"train/{key}_penalty/l1_raw"] for m in seen]
    assert found == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6])


def test_each_network_has_a_start_of_its_own_though_the_penalty_is_one_object():
    shared = L2SP(1.0)
    model = build(
        generator_penalties=[shared], discriminator_penalties=[shared],
        generator_optimizer=SGD, discriminator_optimizer=SGD,
    )  # fmt: skip
    starts = {key: next(getattr(model, name).parameters()).detach().double() for key, name in NAMES.items()}
    run(model)
    for key, name in NAMES.items():
        first, parameter = next(getattr(model, name).named_parameters())
        assert torch.equal(model.penalties[key]["l2sp"].memory(first), starts[key])
        assert not torch.equal(parameter, starts[key])
    assert shared.begun == 0


@each_network
def test_squares_counted_twice_are_announced(key):
    decayed = partial(torch.optim.AdamW, weight_decay=0.05)
    model = build(**{f"{NAMES[key]}_penalties": [L2(0.1)], f"{NAMES[key]}_optimizer": decayed})
    with pytest.warns(UserWarning, match=r"squared weights count twice: in penalty 'l2' .*weight_decay=0\.05"):
        model.configure_optimizers()


@each_network
@pytest.mark.parametrize("penalty", [InputGradient(0.1), Jacobian(0.1), ConfidencePenalty(0.1)])
def test_penalties_that_need_classes_are_refused(key, penalty):
    with pytest.raises(TypeError, match=rf"{type(penalty).__name__} is for classifiers: it needs labels"):
        build(**{f"{NAMES[key]}_penalties": [penalty]})


@each_network
def test_names_that_match_nothing_are_refused_before_training(key):
    for penalty in (L1(0.1, pattern="head.*"), ActivityL1(0.1, layers="head.*")):
        with pytest.raises(ValueError, match=r"'head\.\*' matches no (parameter|layer) of MLP"):
            build(**{f"{NAMES[key]}_penalties": [penalty]})

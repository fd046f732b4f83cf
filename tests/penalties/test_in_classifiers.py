"""Penalties of every kind in the training steps of both classifiers."""

import copy
import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD, WorstOf
from lightning_advreg.modules import Engine
from lightning_advreg.objectives import PGDAT, TRADES, AdversarialMixup, AverageOverAttacks, FreeAT
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
    Penalty,
    SpectralNormPenalty,
)
from lightning_advreg.perturbations import AWP
from lightning_advreg.schedules import Piecewise, Ramp, Schedule
from tests.modules.parts import AtBatches, conv, digits, trainer

SGD = partial(torch.optim.SGD, lr=0.1)
ATTACK = PGD(eps=0.2, step_size=0.1, steps=2, random_start=False)
IMAGE_PENALTIES = {
    "gradient": InputGradient(0.4),
    "jacobian": Jacobian(0.05, projections=None),
    "confidence": ConfidencePenalty(0.3),
    "activity": ActivityL1(0.5, layers="features.*"),
}
each_image_penalty = pytest.mark.parametrize("name", IMAGE_PENALTIES)


def net():
    torch.manual_seed(0)
    return conv(norm="batch", activation="softplus").double()


def written_out(name, network, x, y):
    """The penalty at images x, in plain autograd."""
    x = x.clone().requires_grad_()
    if name == "activity":
        values = x
        total = 0
        for layer in network.features:
            values = layer(values)
            total = total + values.abs().mean()
        return 0.5 * total
    logits = network(x)
    if name == "confidence":
        return -0.3 * torch.distributions.Categorical(logits=logits).entropy().mean()
    if name == "gradient":
        grad = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x, create_graph=True)[0]
        return 0.4 * grad.square().sum() / len(x)
    rows = [torch.autograd.grad(logits[:, k].sum(), x, create_graph=True)[0] for k in range(10)]
    return 0.025 * sum(row.square().sum() for row in rows) / len(x)


def counted(model):
    """Count passes through the network that weights are differentiated through."""
    calls = []
    model.network.register_forward_hook(
        lambda m, i, o: calls.append(1) if torch.is_grad_enabled() and next(m.parameters()).requires_grad else None
    )
    return calls


def run(model, batches=2, **settings):
    seen = []
    fitting = trainer(
        limit_train_batches=batches,
        limit_val_batches=0,
        callbacks=[AtBatches(lambda t, m, b: seen.append(dict(t.callback_metrics)))],
        **{"precision": "64-true", **settings},
    )
    fitting.fit(model, datamodule=digits())
    return seen


def first_batches(count):
    module = digits()
    module.setup("fit")
    batches = iter(module.train_dataloader())
    return [next(batches) for _ in range(count)]


def literal(network, name, objective, attack=None, epochs=1):
    optimizer = SGD(network.parameters())
    for x, y in first_batches(2):
        x = x.double()
        images = x if attack is None else attack(network, x, y)
        # BatchNorm's statistics follow the passes of the loss alone
        twin = copy.deepcopy(network)
        for own, other in zip(network.parameters(), twin.parameters(), strict=True):
            other.data = own.data
        optimizer.zero_grad()
        loss, value = objective(network, x, images, y), written_out(name, twin, images, y)
        grads = torch.autograd.grad(value, list(twin.parameters()), allow_unused=True)
        loss.backward()
        for parameter, grad in zip(network.parameters(), grads, strict=True):
            parameter.grad += 0 if grad is None else grad
        optimizer.step()
    return network


def assert_same(model, reference):
    for (name, ours), theirs in zip(model.network.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@each_image_penalty
def test_regularised_training_equals_a_literal_loop_and_takes_no_pass_more(name):
    model = RegularizedClassifier(net(), penalties=[IMAGE_PENALTIES[name]], optimizer=SGD)
    reference, calls = copy.deepcopy(model.network), counted(model)
    run(model)
    assert len(calls) == 2
    assert_same(model, literal(reference, name, lambda n, x, images, y: F.cross_entropy(n(x), y)))
    plain = RegularizedClassifier(net(), optimizer=SGD)
    run(plain)
    assert not torch.allclose(plain.network.classifier[0].weight, model.network.classifier[0].weight, atol=1e-6)


@each_image_penalty
def test_adversarial_training_acts_on_attacked_images_and_takes_no_pass_more(name):
    model = AdversarialClassifier(
        net(), attack=ATTACK, objective=PGDAT(), penalties=[IMAGE_PENALTIES[name]], optimizer=SGD, engine=None
    )
    reference, calls = copy.deepcopy(model.network), counted(model)
    run(model)
    assert len(calls) == 2
    expected = literal(reference, name, lambda n, x, images, y: F.cross_entropy(n(images), y), ATTACK)
    assert_same(model, expected)


@pytest.mark.parametrize("name", ["gradient", "confidence"])
def test_trades_gives_the_attacked_logits_it_has(name):
    model = AdversarialClassifier(net(), attack=PGD(eps=0.2, steps=1), objective=TRADES(),
                                  penalties=[IMAGE_PENALTIES[name]])  # fmt: skip
    calls, handed = counted(model), []
    model.penalised_logits = lambda output: handed.append(output) or output.logits_adv
    run(model)
    assert len(calls) == 4 and all(output.logits_adv is not output.logits for output in handed)


@pytest.mark.parametrize("objective", [AdversarialMixup(), AverageOverAttacks()])
@pytest.mark.parametrize("name", ["gradient", "confidence"])
def test_objectives_without_logits_cost_one_pass_that_moves_no_statistics(objective, name):
    attack = WorstOf([ATTACK, ATTACK]) if isinstance(objective, AverageOverAttacks) else ATTACK
    counts = []
    for penalties in ([], [IMAGE_PENALTIES[name]]):
        torch.manual_seed(0)
        model = AdversarialClassifier(net(), attack=attack, objective=objective, penalties=penalties)
        calls = counted(model)
        run(model, batches=1)
        counts.append((len(calls), model.network.features[1].num_batches_tracked.item()))
    assert counts[1] == (counts[0][0] + 1, counts[0][1])
    value = model.trainer.callback_metrics[f"train/penalty/{type(IMAGE_PENALTIES[name]).__name__.lower()}"]
    assert value.isfinite() and value != 0


def test_free_adversarial_training_still_moves_its_perturbation():
    model = AdversarialClassifier(net(), attack=ATTACK, objective=FreeAT(replays=2), penalties=[InputGradient(0.1)])
    run(model)
    model.objective.get_extra_state()
    assert model.objective.delta.abs().max() > 0.1


@each_image_penalty
def test_a_weight_perturbation_leaves_them_out_of_the_climb_and_keeps_them_at_the_top(name):
    torch.manual_seed(0)
    model = RegularizedClassifier(
        net(), penalties=[IMAGE_PENALTIES[name]], weight_perturbation=AWP(gamma=0.05), optimizer=SGD
    )
    calls, before = counted(model), copy.deepcopy(model.network)
    run(model, batches=1)
    assert len(calls) == 2
    ((x, y),) = first_batches(1)
    twin, x = copy.deepcopy(before), x.double()
    climb = AWP(gamma=0.05).climb_(twin, lambda: F.cross_entropy(twin(x), y))
    total = F.cross_entropy(twin(x), y) + written_out(name, twin, x, y)
    grads = torch.autograd.grad(total, list(twin.parameters()))
    climb.back_()
    for start, grad, end in zip(before.parameters(), grads, model.network.parameters(), strict=True):
        torch.testing.assert_close(end.detach(), start.detach() - 0.1 * grad, rtol=1e-6, atol=1e-9)


def test_several_at_once_are_logged_weighted_and_raw():
    penalties = [*IMAGE_PENALTIES.values(), L2(0.1), ElasticNet(0.2, 0.4), GroupLasso(0.01), SpectralNormPenalty(0.01)]
    model = RegularizedClassifier(net(), penalties=[*penalties, lambda n: n.features[0].weight.sum()], optimizer=SGD)
    (metrics,) = run(model, batches=1)
    for name in model.penalties:
        value = metrics[f"train/penalty/{name}"]
        assert value.isfinite()
        if name == "<lambda>":
            assert f"train/penalty/{name}_raw" not in metrics
        elif name != "elasticnet":
            coefficient = model.penalties[name].weight
            torch.testing.assert_close(value, coefficient * metrics[f"train/penalty/{name}_raw"])
    squares = metrics["train/penalty/l2_raw"]
    absolutes = metrics["train/penalty/elasticnet_raw"] - squares
    torch.testing.assert_close(metrics["train/penalty/elasticnet"], 0.2 * absolutes + 0.4 * squares)


class Doubling(Schedule):
    def value(self, epoch):
        return 2.0**epoch if math.isfinite(epoch) else 0.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Ramp(epochs=2, end=1), [0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6]),
        (Piecewise(milestones=[(0, 3), (1, 5)]), [3, 3, 3, 5, 5, 5]),
        (Doubling(), [2 ** (i / 3) for i in range(6)]),
    ],
    ids=["ramp", "piecewise", "own"],
)
def test_coefficients_follow_their_schedules_batch_by_batch(schedule, expected):
    penalties = [L1(schedule), ElasticNet(0.0, schedule), L2SP(schedule), ConfidencePenalty(schedule)]
    model = RegularizedClassifier(net(), penalties=penalties, optimizer=SGD)
    seen = run(model, batches=3, max_epochs=2)
    for name in ("l1", "confidencepenalty"):
        found = [float(m[f"train/penalty/{name}"] / m[f"train/penalty/{name}_raw"]) for m in seen]
        assert found == pytest.approx(expected, rel=1e-6)
    found = [float(m["train/penalty/l2sp"]) for m in seen[1:]]
    raw = [float(m["train/penalty/l2sp_raw"]) for m in seen[1:]]
    assert found == pytest.approx([r * e for r, e in zip(raw, expected[1:], strict=True)]) and raw[0] > 0


@pytest.mark.parametrize("penalty", [InputGradient, Jacobian], ids=lambda p: p.__name__)
def test_expensive_gradients_are_not_computed_while_the_coefficient_is_zero(penalty, monkeypatch):
    asked = []
    monkeypatch.setattr(penalty, "term", lambda self, x, logits, y: asked.append(1) or logits.sum() * 0)
    model = RegularizedClassifier(net(), penalties=[penalty(Ramp(epochs=0, start_epoch=1))], optimizer=SGD)
    seen = run(model, batches=2, max_epochs=2)
    assert len(asked) == 2
    name = f"train/penalty/{penalty.__name__.lower()}"
    assert [float(metrics[name]) for metrics in seen] == [0, 0, 0, 0]


def test_called_outside_of_training_a_schedule_is_at_its_end_unless_an_epoch_is_given():
    penalty, layer = L2(Ramp(epochs=4, end=2)), nn.Linear(2, 2)
    torch.testing.assert_close(penalty(layer), L2(2)(layer))
    torch.testing.assert_close(penalty(layer, epoch=1), L2(0.5)(layer))
    torch.testing.assert_close(
        ConfidencePenalty(Ramp(epochs=4))(torch.zeros(1, 2), epoch=2), -torch.tensor(0.5) * math.log(2)
    )


def test_schedules_that_become_negative_are_refused():
    for make in (L1, L2SP, InputGradient, ConfidencePenalty, partial(ActivityL1, layers="*"), partial(ElasticNet, 1)):
        with pytest.raises(ValueError, match=r"(weight|l2) must be at least 0, got -1 from Ramp"):
            make(Ramp(epochs=2, end=-1))


@pytest.mark.parametrize(
    ("penalties", "decayed", "expected"),
    [
        ([L2(0.1)], "*", "'l2'"),
        ([ElasticNet(0, 0.1)], "*", "'elasticnet'"),
        ([L2(Ramp(epochs=2))], "*", "'l2'"),
        ([L2(0.1, pattern="features.*")], "features", "'l2'"),
        ([L2(0.1, pattern="classifier.*")], "features", None),
        ([ElasticNet(0.1, 0.0), L1(0.1), L2(0.0)], "*", None),
        ([L2SP(0.1), SpectralNormPenalty(0.1)], "*", None),
    ],
)
def test_squares_counted_twice_are_announced_only_for_weights_that_both_shrink(penalties, decayed, expected, recwarn):
    model = RegularizedClassifier(net(), penalties=penalties)
    groups = [
        {"params": list(model.network.features.parameters()), "weight_decay": 0.05},
        {"params": list(model.network.classifier.parameters()), "weight_decay": 0.05 if decayed == "*" else 0.0},
    ]
    model.optimizer = lambda parameters: torch.optim.SGD(groups, lr=0.1)
    model.configure_optimizers()
    told = [str(w.message) for w in recwarn if "count twice" in str(w.message)]
    assert [expected in text and "weight_decay=0.05" in text for text in told] == ([True] if expected else [])


@pytest.mark.parametrize(
    ("penalty", "compiles"),
    [(InputGradient(1), False), (Jacobian(1), False), (ActivityL1(1, layers="*"), False), (ConfidencePenalty(1), True),
     (L2(1), True), (SpectralNormPenalty(1), True), (lambda network: network.features[0].bias.sum(), True)],
)  # fmt: skip
def test_networks_are_not_compiled_under_double_backward_or_hooks(penalty, compiles):
    for build in (RegularizedClassifier, AdversarialClassifier):
        assert build(net(), penalties=[penalty], engine=Engine(compile=True))._compiles is compiles


def test_a_penalty_that_does_not_fit_the_network_is_refused_before_training():
    with pytest.raises(ValueError, match=r"pattern 'feature\.\*' matches no parameter of MNISTConvNet"):
        RegularizedClassifier(net(), penalties=[L1(0.1, pattern="feature.*")])
    with pytest.raises(ValueError, match="layers: 'relu' matches no layer"):
        AdversarialClassifier(net(), penalties=[ActivityL1(0.1, layers="relu")])
    with pytest.raises(TypeError, match=r"penalties must be penalties or functions .* got 0\.1"):
        RegularizedClassifier(net(), penalties=[0.1])


def test_nothing_of_a_step_is_held_afterwards():
    model = AdversarialClassifier(net(), attack=ATTACK, penalties=list(IMAGE_PENALTIES.values()))
    run(model, batches=1)
    assert model._images is None
    assert not any(layer._forward_hooks for layer in model.network.modules())


@dataclass(frozen=True)
class LogitSquares(Penalty):
    """A penalty of the user's own, on the logits of a step."""

    weight: float
    on_images = True

    def terms_of(self, training_pass):
        return (training_pass.logits().square().mean(),)


@pytest.mark.parametrize("objective", [None, PGDAT(), TRADES(), AdversarialMixup()])
def test_a_penalty_of_the_users_own_on_logits_works_with_every_objective(objective):
    penalties = [LogitSquares(0.5)]
    if objective is None:
        model = RegularizedClassifier(net(), penalties=penalties)
    else:
        model = AdversarialClassifier(net(), attack=PGD(eps=0.2, steps=1), objective=objective, penalties=penalties)
    (metrics,) = run(model, batches=1)
    value, raw = metrics["train/penalty/logitsquares"], metrics["train/penalty/logitsquares_raw"]
    assert raw > 0
    torch.testing.assert_close(value, 0.5 * raw)


def test_two_of_a_kind_act_on_their_own_layers():
    penalties = [L1(0.1, pattern="features.*"), L1(0.2, pattern="classifier.*"), L2SP(1, pattern="features.*"), L2SP(2)]
    model = RegularizedClassifier(net(), penalties=penalties, optimizer=SGD)
    assert list(model.penalties) == ["l1", "l1_2", "l2sp", "l2sp_2"]
    start = copy.deepcopy(model.network)
    (metrics,) = run(model, batches=1)
    for name, layers, weight in (("l1", start.features, 0.1), ("l1_2", start.classifier, 0.2)):
        expected = weight * sum(p.abs().sum() for p in layers.parameters() if p.dim() > 1)
        torch.testing.assert_close(metrics[f"train/penalty/{name}"], expected.detach())
    held = [{key for key in model.state_dict() if f".{name}.of/" in key} for name in ("l2sp", "l2sp_2")]
    assert held[0] and all("of/features" in key for key in held[0])
    assert any("of/classifier" in key for key in held[1])


@pytest.mark.parametrize(
    ("function", "given"),
    [(lambda n: n.classifier[0].bias.abs(), r"a tensor of shape \(8,\)"), (lambda n: 0.5, r"0\.5"), (print, "None")],
)
def test_a_function_that_gives_no_scalar_is_refused_by_name(function, given):
    model = RegularizedClassifier(net(), penalties=[function])
    with pytest.raises(TypeError, match=rf"penalty '.*' must give a scalar tensor, got {given}"):
        run(model, batches=1)

"""Properties of every attack of an evaluation, for images, budgets and batches of any kind."""

import contextlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_advreg.attacks import APGD, CW, FAB, FGSM, PGD, AutoAttack, DeepFool, LongAttack, Noise, Square

P = {"linf": torch.inf, "l2": 2, "l1": 1}
CLASSES = 4

FINITE = {
    "pgd": lambda **k: PGD(step_size=0.02, steps=3, seed=0, **k),
    "pgd-stop": lambda **k: PGD(step_size=0.02, steps=3, restarts=2, stop_at_success=True, seed=0, **k),
    "fgsm": lambda **k: FGSM(random_start=True, seed=0, **k),
    "apgd-ce": lambda **k: APGD(steps=6, **k),
    "apgd-dlr": lambda **k: APGD(steps=6, loss="dlr", restarts=2, **k),
    "apgd-t": lambda **k: APGD(steps=6, loss="dlr", targets=3, **k),
    "apgd-all": lambda **k: APGD(steps=6, stop_at_success=False, **k),
    "fab": lambda **k: FAB(steps=3, **k),
    "fab-t": lambda **k: FAB(steps=3, targets=2, restarts=2, **k),
    "square": lambda **k: Square(queries=8, **k),
    "noise": lambda **k: Noise(tries=2, seed=0, **k),
    "gaussian": lambda **k: Noise(tries=2, distribution="gaussian", seed=0, **k),
    "autoattack": lambda **k: AutoAttack(steps=3, queries=5, **k),
    "rand": lambda **k: AutoAttack(steps=2, version="rand", **k),
}
ONE_NORM = {
    "cw": ("l2", lambda **k: CW(steps=8, binary_search_steps=2, **k)),
    "deepfool": ("l2", lambda **k: DeepFool(steps=4, **k)),
    "deepfool-linf": ("linf", lambda **k: DeepFool(norm="linf", steps=4, **k)),
}
CASES = [(name, norm, make) for name, make in FINITE.items() for norm in P]
CASES += [(name, norm, make) for name, (norm, make) in ONE_NORM.items()]
every = pytest.mark.parametrize(("name", "norm", "make"), CASES, ids=[f"{name}-{norm}" for name, norm, _ in CASES])


def build(name, norm, make, eps):
    return make(eps=eps) if name in ONE_NORM else make(eps=eps, norm=norm)


def network(channels, size):
    torch.manual_seed(channels * 100 + size)
    model = nn.Sequential(
        nn.Conv2d(channels, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.Softplus(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(5 * size * (size + 1), CLASSES),
    )
    images = torch.rand(64, channels, size, size + 1)
    model(images)
    model.eval()
    with torch.no_grad():
        # no class wins by its mean alone, so that others are within reach
        model[5].bias -= model(images).mean(0)
    return model


def distance(x_adv, x, norm):
    return torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), P[norm], dim=1)


@every
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 3),
    size=st.integers(3, 6),
    eps=st.sampled_from([0.0, 0.001, 0.03, 0.4, 1.0]),
    kind=st.sampled_from(["uniform", "corners", "black", "white"]),
    seed=st.integers(0, 99),
)
def test_results_lie_in_ball_and_box_and_what_falls_is_wrong(name, norm, make, n, channels, size, eps, kind, seed):
    model = network(channels, size)
    torch.manual_seed(seed)
    x = torch.rand(n, channels, size, size + 1)
    x = {"uniform": x, "corners": x.round(), "black": x * 0, "white": x * 0 + 1}[kind]
    y = torch.randint(CLASSES, (n,))
    before = x.clone()
    x_adv = build(name, norm, make, eps)(model, x, y)
    assert torch.equal(x, before)
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (distance(x_adv, x, norm) <= eps * (1 + 1e-5) + 1e-6).all()
    if name in ("fab", "fab-t", "cw", "deepfool", "deepfool-linf"):
        # these give back nothing but successes
        moved = (x_adv != x).flatten(1).any(1)
        assert (model(x_adv).argmax(1) != y)[moved].all()


@every
@pytest.mark.parametrize("context", ["no_grad", "inference_mode", "autocast", "float16", "bfloat16"])
def test_contexts_and_dtypes(name, norm, make, context):
    model, x = network(2, 4), torch.rand(3, 2, 4, 5)
    y = model(x).argmax(1).detach()
    if context in ("float16", "bfloat16"):
        dtype = getattr(torch, context)
        model, x = model.to(dtype), x.to(dtype)
    with contextlib.ExitStack() as stack:
        if context == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        elif context in ("no_grad", "inference_mode"):
            stack.enter_context(getattr(torch, context)())
            x, y = x.clone(), y.clone()
        x_adv = build(name, norm, make, 0.1)(model, x, y)
    assert x_adv.dtype == x.dtype and not x_adv.is_inference()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (distance(x_adv, x, norm) <= 0.1 * (1 + 1e-5) + 1e-6).all()


@every
def test_model_and_random_generators_are_left_as_found(name, norm, make):
    model, x = network(3, 4), torch.rand(4, 3, 4, 5)
    y = model(x).argmax(1).detach()
    model.train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules = list(model)
    rng = torch.get_rng_state()
    attack = build(name, norm, make, 0.05)
    first = attack(model, x, y)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [child.training for child in model] == [True, False, True, True, True, True] and model.training
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True, True]
    assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight)) and model[0].weight.grad is None
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert list(model) == modules and not any(child._forward_hooks for child in model.modules())
    # the seed belongs to the attack, so another call gives the same
    torch.rand(3)
    assert torch.equal(attack(model, x, y), first)


DETERMINISTIC = {
    "fgsm": FGSM(eps=0.02),
    "pgd": PGD(eps=0.02, step_size=0.004, random_start=False, stop_at_success=True),
    "fab": FAB(steps=6),
    "fab-t": FAB(steps=6, targets=2),
    "fab-l1": FAB(norm="l1", steps=6, eps=0.5),
    "deepfool": DeepFool(steps=6),
    "cw": CW(steps=20, binary_search_steps=2, abort_early=False),
}


@pytest.mark.parametrize("attack", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_each_image_is_attacked_as_if_it_were_alone(attack):
    model, x = network(2, 4).double(), torch.rand(6, 2, 4, 5).double()
    y = model(x).argmax(1).detach()
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(6)])
    together = attack(model, x, y)
    torch.testing.assert_close(together, alone, atol=1e-8, rtol=0)
    assert not torch.equal(together, x)
    if isinstance(attack, LongAttack):
        parts = type(attack)(**{**vars(attack), "batch_size": 4})(model, x, y)
        torch.testing.assert_close(parts, alone, atol=1e-8, rtol=0)


@every
def test_a_function_is_a_model_too(name, norm, make):
    model, x = network(2, 4), torch.rand(3, 2, 4, 5)
    y = model(x).argmax(1).detach()
    x_adv = build(name, norm, make, 0.1)(lambda images: model(images), x, y)
    assert x_adv.shape == x.shape and (distance(x_adv, x, norm) <= 0.1 * (1 + 1e-5) + 1e-6).all()


def test_undefined_gradients_leave_defined_images():
    class Undefined(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            # the square root has no gradient at 0: 0 times infinity
            return torch.stack([flat.sum(1), 1 + (flat[:, 0] * 0).sqrt()], 1)

    x, y = torch.full((2, 1, 2, 2), 0.2), torch.ones(2, dtype=torch.long)
    for attack in (PGD(steps=2), APGD(steps=2), FAB(steps=2, eps=0.01), AutoAttack(steps=2, queries=2, version="rand")):
        x_adv = attack(Undefined(), x, y)
        assert x_adv.isfinite().all() and (x_adv - x).abs().max() <= 0.04

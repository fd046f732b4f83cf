"""What every attack keeps to, whatever the model, the mode and the dtype."""

import contextlib

import pytest
import torch

from lightning_advreg.attacks import FGSM, PGD

EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 3.0}
P = {"linf": torch.inf, "l2": 2, "l1": 1}


def pgd(norm="linf", **arguments):
    return PGD(norm=norm, eps=EPS[norm], step_size=EPS[norm] / 3, steps=4, **arguments)


ATTACKS = {
    "fgsm": FGSM(),
    "fgsm-random-start": FGSM(random_start=True),
    "fgsm-l2": FGSM(norm="l2", eps=0.5),
    "fgsm-l1": FGSM(norm="l1", eps=3.0),
    "pgd": pgd(),
    "pgd-no-start": pgd(random_start=False),
    "pgd-l2": pgd("l2"),
    "pgd-l1": pgd("l1"),
    "restarts": pgd(restarts=2),
    "restarts-l1": pgd("l1", restarts=2),
    "targeted": pgd(targeted=True),
    "margin": pgd(loss="margin"),
    "dlr": pgd("l2", loss="dlr"),
    "dlr-targeted": pgd(loss="dlr", targeted=True),
    "kl": pgd(loss="kl"),
    "kl-restarts": pgd(loss="kl", restarts=2),
    "train": pgd(model_mode="train"),
    "batch-stats-seeded": pgd(model_mode="batch_stats", seed=3),
}

every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def check_contract(attack, x, x_adv):
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and x_adv.device == x.device
    assert not x_adv.requires_grad and x_adv.grad_fn is None and not x_adv.is_inference()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    moved = torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), P[attack.norm], dim=1)
    assert (moved <= attack.eps + 1e-6).all()
    assert (moved > 0).all()


@every_attack
@pytest.mark.parametrize("context", ["plain", "no_grad", "inference_mode", "autocast", "autocast-inference"])
def test_result_is_feasible_in_every_context(net, batch, attack, context):
    x, y = batch
    x[0], x[1] = 0, 1  # images in corners of the box
    with contextlib.ExitStack() as stack:
        if "no_grad" in context:
            stack.enter_context(torch.no_grad())
        if "autocast" in context:
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        if "inference" in context:
            stack.enter_context(torch.inference_mode())
            x, y = x.clone(), y.clone()
            assert x.is_inference()
            net(x)  # fills autocast's cache of weights with inference tensors
        x_adv = attack(net, x, y)
        assert torch.is_inference_mode_enabled() == ("inference" in context)
        assert torch.is_grad_enabled() == (context in ("plain", "autocast"))
    check_contract(attack, x, x_adv)


@every_attack
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_result_is_feasible_in_the_dtype_of_the_images(net, batch, attack, dtype):
    x, y = batch[0].to(dtype), batch[1]
    x[0], x[1] = 0, 1
    check_contract(attack, x, attack(net.to(dtype), x, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_uses_the_budget(net, batch, dtype):
    # a result rounded down in steps of the dtype still moves by most of eps
    x = batch[0].to(dtype)
    x_adv = FGSM()(net.to(dtype), x, batch[1])
    free = (x > 0.05) & (x < 0.95)
    assert (x_adv.float() - x.float())[free].abs().mean() > 0.9 * 8 / 255


@every_attack
@pytest.mark.parametrize("layout", ["channels_last", "strided", "batch_last", "expanded"])
def test_memory_layout_does_not_matter(net, batch, attack, layout):
    x, y = batch
    if layout == "channels_last":
        laid_out = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        laid_out = torch.stack([x, -x], dim=-1)[..., 0]
    elif layout == "batch_last":
        laid_out = x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    else:
        x = x[:1].repeat(5, 1, 1, 1)
        laid_out = x[:1].expand(5, -1, -1, -1)
    assert layout == "channels_last" or not laid_out.is_contiguous()
    before = laid_out.clone()
    x_adv = attack(net, laid_out, y)
    check_contract(attack, x, x_adv)
    assert torch.equal(laid_out, before)
    if "random_start" in attack.__dict__ and not attack.random_start:
        torch.testing.assert_close(x_adv, attack(net, x, y), atol=1e-6, rtol=0)


def test_the_batch_given_is_not_changed(net, batch):
    x, y = batch
    x.requires_grad_()
    before = x.detach().clone(), y.clone()
    PGD()(net, x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert x.requires_grad and x.grad is None


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_eps_gives_the_images_back(net, batch, norm, dtype):
    x = batch[0].to(dtype)
    net = net.to(dtype)
    for attack in (FGSM(norm=norm, eps=0), FGSM(norm=norm, eps=0, step_size=0.1), PGD(norm=norm, eps=0, restarts=2)):
        assert torch.equal(attack(net, x, batch[1]), x)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl"])
@pytest.mark.parametrize("norm", EPS)
def test_the_loss_it_maximises_grows(net, batch, norm, loss):
    x, _ = batch
    with torch.no_grad():
        y = net(x).argmax(1)
        x_adv = pgd(norm, loss=loss)(net, x, y)
        clean, adversarial = net(x).log_softmax(1), net(x_adv).log_softmax(1)
        if loss == "kl":
            start = PGD(norm=norm, eps=EPS[norm], step_size=0, steps=1)(net, x, y)
            gained = [(clean.exp() * (clean - other)).sum(1) for other in (adversarial, net(start).log_softmax(1))]
            assert (gained[0] > 2 * gained[1]).all()
        else:
            own = y.unsqueeze(1)
            assert (adversarial.gather(1, own) < clean.gather(1, own)).all()


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("norm", EPS)
def test_a_targeted_attack_approaches_its_target(net, batch, norm, loss):
    x, _ = batch
    with torch.no_grad():
        target = (net(x).argmax(1) + 1 + torch.arange(5)) % 6
        x_adv = pgd(norm, loss=loss, targeted=True)(net, x, target)
        before, after = (torch.nn.functional.cross_entropy(net(z), target, reduction="none") for z in (x, x_adv))
    assert (after < before).all()


def test_images_are_attacked_independently(net, batch):
    x, y = batch[0].double(), batch[1]
    net = net.double()
    for norm in EPS:
        attack = pgd(norm, random_start=False)
        alone = torch.cat([attack(net, x[i : i + 1], y[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(attack(net, x, y), alone, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", EPS)
def test_a_budget_per_image_equals_separate_calls(net, batch, norm):
    x, y = batch[0].double(), batch[1]
    net = net.double()
    factors = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    fgsm = FGSM(norm=norm, eps=EPS[norm])
    for attack in (pgd(norm, random_start=False), fgsm):
        together = attack(net, x, y, eps=factors.double() * EPS[norm])
        for i, factor in enumerate(factors.tolist()):
            alone = attack.scaled(factor)(net, x[i : i + 1], y[i : i + 1])
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-9, rtol=0)
        assert torch.equal(together[0], x[0])


def test_a_budget_per_image_binds_with_random_starts(net, batch):
    x, y = batch
    eps = torch.tensor([0.0, 0.01, 0.02, 0.03, 0.1])
    for attack in (PGD(), PGD(restarts=2), FGSM(random_start=True)):
        moved = (attack(net, x, y, eps=eps) - x).flatten(1).abs().amax(1)
        torch.testing.assert_close(moved, eps, atol=1e-6, rtol=0)


def test_scaled_multiplies_budget_and_steps():
    half = PGD(eps="8/255", step_size="2/255", steps=7, loss="dlr").scaled(0.5)
    assert half == PGD(eps="4/255", step_size="1/255", steps=7, loss="dlr")
    assert FGSM(eps=0.2).scaled(0.5) == FGSM(eps=0.1)
    assert FGSM(eps=0.2, step_size=0.3).scaled(2) == FGSM(eps=0.4, step_size=0.6)
    with pytest.raises(ValueError, match=r"eps must be at least 0, got -0.1"):
        FGSM(eps=0.1).scaled(-1)


def test_fgsm_with_a_random_start_steps_one_and_a_quarter_eps():
    slope = torch.tensor([[1.0, -1.0, 1.0, -1.0]]).repeat(2000, 1)
    x, y = torch.full((2000, 4), 0.5), torch.zeros(2000, dtype=torch.long)

    def model(z):
        return torch.stack([-(z * slope).sum(1), (z * slope).sum(1)], 1)

    moved = (FGSM(eps=0.1, random_start=True)(model, x, y) - x) * slope
    # from U(-eps, eps) by 1.25 eps: those that started above -eps / 4 end at eps, the rest between eps / 4 and eps
    assert ((moved - 0.1).abs() < 1e-6).float().mean().item() == pytest.approx(0.625, abs=0.02)
    assert moved.min().item() == pytest.approx(0.025, abs=0.002)
    longer = (FGSM(eps=0.1, random_start=True, step_size=0.2)(model, x, y) - x) * slope
    torch.testing.assert_close(longer, torch.full_like(x, 0.1), atol=1e-6, rtol=0)

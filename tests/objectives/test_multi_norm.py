"""Training against several attacks at once: the average over them, and the worst of them."""

import copy

import jsonargparse
import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.attacks.worst_of import WorstOf
from lightning_advreg.objectives import PGDAT, Objective, ObjectiveOutput
from lightning_advreg.objectives.adversarial_mixup import AdversarialMixup
from lightning_advreg.objectives.alp import ALP
from lightning_advreg.objectives.average_over_attacks import AverageOverAttacks
from lightning_advreg.objectives.trades import TRADES

from ..modules.parts import ForeignNet, digits, trainer
from .test_pgd_at import literal_cross_entropy, literal_pgd
from .test_trades import assert_same, literal_kl, literal_kl_pgd


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    model(torch.rand(32, 1, 6, 6))
    return model.double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


LINF = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)
L2 = FGSM(norm="l2", eps=0.36)
BOTH = WorstOf([LINF, L2])


def literal_fgsm_l2(net, x, y):
    flags = [module.training for module in net.modules()]
    net.eval()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(leaf), y), leaf)
    for module, flag in zip(net.modules(), flags, strict=True):
        module.training = flag
    return torch.stack([(row + 0.36 * g / (g**2).sum().sqrt()).clamp(0, 1) for row, g in zip(x, gradient, strict=True)])


def test_average_over_attacks_equals_the_formula(net, batch):
    x, y = batch
    reference = copy.deepcopy(net)
    attacked = [literal_pgd(reference, x, y), literal_fgsm_l2(reference, x, y)]
    expected = sum(literal_cross_entropy(reference(x_adv), y, 0) for x_adv in attacked) / 2
    assert_same(AverageOverAttacks()(net, x, y, BOTH).loss, net, expected, reference)


def test_the_worst_of_attacks_equals_the_formula(net, batch):
    x, y = batch
    reference = copy.deepcopy(net)
    attacked = [literal_pgd(reference, x, y), literal_fgsm_l2(reference, x, y)]
    measured = copy.deepcopy(net).eval()
    chosen = []
    for i in range(len(x)):
        losses = [literal_cross_entropy(measured(x_adv[i : i + 1]), y[i : i + 1], 0).item() for x_adv in attacked]
        chosen.append(losses.index(max(losses)))
    assert set(chosen) == {0, 1}, "otherwise this test would show little"
    worst = torch.stack([attacked[member][i] for i, member in enumerate(chosen)])
    expected = literal_cross_entropy(reference(worst), y, 0)
    assert_same(PGDAT()(net, x, y, BOTH).loss, net, expected, reference)


def test_trades_averaged_over_attacks_equals_the_formula(net, batch):
    x, y = batch
    reference = copy.deepcopy(net)
    attacked = [literal_kl_pgd(reference, x, eps, step) for eps, step in ((0.1, 0.03), (0.2, 0.1))]
    expected = 0
    for x_adv in attacked:
        logits = reference(x)
        loss = literal_cross_entropy(logits, y, 0) + 6 * literal_kl(logits, reference(x_adv)).sum() / len(x)
        expected = expected + loss / 2
    attack = WorstOf([LINF, PGD(eps=0.2, step_size=0.1, steps=3, seed=0)])
    assert_same(AverageOverAttacks(TRADES())(net, x, y, attack).loss, net, expected, reference)


class Uneven(Objective):
    """Crafts one tensor for the first attack, two for the second, and so on."""

    def __init__(self):
        self.count = 0

    def craft(self, model, x, y, attack):
        self.count += 1
        return (attack(model, x, y),) * self.count

    def loss(self, model, x, y, crafted):
        return ObjectiveOutput(len(crafted) * crafted[0].sum())


def test_every_member_gets_back_what_it_crafted(net, batch):
    x, y = batch
    crafted = AverageOverAttacks(Uneven()).craft(net, x, y, BOTH)
    assert all(isinstance(tensor, torch.Tensor) and not tensor.requires_grad for tensor in crafted)
    attacked = [attack(net, x, y) for attack in BOTH.attacks]
    assert torch.equal(crafted[0], attacked[0])
    loss = AverageOverAttacks(Uneven()).loss(net, x, y, crafted).loss
    torch.testing.assert_close(loss, (attacked[0].sum() + 2 * attacked[1].sum()) / 2)


@pytest.mark.parametrize("objective", [PGDAT(), TRADES(), AdversarialMixup(), ALP()])
def test_the_loss_is_the_same_twice(net, batch, objective):
    attack = WorstOf([LINF, PGD(norm="l2", eps=0.5, step_size=0.2, steps=2, seed=1)])
    average = AverageOverAttacks(objective)
    crafted = average.craft(net, *batch, attack)
    first = average.loss(net, *batch, crafted).loss
    assert first.isfinite()
    assert torch.equal(first, average.loss(net, *batch, crafted).loss)


def test_the_logits_handed_on_are_those_of_the_worst_attack(net, batch):
    x, y = batch
    net.eval()
    output = AverageOverAttacks(ALP())(net, x, y, BOTH)
    torch.testing.assert_close(output.logits, net(x))
    torch.testing.assert_close(output.logits_adv, net(BOTH(net, x, y)))
    assert not output.logits_adv.requires_grad
    assert AverageOverAttacks()(net, x, y, BOTH).logits is None
    assert AverageOverAttacks(AdversarialMixup())(net, x, y, BOTH).logits_adv is None


@pytest.mark.parametrize("attack", [LINF, lambda model, x, y: x])
def test_a_single_attack_is_refused(net, batch, attack):
    with pytest.raises(TypeError, match=r"AverageOverAttacks needs an attack that holds several, such as WorstOf\("):
        AverageOverAttacks()(net, *batch, attack)


def test_anything_with_attacks_will_do(net, batch):
    class Pair:
        attacks = (LINF, L2)

    expected = AverageOverAttacks()(net.eval(), *batch, BOTH).loss
    torch.testing.assert_close(AverageOverAttacks()(net, *batch, Pair()).loss, expected)


def test_a_scaled_attack_works(net, batch):
    x, y = batch
    net.eval()
    loss = AverageOverAttacks()(net, x, y, BOTH.scaled(0)).loss
    torch.testing.assert_close(loss, nn.functional.cross_entropy(net(x), y))


class Scheduled(Objective):
    replays = 3

    def __init__(self, weight=0.0):
        self.weight = weight

    def during(self, progress, step):
        return Scheduled(progress * step)

    def loss(self, model, x, y, crafted):
        return ObjectiveOutput(self.weight * crafted[0].mean())


def test_schedules_and_replays_are_those_of_the_objective(net, batch):
    x, y = batch
    average = AverageOverAttacks(Scheduled())
    assert average.replays == 3
    now = average.during(0.5, 10)
    assert isinstance(now, AverageOverAttacks) and now.replays == 3
    expected = 5 * sum(attack(net, x, y).mean() for attack in BOTH.attacks) / 2
    torch.testing.assert_close(now(net, x, y, BOTH).loss, expected)
    assert average.objective.weight == 0
    constant = AverageOverAttacks()
    assert constant.during(0.5, 10) is constant


def test_number_of_passes(net, batch):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    AverageOverAttacks()(net, *batch, BOTH)
    assert len(calls) == (3 + 1) + (1 + 1)


def test_under_autocast(net, batch):
    x, y = batch[0].float(), batch[1]
    with torch.autocast("cpu", torch.bfloat16):
        output = AverageOverAttacks(TRADES())(net.float(), x, y, WorstOf([LINF, LINF.scaled(0.5)]))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_saturated_network_gives_a_finite_loss():
    x, y = torch.rand(2, 1, 1, 3), torch.tensor([0, 1])
    attack = WorstOf([FGSM(), FGSM(norm="l2", eps=0.1)])
    for objective in (AverageOverAttacks(), AverageOverAttacks(ALP())):
        assert objective(lambda images: 1e4 * images.flatten(1), x, y, attack).loss.isfinite()


@pytest.mark.parametrize("objective", [AverageOverAttacks(), AverageOverAttacks(TRADES(beta=2)), TRADES()])
def test_it_trains_and_its_checkpoint_rebuilds_it(objective, tmp_path):
    attack = WorstOf([PGD(eps=0.2, step_size=0.1, steps=1), PGD(norm="l2", eps=1.0, step_size=0.5, steps=1)])
    model = AdversarialClassifier(ForeignNet(), attack=attack, objective=objective, eps_warmup_epochs=1)
    fitting = trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    assert 0 <= fitting.callback_metrics["train/robust_acc"] <= 1
    path = tmp_path / "last.ckpt"
    fitting.save_checkpoint(path)
    torch.load(path, weights_only=True)
    loaded = AdversarialClassifier.load_from_checkpoint(path, network=ForeignNet())
    assert loaded.attack == attack
    if isinstance(objective, AverageOverAttacks):
        assert isinstance(loaded.objective, AverageOverAttacks)
        assert loaded.objective.objective == objective.objective
    else:
        assert loaded.objective == objective


def test_the_average_reads_its_default_from_yaml():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    parsed = parser.parse_args([f"--objective={AverageOverAttacks.__module__}.AverageOverAttacks"])
    assert "lightning_advreg.objectives" in parser.dump(parsed)
    assert parser.instantiate_classes(parsed).objective.objective == PGDAT()

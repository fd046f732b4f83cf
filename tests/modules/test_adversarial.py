import pytest
import torch

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.objectives import Objective, ObjectiveOutput

from .parts import AtBatches, ForeignNet, conv, digits, trainer


class Recording(Objective):
    """Keep the attacks that training used."""

    def __init__(self):
        self.attacks = []

    def craft(self, model, x, y, attack):
        self.attacks.append(attack)
        return ()

    def loss(self, model, x, y, crafted):
        return ObjectiveOutput(torch.nn.functional.cross_entropy(model(x), y))


def attacks_of(attack, *, epochs, warmup, batches=4):
    objective, factors = Recording(), []
    model = AdversarialClassifier(ForeignNet(), attack=attack, objective=objective, eps_warmup_epochs=warmup)
    see = AtBatches(lambda t, m, batch: factors.append(t.callback_metrics.get("train/eps_factor")))
    fitting = trainer(max_epochs=epochs, limit_train_batches=batches, limit_val_batches=0, callbacks=[see])
    fitting.fit(model, datamodule=digits())
    return objective.attacks, [None if factor is None else float(factor) for factor in factors], model


def test_eps_grows_linearly_over_batches_and_stays():
    attack = PGD(eps=0.4, step_size=0.1, steps=1)
    attacks, factors, _ = attacks_of(attack, epochs=3, warmup=2)
    expected = [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1, 1, 1, 1]
    assert [a.eps for a in attacks] == pytest.approx([0.4 * f for f in expected])
    assert [a.step_size for a in attacks] == pytest.approx([0.1 * f for f in expected])
    assert factors[:8] == pytest.approx(expected[:8])


def test_a_warmup_may_end_within_an_epoch():
    attacks, _, _ = attacks_of(FGSM(eps=0.4), epochs=1, warmup=0.5)
    assert [a.eps for a in attacks] == pytest.approx([0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize("attack", [PGD(norm="l2", eps=1.0, step_size=0.5, seed=3), FGSM(eps=0.5, step_size=0.25)])
def test_half_way_the_attack_is_the_scaled_one(attack):
    attacks, _, model = attacks_of(attack, epochs=2, warmup=2)
    half = attack.scaled(0.5)
    used = attacks[4]
    names = [name for name in vars(half) if name != "check"]
    assert {name: getattr(used, name) for name in names} == {name: getattr(half, name) for name in names}
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    if getattr(attack, "seed", None) is not None:
        assert torch.equal(used(model, x, y), half(model, x, y))


def test_without_a_warmup_the_attack_is_the_users_in_every_step():
    attacks, factors, _ = attacks_of(PGD(eps=0.4, steps=1), epochs=1, warmup=0)
    assert {a.eps for a in attacks} == {0.4}
    assert factors == [None] * 4


def test_the_first_step_of_a_warmup_leaves_images_as_they_are():
    attacks, _, model = attacks_of(PGD(norm="l2", eps=0.4, steps=2), epochs=1, warmup=1)
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    assert torch.equal(attacks[0](model, x, y), x)
    assert not torch.equal(attacks[1](model, x, y), x)


def test_the_users_attack_is_not_touched():
    attack = PGD(eps=0.4, step_size=0.1, steps=1)
    copy = PGD(eps=0.4, step_size=0.1, steps=1)
    _, _, model = attacks_of(attack, epochs=1, warmup=1)
    assert attack == copy
    assert attack.check
    assert model.attack is attack


class Shift(Attack):
    """An attack of the user's own, without a budget."""

    def __call__(self, model, x, y):
        return (x + 0.1).clamp(max=1)


class Budgeted(Shift):
    def __init__(self, eps=0.1):
        self.eps = eps

    def scaled(self, factor):
        return Budgeted(self.eps * factor)


@pytest.mark.parametrize("attack", [Shift(), lambda model, x, y: x], ids=["attack", "function"])
def test_a_warmup_without_a_budget_is_refused_at_once(attack):
    message = f"{type(attack).__name__} has no `scaled` method, which a schedule of its eps needs; leave out eps_"
    with pytest.raises(TypeError, match=message):
        AdversarialClassifier(ForeignNet(), attack=attack, eps_warmup_epochs=1)


def test_attacks_of_the_users_own_train():
    attacks, _, _ = attacks_of(Shift(), epochs=1, warmup=0)
    assert [type(a) for a in attacks] == [Shift] * 4
    attacks, _, _ = attacks_of(Budgeted(0.4), epochs=1, warmup=1)
    assert [a.eps for a in attacks] == pytest.approx([0, 0.1, 0.2, 0.3])
    seen = []
    model = AdversarialClassifier(ForeignNet(), attack=lambda m, x, y: seen.append(len(x)) or x)
    trainer(limit_train_batches=2, limit_val_batches=0).fit(model, datamodule=digits())
    assert seen == [16, 16]


@pytest.mark.parametrize("warmup", [-1, "x", float("nan")])
def test_a_bad_warmup_is_refused(warmup):
    with pytest.raises(ValueError, match="eps_warmup_epochs must be"):
        AdversarialClassifier(ForeignNet(), eps_warmup_epochs=warmup)


@pytest.mark.parametrize("eps", [-0.1, "-8/255", "8:255", "1/0", None, True])
def test_a_bad_eps_is_refused(eps):
    with pytest.raises(ValueError, match="eps must be"):
        AdversarialClassifier(ForeignNet(), attack=PGD(eps=eps))


def test_adversarial_training_withstands_what_plain_training_does_not():
    attack = PGD(eps=0.15, step_size=0.05, steps=4)

    def robust(train_attack):
        torch.manual_seed(0)
        model = AdversarialClassifier(
            conv(width=8, hidden=32), attack=train_attack, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3)
        )
        data = digits(train_size=1000, batch_size=50, loader="resident")
        trainer(max_epochs=4, limit_val_batches=0).fit(model, datamodule=data)
        x, y = (torch.cat(part) for part in zip(*data.val_dataloader(), *data.test_dataloader(), strict=True))
        model.eval()
        return (model(attack(model, x, y)).argmax(1) == y).float().mean()

    assert robust(attack) > robust(FGSM(eps=0)) + 0.1

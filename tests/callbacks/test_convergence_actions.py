from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import FSDPStrategy
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR, SequentialLR, StepLR

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.attacks.nfgsm import NFGSM
from lightning_advreg.callbacks.convergence_actions import Repairs, lower_learning_rates
from lightning_advreg.callbacks.convergence_rules import Alarm

from .foreign import Foreign

COLLAPSE = Alarm("catastrophic_overfitting", 3, 30, "collapsed")


class Attacked(Foreign):
    """Like an AdversarialClassifier, as far as an action needs it."""

    def __init__(self, attack):
        super().__init__()
        self.attack = attack

    def use_attack(self, attack):
        self.attack = attack


def trainer_of(*optimizers, schedulers=(), callbacks=()):
    return SimpleNamespace(
        optimizers=list(optimizers),
        lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler) for scheduler in schedulers],
        should_stop=False,
        strategy=None,
        precision_plugin=Precision(),
        callbacks=list(callbacks),
    )


SCHEDULES = {
    "step": partial(StepLR, step_size=1, gamma=0.5),
    "lambda": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "one-cycle": partial(OneCycleLR, max_lr=0.4, total_steps=20),
    "cyclic": partial(CyclicLR, base_lr=0.1, max_lr=0.4, step_size_up=2),
    "sequential": lambda optimizer: SequentialLR(
        optimizer, [LambdaLR(optimizer, lambda step: 1 / (1 + step)), StepLR(optimizer, 1, 0.5)], [4]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*", "ignore:.*epoch parameter.*")
def test_lower_learning_rates_stay_low_along_the_schedule(name):
    def course(lower):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2, momentum=0.9)
        scheduler = SCHEDULES[name](optimizer)
        rates = []
        for i in range(8):
            if i == 2 and lower:
                lower_learning_rates(trainer_of(optimizer, schedulers=[scheduler]))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return rates

    plain, lowered = course(lower=False), course(lower=True)
    assert lowered[:2] == plain[:2]
    assert lowered[2:] == pytest.approx([0.1 * rate for rate in plain[2:]])


def test_learning_rates_that_are_tensors_stay_the_same_tensors():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=torch.tensor(0.2))
    rate = optimizer.param_groups[0]["lr"]
    lower_learning_rates(trainer_of(optimizer))
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.02)


def test_pgd2_and_nfgsm_take_budget_norm_and_loss_of_the_training_attack():
    attack = FGSM(eps=0.2, random_start=True, loss="margin", model_mode="train")
    module, repairs = Attacked(attack), Repairs("pgd2")
    answer = repairs.act(trainer_of(), module, COLLAPSE)
    assert module.attack == PGD(eps=0.2, step_size=0.1, steps=2, loss="margin", model_mode="train")
    assert not answer.went_back
    assert "Training goes on with PGD(" in answer.done[0]
    # a second collapse does not replace it again
    assert repairs.act(trainer_of(), module, COLLAPSE).done == ()
    l2 = Attacked(PGD(norm="l2", eps=0.5))
    Repairs("pgd2").act(trainer_of(), l2, COLLAPSE)
    assert (l2.attack.norm, l2.attack.step_size) == ("l2", 0.25)
    other = Attacked(attack)
    Repairs(["nfgsm"]).act(trainer_of(), other, COLLAPSE)
    assert other.attack == NFGSM(eps=0.2, loss="margin", model_mode="train")
    own = Attacked(None)
    Repairs(FGSM(eps=0.3)).act(trainer_of(), own, COLLAPSE)
    assert own.attack == FGSM(eps=0.3)


def test_a_replaced_attack_is_replaced_again_after_a_resume():
    repairs = Repairs("pgd2")
    repairs.act(trainer_of(), Attacked(FGSM(eps=0.2)), COLLAPSE)
    resumed, module = Repairs("pgd2"), Attacked(FGSM(eps=0.2))
    resumed.resume(trainer_of(), module)
    assert module.attack == FGSM(eps=0.2)
    resumed.load_state_dict(repairs.state_dict())
    resumed.resume(trainer_of(), module)
    assert module.attack == PGD(eps=0.2, step_size=0.1, steps=2)


@pytest.mark.parametrize(
    ("name", "acted"),
    [
        ("catastrophic_overfitting", ["Went", "Multiplied", "Training goes", "Training stops"]),
        ("non_finite_loss", ["Went", "Multiplied", "Training stops"]),
        ("start_plateau", ["Multiplied", "Training stops"]),
        ("robust_overfitting", ["Training stops"]),
        ("zero_gradients", ["Training stops"]),
        ("unscheduled_group", []),
    ],
)
def test_which_action_answers_which_alarm(name, acted):
    module = Attacked(FGSM(eps=0.1))
    trainer = trainer_of(torch.optim.SGD(module.parameters(), lr=0.1))
    repairs = Repairs(["warn", "stop", "lower_lr", "pgd2", "rollback"])
    repairs.keep(trainer, module, "epoch 0")
    answer = repairs.act(trainer, module, Alarm(name, 0, 0, ""))
    assert [sentence.startswith(start) for sentence, start in zip(answer.done, acted, strict=True)] == [True] * len(
        acted
    )
    assert trainer.should_stop == answer.stopped == ("Training stops" in acted)
    assert answer.went_back == ("Went" in acted)


def test_stop_and_rollback_end_robust_overfitting_at_the_best_moment():
    module = Attacked(FGSM(eps=0.1))
    run = trainer_of(torch.optim.SGD(module.parameters(), lr=0.1))
    alarm = Alarm("robust_overfitting", 0, 0, "")
    weight = module.network[0].weight.data
    for actions, done, left in [
        (["rollback", "stop"], ("Went back to epoch 1.", "Training stops."), 1.0),
        (["rollback"], (), 3.0),
        (["stop"], ("Training stops.",), 3.0),
    ]:
        repairs = Repairs(actions)
        for epoch, best in enumerate([True, True, False]):
            weight.fill_(epoch)
            repairs.keep(run, module, f"epoch {epoch}", best=best)
        # the checkpoint holds both moments
        resumed = Repairs(actions)
        resumed.load_state_dict(repairs.state_dict())
        weight.fill_(3.0)
        assert resumed.act(run, module, alarm).done == done
        assert (weight == left).all()
        assert resumed.snapshot is None or resumed.snapshot.label == "epoch 2"


def test_a_moment_that_is_last_and_best_is_stored_once():
    module = Foreign()
    repairs, resumed = Repairs(["rollback", "stop"]), Repairs(["rollback", "stop"])
    repairs.keep(trainer_of(), module, "epoch 0", best=True)
    assert repairs.state_dict()["best"] is None
    resumed.load_state_dict(repairs.state_dict())
    assert resumed.best is resumed.snapshot
    assert resumed.best.label == "epoch 0"


def test_only_rollback_keeps_copies():
    module = Foreign()
    trainer = trainer_of(torch.optim.SGD(module.parameters(), lr=0.1))
    repairs = Repairs(["stop", "lower_lr"])
    repairs.keep(trainer, module, "epoch 0")
    assert repairs.snapshot is None


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        ("rollbak", ValueError, "action must be one of warn, stop, rollback, lower_lr, pgd2, nfgsm, .* got 'rollbak'"),
        (["stop", "halt"], ValueError, "got 'halt'"),
        (3, TypeError, "action must be a name such as 'rollback', or an attack, got 3"),
        (["pgd2", FGSM()], ValueError, "one attack at most can replace"),
    ],
)
def test_bad_actions(action, error, message):
    with pytest.raises(error, match=message):
        Repairs(action)


def test_impossible_actions_are_refused():
    with pytest.raises(TypeError, match="action 'pgd2' replaces the training attack, and Foreign has no method"):
        Repairs("pgd2").check(trainer_of(), Foreign())
    with pytest.raises(ValueError, match="takes its budget from the training attack, and NoneType has none"):
        Repairs("nfgsm").check(trainer_of(), Attacked(None))
    with pytest.raises(ValueError, match="norm must be 'linf', in which N-FGSM is defined"):
        Repairs("nfgsm").check(trainer_of(), Attacked(PGD(norm="l2", eps=1)))
    trainer = trainer_of()
    trainer.strategy = FSDPStrategy()
    with pytest.raises(ValueError, match="action 'rollback' cannot collect weights that FSDPStrategy has distributed"):
        Repairs("rollback").check(trainer, Foreign())
    with pytest.raises(
        ValueError, match=r"cannot bring back the average that EMAWeightAveraging keeps, .* WeightAverage"
    ):
        Repairs("rollback").check(trainer_of(callbacks=[EMAWeightAveraging()]), Foreign())
    Repairs("stop").check(trainer_of(callbacks=[EMAWeightAveraging()]), Foreign())

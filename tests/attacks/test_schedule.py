"""Attacks that change during training."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

import lightning_advreg.attacks as attacks
from lightning_advreg.attacks import CW, FAB, FGSM, NFGSM, PGD, Attack, AttackSchedule, DeepFool, WorstOf
from lightning_advreg.attacks.schedule import given_schedule
from lightning_advreg.attacks.variants import unchecked
from lightning_advreg.schedules import Constant, Piecewise, Ramp, Schedule

PLAIN = PGD(eps=0.4, step_size=0.1, steps=10)


class Counted(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x):
        self.calls += 1
        return self.net(x)


# the attack of a moment


def test_the_factor_scales_budget_and_step_size():
    schedule = AttackSchedule(eps_factor=Ramp(epochs=4, start=0.5, end=2))
    halved, doubled = schedule.at(PLAIN, 0), schedule.at(PLAIN, 4)
    assert (halved.eps, halved.step_size, halved.steps) == pytest.approx((0.2, 0.05, 10))
    assert (doubled.eps, doubled.step_size, doubled.steps) == pytest.approx((0.8, 0.2, 10))


def test_at_factor_one_it_is_the_attack_itself():
    assert AttackSchedule(eps_factor=Ramp(epochs=4)).at(PLAIN, 4.5) is PLAIN


@pytest.mark.parametrize(("number", "steps"), [(0.5, 1), (1.49, 1), (1.5, 2), (2.5, 3), (3, 3), (0.49, 0)])
def test_steps_are_rounded_to_the_nearest_and_keep_their_size(number, steps):
    schedule = AttackSchedule(steps=Constant(number))
    assert schedule.values(3.0) == {"attack_steps": steps}
    if steps:
        assert schedule.at(PLAIN, 3.0) == dataclasses.replace(PLAIN, steps=steps)


def test_both_change_together():
    schedule = AttackSchedule(eps_factor=Constant("1/2"), steps=Piecewise(milestones=[(0, 1), (2, 7)]))
    assert schedule.at(PLAIN, 2.25) == PGD(eps=0.2, step_size=0.05, steps=7)
    assert schedule.values(1.75) == {"eps_factor": 0.5, "attack_steps": 1}


@pytest.mark.parametrize("attack", [DeepFool(eps=1), CW(eps=1), FAB(eps=1), attacks.APGD(), attacks.AutoAttack()])
def test_all_attacks_with_steps_follow(attack):
    assert AttackSchedule(steps=Constant(3)).at(attack, 0) == dataclasses.replace(attack, steps=3)


def test_every_member_of_worst_of_follows():
    attack = WorstOf([PLAIN, PGD(norm="l2", eps=1, step_size=0.5, steps=5)])
    schedule = AttackSchedule(eps_factor=Constant(0.5), steps=Constant(2))
    members = [PGD(eps=0.2, step_size=0.05, steps=2), PGD(norm="l2", eps=0.5, step_size=0.25, steps=2)]
    assert schedule.at(attack, 1) == WorstOf(members)
    with pytest.raises(TypeError, match="FGSM has no number of steps to schedule"):
        schedule.check(WorstOf([PLAIN, FGSM()]))


# clean moments


@pytest.mark.parametrize(
    "schedule", [AttackSchedule(eps_factor=Constant(0)), AttackSchedule(steps=Constant(0.25))], ids=["factor", "steps"]
)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_images_stay_as_they_are_without_a_pass(net, batch, schedule, norm):
    x, y = batch
    model = Counted(net)
    state = torch.get_rng_state()
    x_adv = schedule.at(unchecked(PGD(norm=norm, eps=1.0, step_size=0.5, steps=4)), 0)(model, x, y)
    assert x_adv.equal(x) and x_adv.data_ptr() != x.data_ptr()
    assert model.calls == 0 and torch.get_rng_state().equal(state)


def test_a_clean_moment_keeps_what_objectives_ask_of_an_attack():
    attack = AttackSchedule(steps=Constant(0)).at(WorstOf([PGD(norm="l2", eps=0.5, model_mode="train")]), 0)
    (member,) = attack.maximising("kl").attacks
    assert (member.norm, member.radius, member.model_mode, member.loss) == ("l2", 0.0, "train", "kl")


def test_a_budget_of_zero_is_no_reason_to_skip_a_check(net, batch):
    x, y = batch
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        FGSM(eps=0)(net, 2 * x, y)
    # budgets per image win over one of zero
    assert not FGSM(eps=0, step_size=0.1, check=False)(net, x, y, eps=torch.full((5,), 0.1)).equal(x)


def test_an_attack_that_leaves_its_ball_moves_at_a_budget_of_zero(net, batch):
    x, y = batch
    assert (NFGSM(eps=0, step_size=0.1, check=False)(net, x, y) - x).abs().max() > 0.05
    assert AttackSchedule(eps_factor=Constant(0)).at(NFGSM(eps=0.3, step_size=0.1), 0)(net, x, y).equal(x)


# what is refused


def test_attacks_that_cannot_follow_are_named():
    steps, factor = AttackSchedule(steps=Ramp(epochs=3, start=1, end=5)), AttackSchedule(eps_factor=Ramp(epochs=3))
    remedy = r"has no number of steps to schedule; use PGD, leave `steps` out .* method `with_steps\(steps\)`"
    for attack in (FGSM(), NFGSM(), attacks.Square(), attacks.Noise(), lambda model, x, y: x):
        with pytest.raises(TypeError, match=f"{type(attack).__name__} {remedy}"):
            steps.check(attack)
    with pytest.raises(TypeError, match=r"CW\(eps=None\) has no budget to scale; give it an eps"):
        factor.check(CW())
    steps.check(CW())
    # no steps at all mean a budget of zero
    with pytest.raises(TypeError, match="has no budget to scale"):
        AttackSchedule(steps=Ramp(epochs=3, start=0.25, end=5)).check(CW())


class Own(Attack):
    """An attack of the user's own that follows."""

    def __init__(self, eps=0.1, steps=2):
        self.eps, self.steps = eps, steps

    def __call__(self, model, x, y):
        return x

    def scaled(self, factor):
        return Own(self.eps * factor, self.steps)

    def with_steps(self, steps):
        return Own(self.eps, steps)


def test_attacks_of_the_users_own_follow_by_their_methods():
    schedule = AttackSchedule(eps_factor=Constant(3), steps=Constant(5))
    schedule.check(Own())
    assert vars(schedule.at(Own(), 0)) == {"eps": pytest.approx(0.3), "steps": 5}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "AttackSchedule schedules nothing; give it eps_factor, steps or both"),
        ({"eps_factor": 0.5}, TypeError, r"eps_factor must be a schedule, such as Ramp\(epochs=5\) .* got 0.5"),
        ({"steps": Ramp(epochs=2, start=-1)}, ValueError, r"steps must be at least 0, got -1 from Ramp\("),
        ({"eps_factor": Constant(-0.5)}, ValueError, r"eps_factor must be at least 0, got -0.5 from Constant\("),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        AttackSchedule(**arguments)


@dataclass(frozen=True)
class Falling(Schedule):
    def value(self, epoch):
        return 1 - epoch


def test_a_schedule_of_ones_own_is_checked_as_it_goes():
    for name in ("eps_factor", "steps"):
        schedule = AttackSchedule(**{name: Falling()})
        schedule.check(PLAIN)
        assert schedule.at(PLAIN, 0) == dataclasses.replace(PLAIN, steps=1 if name == "steps" else 10)
        with pytest.raises(ValueError, match=f"{name} at epoch 1.5 must be at least 0, got -0.5"):
            schedule.at(PLAIN, 1.5)


def test_the_two_forms():
    schedule = AttackSchedule(steps=Constant(3))
    assert given_schedule(None, 0, FGSM()) is None
    assert given_schedule(schedule, 0.0, PLAIN) is schedule
    assert given_schedule(None, "5/2", PLAIN) == AttackSchedule(eps_factor=Ramp(epochs=2.5))
    with pytest.raises(
        ValueError, match=r"eps_warmup_epochs=2 and attack_schedule=AttackSchedule\(.* give the schedule"
    ):
        given_schedule(schedule, 2, PLAIN)
    with pytest.raises(TypeError, match=r"attack_schedule must be an AttackSchedule, such as .* got Ramp\("):
        given_schedule(Ramp(epochs=2), 0, PLAIN)
    with pytest.raises(TypeError, match="FGSM has no number of steps"):
        given_schedule(schedule, 0, FGSM())
    with pytest.raises(ValueError, match="eps_warmup_epochs must be at least 0, got -1"):
        given_schedule(None, -1, PLAIN)


# sparing the check


def subclasses(cls):
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


CHECKING = sorted(
    {
        cls
        for cls in subclasses(Attack)
        if cls.__module__.startswith("lightning_advreg.")
        and not cls.__abstractmethods__
        and "check" in getattr(cls, "__dataclass_fields__", ())
    },
    key=lambda cls: cls.__name__,
)


@pytest.mark.parametrize("cls", CHECKING)
def test_every_attack_that_checks_can_be_spared(cls):
    attack = WorstOf([PGD()]) if cls is WorstOf else cls()
    spared = unchecked(attack)
    assert type(spared) is cls and attack.check and not spared.check
    # nothing else changes, but for the members of several
    same = [field.name for field in dataclasses.fields(cls) if field.name not in ("check", "attacks")]
    assert all(getattr(spared, name) == getattr(attack, name) for name in same)


def test_they_are_many():
    assert {"PGD", "FGSM", "APGD", "AutoAttack", "CW", "WorstOf"} <= {cls.__name__ for cls in CHECKING}


def test_members_of_several_are_spared_too():
    spared = unchecked(WorstOf([PGD(), WorstOf([FGSM()]), CW()]))
    assert not any(member.check for member in (*spared.attacks, *spared.attacks[1].attacks))


def test_what_checks_nothing_is_left_as_it_is():
    for attack in (Own(), lambda model, x, y: x, attacks.Corruption(kind="fog", severity=1)):
        assert unchecked(attack) is attack

    @dataclass(frozen=True)
    class Foreign:
        check: str = "a setting of another meaning"

        def __call__(self, model, x, y):
            return x

    foreign = Foreign()
    assert unchecked(foreign) is foreign

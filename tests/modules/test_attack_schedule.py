"""The attack that AdversarialClassifier trains with at each moment."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, NFGSM, PGD, AttackSchedule, WorstOf
from lightning_advreg.objectives import TRADES, FreeAT, Objective, ObjectiveOutput
from lightning_advreg.schedules import Constant, Piecewise, Ramp

from .parts import AtBatches, ForeignNet, adversarial, conv, digits, trainer

ATTACK = PGD(eps=0.4, step_size=0.1, steps=4)


class Recording(Objective):
    """Keep the attacks that training used."""

    def __init__(self):
        self.attacks = []

    def craft(self, model, x, y, attack):
        self.attacks.append(attack)
        return ()

    def loss(self, model, x, y, crafted):
        return ObjectiveOutput(torch.nn.functional.cross_entropy(model(x), y))


class Logged(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        names = ("train/eps_factor", "train/attack_steps")
        self.values.append(tuple(trainer.callback_metrics[name] for name in names if name in trainer.callback_metrics))


def fit(data=None, *, epochs=1, attack=ATTACK, callbacks=(), ckpt_path=None, settings=None, **arguments):
    objective, logged = Recording(), Logged()
    model = AdversarialClassifier(ForeignNet(), attack=attack, objective=objective, **arguments)
    limits = {"limit_train_batches": 4, "limit_val_batches": 0, **(settings or {})}
    fitting = trainer(max_epochs=epochs, callbacks=[logged, *callbacks], **limits)
    given = {"datamodule": digits()} if data is None else {"train_dataloaders": data}
    fitting.fit(model, **given, ckpt_path=ckpt_path, weights_only=True)
    return objective.attacks, logged.values


def test_a_curriculum_of_steps():
    schedule = AttackSchedule(steps=Piecewise(milestones=[(0, 0), (0.5, 1), (1.25, 3)]))
    attacks, logged = fit(epochs=2, attack_schedule=schedule)
    assert [(a.eps, a.step_size) for a in attacks] == [(0, 0)] * 2 + [(0.4, 0.1)] * 6
    assert [a.steps for a in attacks[2:]] == [1, 1, 1, 3, 3, 3]
    assert [tuple(map(float, row)) for row in logged] == [(0,), (0,), (1,), (1,), (1,), (3,), (3,), (3,)]


def test_both_are_logged_to_the_end_without_waiting_for_the_device():
    schedule = AttackSchedule(eps_factor=Ramp(epochs=0.5, start=1, end=0.5), steps=Constant(2))
    attacks, logged = fit(attack_schedule=schedule)
    assert [a.eps for a in attacks] == pytest.approx([0.4, 0.3, 0.2, 0.2])
    assert [tuple(map(float, row)) for row in logged] == [(1, 2), (0.75, 2), (0.5, 2), (0.5, 2)]
    # on an accelerator, a number that is logged is copied there at once
    model = AdversarialClassifier(conv(), attack_schedule=schedule)
    model.epochs_done = lambda batch_idx: 0.0
    seen = []
    model.log = lambda name, value, **settings: seen.append((name, value))
    with torch.device("meta"):
        model._attack_now(1)
    assert [(name, value.device.type) for name, value in seen] == [
        ("train/eps_factor", "cpu"),
        ("train/attack_steps", "cpu"),
    ]


def test_a_curve_shows_where_it_stays(tmp_path):
    fit(eps_warmup_epochs=0.5, settings={"logger": CSVLogger(tmp_path, name="", version="")})
    header, *rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    values = [row[header.index("train/eps_factor")] for row in rows]
    assert [float(value) for value in values if value] == [0, 0.5, 1, 1]


@pytest.mark.parametrize("attack", [ATTACK, FGSM(eps=0.4), NFGSM(eps=0.4)])
def test_the_short_form_is_the_same(attack):
    short, logged = fit(epochs=3, attack=attack, eps_warmup_epochs=2)
    same, also = fit(epochs=3, attack=attack, attack_schedule=AttackSchedule(eps_factor=Ramp(epochs=2)))
    assert short == same and logged == also and len(short) == 12


@pytest.mark.parametrize("objective", [TRADES(), FreeAT(replays=1)])
@pytest.mark.parametrize("name", ["eps_factor", "steps"])
def test_clean_moments_equal_training_on_clean_images(objective, name):
    """Whatever the objective: its own attack of budget zero."""
    ends = []
    for attack, arguments in (
        (ATTACK, {"attack_schedule": AttackSchedule(**{name: Constant(0)})}),
        (PGD(eps=0, step_size=0, steps=4), {}),
    ):
        torch.manual_seed(0)
        model = AdversarialClassifier(conv(), attack=attack, objective=objective, **arguments)
        trainer(limit_train_batches=3, limit_val_batches=0).fit(model, datamodule=digits())
        ends.append(list(model.network.parameters()))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*ends, strict=True))


class Stream(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for label in range(40):
            yield torch.rand(1, 8, 8, generator=generator), label % 10


def test_a_loader_without_a_length_counts_whole_epochs():
    arguments = {"attack_schedule": AttackSchedule(eps_factor=Ramp(epochs=2))}
    steps = []
    see = AtBatches(lambda trainer, module, batch: steps.append(module._batches_done(len(steps) % 2)))
    data, settings = DataLoader(Stream(), batch_size=20), {"limit_train_batches": 1.0}
    attacks, _ = fit(data, epochs=3, callbacks=[see], settings=settings, **arguments)
    assert [a.eps for a in attacks] == pytest.approx([0, 0, 0.2, 0.2, 0.4, 0.4])
    # objectives with schedules of their own ask for the number of batches before this one
    assert steps == list(range(6))


class InterruptAt(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            raise KeyboardInterrupt


@pytest.mark.parametrize("middle", [True, False], ids=["within an epoch", "after an epoch"])
def test_a_run_that_was_stopped_goes_on_where_the_schedule_was(tmp_path, middle):
    schedule = AttackSchedule(
        eps_factor=Ramp(epochs=3, shape="cosine"), steps=Ramp(epochs=2.5, start=1, end=9, start_epoch=0.25)
    )
    arguments = {"epochs": 3, "attack_schedule": schedule}
    saving = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=-1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(callbacks=[InterruptAt(), saving], settings={"enable_checkpointing": True}, **arguments)
    whole, logged = fit(**arguments)
    path = tmp_path / "last.ckpt" if middle else next(tmp_path.glob("*step=4.ckpt"))
    rest, also = fit(ckpt_path=path, **arguments)
    done = 5 if middle else 4
    assert rest == whole[done:] and len(whole) == 12
    assert also == logged[done:]


def test_a_checkpoint_rebuilds_it(tmp_path):
    schedule = AttackSchedule(
        eps_factor=Ramp(epochs="5/2", shape="cosine"), steps=Piecewise(milestones=[(0, "1"), (1, 2)], between="linear")
    )
    model = adversarial(eps_warmup_epochs=0, attack_schedule=schedule)
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint(tmp_path / "model.ckpt")
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
    assert loaded.attack_schedule == model.attack_schedule == schedule
    assert loaded.eps_warmup_epochs == 0


def test_another_attack_follows_the_same_schedule_or_is_refused():
    model = AdversarialClassifier(ForeignNet(), attack=ATTACK, attack_schedule=AttackSchedule(steps=Constant(3)))
    model.use_attack(WorstOf([ATTACK]))
    with pytest.raises(TypeError, match="NFGSM has no number of steps to schedule"):
        model.use_attack(NFGSM())
    assert model.attack == WorstOf([ATTACK])


def test_a_schedule_that_cannot_be_followed_is_refused_at_once():
    schedule = AttackSchedule(steps=Constant(3))
    with pytest.raises(TypeError, match="FGSM has no number of steps to schedule"):
        AdversarialClassifier(ForeignNet(), attack=FGSM(), attack_schedule=schedule)
    with pytest.raises(ValueError, match=r"eps_warmup_epochs=1 and attack_schedule=.* both say how the attack grows"):
        AdversarialClassifier(ForeignNet(), eps_warmup_epochs=1, attack_schedule=schedule)
    with pytest.raises(TypeError, match=r"attack_schedule must be an AttackSchedule, .* got Constant\(number=3.0\)"):
        AdversarialClassifier(ForeignNet(), attack_schedule=Constant(3))

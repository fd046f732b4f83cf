"""Any LightningModule, trained on attacked images: how training goes from batch to batch, and ends."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

import lightning_advreg.attacks.objective
from lightning_advreg.attacks import FGSM, PGD, AttackSchedule, WorstOf
from lightning_advreg.callbacks.adversarial_training import AdversarialTraining
from lightning_advreg.schedules import Constant, Piecewise, Ramp

from .attacked import ATTACK, Seen, expected, fit
from .foreign import At, images, loader, trainer

# Kinds of optimisation


def test_a_closure_that_is_asked_again_gets_the_same_images(tmp_path):
    class Quasi(Seen):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=3)

    module = Quasi()
    fit(tmp_path, module, AdversarialTraining(PGD(eps=0.1, steps=1)), loader(8))
    first, second = module.seen[: len(module.seen) // 2], module.seen[len(module.seen) // 2 :]
    assert len(first) > 1
    for part in (first, second):
        assert all(x.equal(part[0][0]) for x, _ in part)
    assert not first[0][0].equal(second[0][0])


def test_manual_optimisation_and_accumulated_gradients(tmp_path):
    class Manual(Seen):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch):  # without batch_idx
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, 0))
            optimizer.step()

    for module, settings in ((Manual(), {}), (Seen(), {"accumulate_grad_batches": 2})):
        fit(tmp_path, module, AdversarialTraining(ATTACK), **settings)
        for (x_adv, _), network, (x, y) in zip(module.seen, module.weights, loader(16), strict=True):
            assert x_adv.equal(expected(network, x, y))
    assert module.weights[0][0].weight.equal(module.weights[1][0].weight)


class SameWeights(Callback):
    def on_train_end(self, trainer, pl_module):
        for parameter in pl_module.parameters():
            both = trainer.strategy.all_gather(parameter.detach())
            assert both.shape[0] == 2 and both[0].equal(both[1])
        assert trainer.global_step == 2
        x_adv = torch.cat([x for x, _ in pl_module.seen])
        nearest = (x_adv[:, None] - images(16)[0]).abs().flatten(2).amax(2).amin(1)
        assert len(nearest) == 8 and nearest.min() > 0.05 and nearest.max() <= 0.1 + 1e-6


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_end_with_the_same_weights(tmp_path):
    module = Seen()
    start = module.network[0].weight.detach().clone()
    fit(tmp_path, module, AdversarialTraining(ATTACK), None, [SameWeights()], strategy="ddp_spawn", devices=2)
    assert not module.network[0].weight.equal(start)


# Schedules


def test_the_budget_grows_during_the_warm_up(tmp_path):
    module, factors = Seen(), []

    def note(run, module):
        factors.append(run.callback_metrics.get("train/eps_factor", torch.tensor(-1.0)).item())
        run.callback_metrics.clear()

    callback = AdversarialTraining(ATTACK, eps_warmup_epochs="3/2")
    fit(tmp_path, module, callback, loader(8), [At("on_train_batch_end", note)], max_epochs=3)
    assert factors[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    moved = [(x_adv - x).abs().max().item() for (x_adv, _), (x, _) in zip(module.seen, [*loader(8)] * 3, strict=True)]
    assert moved == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1], abs=1e-6)


def schedule_of(tmp_path, schedule, *, epochs=2, data=None, callbacks=(), **settings):
    """The attacks of every batch, and what was logged there."""
    used, logged = [], []
    callback = AdversarialTraining(ATTACK, attack_schedule=schedule)
    plain = callback._attack_now

    def attack_now(run, module):
        used.append(plain(run, module))
        return used[-1]

    callback._attack_now = attack_now

    def note(run, module):
        metrics = run.callback_metrics
        logged.append({name: value.item() for name, value in metrics.items() if "eps" in name or "steps" in name})

    data = loader(16) if data is None else data
    fit(tmp_path, Seen(), callback, data, [At("on_train_batch_end", note), *callbacks], max_epochs=epochs, **settings)
    return used, logged


def test_steps_follow_a_curriculum(tmp_path):
    schedule = AttackSchedule(steps=Piecewise(milestones=[(0, 0), (0.5, 1), (1.25, 3)]))
    used, logged = schedule_of(tmp_path, schedule)
    assert [(attack.eps, attack.step_size) for attack in used] == [(0, 0)] * 2 + [(0.1, 0.05)] * 6
    assert [attack.steps for attack in used[2:]] == [1, 1, 1, 3, 3, 3]
    assert [row["train/attack_steps"] for row in logged] == [0, 0, 1, 1, 1, 3, 3, 3]
    assert not any("train/eps_factor" in row for row in logged)


def test_images_stay_clean_while_the_factor_is_zero(tmp_path):
    module = Seen()
    schedule = AttackSchedule(eps_factor=Piecewise(milestones=[(0, 0), (0.5, 1)]))
    fit(tmp_path, module, AdversarialTraining(ATTACK, attack_schedule=schedule))
    moved = [(x_adv - x).abs().max().item() for (x_adv, _), (x, _) in zip(module.seen, loader(16), strict=True)]
    assert moved == pytest.approx([0, 0, 0.1, 0.1], abs=1e-6)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*images(8), strict=True))


def test_a_loader_without_a_length_counts_whole_epochs(tmp_path):
    schedule = AttackSchedule(eps_factor=Ramp(epochs=2))
    used, _ = schedule_of(tmp_path, schedule, epochs=3, data=DataLoader(Stream(), batch_size=4))
    assert [attack.eps for attack in used] == pytest.approx([0, 0, 0.05, 0.05, 0.1, 0.1])


def test_a_run_that_was_stopped_goes_on_where_the_schedule_was(tmp_path):
    schedule = AttackSchedule(eps_factor=Ramp(epochs=3, shape="cosine"), steps=Ramp(epochs=2.5, start=1, end=9))
    whole, logged = schedule_of(tmp_path, schedule, epochs=3)
    saving = ModelCheckpoint(tmp_path, save_top_k=-1)
    schedule_of(tmp_path, schedule, epochs=2, callbacks=[saving], enable_checkpointing=True)
    path = next(tmp_path.glob("*step=4.ckpt"))
    rest, also = schedule_of(tmp_path, schedule, epochs=3, ckpt_path=path)
    assert len(whole) == 12 and rest == whole[4:] and also == logged[4:]


@pytest.mark.parametrize("attack", [FGSM(eps=0.1), WorstOf([FGSM(eps=0.1), PGD(eps=0.1, steps=1)])])
def test_no_attack_checks_again_what_the_callback_has_checked(tmp_path, attack, monkeypatch):
    checked = []
    monkeypatch.setattr(lightning_advreg.attacks.objective, "check_batch", lambda *a, **k: checked.append(a))
    attack(lambda x: x.flatten(1), *images(2))
    assert checked
    checked.clear()
    fit(tmp_path, Seen(), AdversarialTraining(attack))
    assert not checked


def test_a_schedule_that_cannot_be_followed_is_refused_at_once():
    schedule = AttackSchedule(steps=Constant(3))
    with pytest.raises(TypeError, match="FGSM has no number of steps to schedule"):
        AdversarialTraining(FGSM(), attack_schedule=schedule)
    with pytest.raises(ValueError, match=r"eps_warmup_epochs=1 and attack_schedule=.* both say how the attack grows"):
        AdversarialTraining(ATTACK, eps_warmup_epochs=1, attack_schedule=schedule)


# The end


def test_the_module_gets_its_training_step_back(tmp_path):
    module = Seen()
    during = []
    note = At("on_train_batch_end", lambda run, module: during.append("training_step" in vars(module)))
    run = fit(tmp_path, module, AdversarialTraining(ATTACK), loader(4), [note])
    assert during == [True] and "training_step" not in vars(module)
    # a step of the instance comes back too
    own = module.training_step = lambda batch, batch_idx: Seen.training_step(module, batch, batch_idx)
    fit(tmp_path, module, AdversarialTraining(ATTACK), loader(4))
    assert module.training_step is own
    # a second fit with the same callback attacks once
    again = Seen()
    run.fit_loop.max_epochs = 2
    run.fit(again, loader(4))
    x, _ = next(iter(loader(4)))
    assert (again.seen[-1][0] - x).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_also_after_an_error(tmp_path, error):
    class Failing(Seen):
        def training_step(self, batch, batch_idx):
            raise error("no luck")

    module = Failing()
    with pytest.raises((error, SystemExit)):
        fit(tmp_path, module, AdversarialTraining(ATTACK))
    assert "training_step" not in vars(module)
    assert all(p.requires_grad for p in module.parameters())


def test_validation_and_test_stay_clean(tmp_path):
    class Validated(Seen):
        def validation_step(self, batch, batch_idx):
            assert any(batch[0].equal(x) for x, _ in loader(8))

        test_step = validation_step

    module = Validated()
    run = trainer(tmp_path, AdversarialTraining(ATTACK))
    run.fit(module, loader(8), loader(8))
    run.test(module, loader(8), verbose=False)

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.callbacks import RobustAccuracy
from lightning_advreg.callbacks.weight_average import WeightAverage, load_average_

from .averaging import PGD3, Trace, accuracy, assert_close, equal, fit, literal_average, values, with_average
from .foreign import At, Foreign, images, loader, trainer


@pytest.mark.parametrize("decay", [0.9995, 0.25, 0])
@pytest.mark.parametrize(("accumulated", "steps"), [(1, 12), (2, 6), (3, 6)])
def test_the_average_is_the_recursion_over_optimizer_steps(tmp_path, decay, accumulated, steps):
    callback, trace = WeightAverage(decay), Trace()
    _, module = fit(tmp_path, callback, trace, accumulate_grad_batches=accumulated)
    assert callback.average.steps == len(trace.weights) - 1 == steps
    assert_close(callback.average.weights, literal_average(trace.weights, decay))
    assert equal(values(module), trace.weights[-1])


def test_it_starts_at_the_weights_of_its_first_epoch(tmp_path):
    callback, trace = WeightAverage(start_epoch=1), Trace(start_epoch=1)
    fit(tmp_path, callback, trace)
    assert callback.average.steps == 8
    assert_close(callback.average.weights, literal_average(trace.weights, 0.9995))


class Manual(Foreign):
    """Two optimizers, of which the second steps in every other batch, and the first twice."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        for optimizer in [first, first, second] if batch_idx % 2 else [first]:
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()
            if optimizer is first:
                self.network[0].weight.data.clamp_(-0.1, 0.1)

    def configure_optimizers(self):
        return [torch.optim.SGD(layer.parameters(), lr=0.5) for layer in (self.network[0], self.network[5])]


def test_manual_optimisation_and_limits_after_the_step(tmp_path):
    callback = WeightAverage()
    _, module = fit(tmp_path, callback, module=Manual())
    # one update for a batch of one step; two for a batch of two steps of one optimizer
    assert callback.average.steps == 3 * (2 * 1 + 2 * 2)
    assert module.network[0].weight.abs().max() <= 0.1
    # the first weights count for nothing after so many steps, and later ones met the limit before they were averaged
    exceeded = callback.average.weights["network.0.weight"].abs().max() - 0.1
    assert exceeded < 0.3 * torch.tensor([(1 + t) / (10 + t) for t in range(1, 19)]).prod() + 1e-6


def test_training_is_bitwise_the_same_with_and_without_it(tmp_path):
    def train(*callbacks):
        torch.manual_seed(0)
        _, module = fit(tmp_path, *callbacks, val=loader(8, seed=1))
        return module.state_dict()

    attacked = WeightAverage(attacks={"unseeded": PGD(steps=2)}, recompute_statistics=True)
    assert equal(train(), train(attacked))


def test_validation_shows_both_side_by_side(tmp_path):
    seen, expected = [], []
    callback, batches = WeightAverage(attacks={"pgd": PGD3, "fgsm": FGSM(eps=0.02)}, max_samples=10), loader(23, seed=1)
    some = [(x[: max(10 - 4 * i, 0)], y[: max(10 - 4 * i, 0)]) for i, (x, y) in enumerate(loader(12, seed=1))]

    def look(trainer, module):
        seen.append({name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")})
        averaged = with_average(module, callback.average.weights)
        expected.append(
            {
                "val/acc_ema": accuracy(averaged, batches),
                "val/robust_acc/pgd_ema": accuracy(averaged, some, PGD3),
                "val/robust_acc/fgsm_ema": accuracy(averaged, some, FGSM(eps=0.02)),
                "val/robust_acc/pgd": accuracy(module, batches, PGD3),
            }
        )

    raw = RobustAccuracy({"pgd": PGD3})

    class Images(pl.LightningDataModule):
        def train_dataloader(self):
            return loader(16)

        def val_dataloader(self):
            x, y = images(23, seed=1)
            x[:10], y[:10] = torch.cat([part[0] for part in some]), torch.cat([part[1] for part in some])
            return DataLoader(TensorDataset(x, y), batch_size=4)

    batches = Images().val_dataloader()
    module = Foreign(seed=1)
    module.learning_rate = 1.0
    run = trainer(tmp_path, callback, raw, At("on_validation_end", look), max_epochs=3, num_sanity_val_steps=0)
    run.fit(module, datamodule=Images())
    for logged, right in zip(seen, expected, strict=True):
        assert logged.keys() == {"val/loss", *right}
        assert {name: logged[name] for name in right} == right
    assert any(logged["val/robust_acc/pgd"] != logged["val/robust_acc/pgd_ema"] for logged in seen)


def test_before_it_starts_the_average_is_the_weights_and_can_be_monitored(tmp_path):
    scores, raw = [], []

    def look(trainer, module):
        scores.append(trainer.callback_metrics["val/acc_ema"])
        raw.append(accuracy(module, loader(20, seed=1)))

    saving = ModelCheckpoint(tmp_path, monitor="val/acc_ema", mode="max")
    fit(
        tmp_path, saving, WeightAverage(start_epoch=99), At("on_validation_end", look),
        val=loader(20, seed=1), enable_checkpointing=True, num_sanity_val_steps=1,
    )  # fmt: skip
    assert scores[1:] == raw[1:]
    assert saving.best_model_score == max(scores[1:])


def test_several_loaders_are_logged_apart(tmp_path):
    loaders = [loader(8, seed=1), loader(12, seed=2)]
    callback = WeightAverage()
    run, module = fit(tmp_path, callback, val=loaders)
    averaged = with_average(module, callback.average.weights)
    for index, batches in enumerate(loaders):
        assert run.callback_metrics[f"val/acc_ema/dataloader_{index}"] == accuracy(averaged, batches)


def test_modules_that_are_no_classifiers_can_be_averaged(tmp_path):
    class NoClassifier(Foreign):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return self.network(batch["x"]).square().mean()

        def validation_step(self, batch, batch_idx):
            pass

    x = [{"x": image} for image in images(8)[0]]
    callback = WeightAverage(validate=False)
    run = trainer(tmp_path, callback, max_epochs=2)
    run.fit(NoClassifier(), DataLoader(x, batch_size=4), DataLoader(x, batch_size=4))
    assert callback.average.steps == 4
    assert "val/acc_ema" not in run.callback_metrics
    with pytest.raises(TypeError, match="WeightAverage calls NoClassifier to get logits, but it defines no `forward`"):
        trainer(tmp_path, WeightAverage()).fit(NoClassifier(), DataLoader(x))


def test_the_module_and_its_optimizers_are_clean_after_a_run(tmp_path):
    module, optimizers = Foreign(), []
    names = set(dict(module.named_modules()))
    keep = At("on_train_end", lambda t, m: optimizers.extend(t.optimizers))
    fit(tmp_path, WeightAverage(), keep, module=module, val=loader(4))
    assert set(dict(module.named_modules())) == names
    assert not optimizers[0]._optimizer_step_pre_hooks
    assert not optimizers[0]._optimizer_step_post_hooks


def test_two_of_them_and_an_average_of_another_architecture_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `WeightAverage`"):
        fit(tmp_path, WeightAverage(), WeightAverage(0.9))
    run, module = fit(tmp_path, WeightAverage())
    run.save_checkpoint(tmp_path / "small.ckpt")
    module = Foreign()
    module.network[5] = nn.Linear(128, 3)
    with pytest.raises(ValueError, match=r"not those of this Foreign: they differ in network\.5\.bias, network\.5\.we"):
        load_average_(module, tmp_path / "small.ckpt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": 1}, "decay must be less than 1, got 1"),
        ({"decay": -0.1}, "decay must be at least 0, got -0.1"),
        ({"start_epoch": -1}, "start_epoch must be an integer of at least 0, got -1"),
        ({"start_epoch": 0.5}, "start_epoch must be an integer of at least 0, got 0.5"),
        ({"attacks": {"a/b": FGSM()}}, "without '/' and '.'"),
        ({"attacks": {}}, "at least one attack"),
        ({"attacks": FGSM(), "max_samples": 0}, "max_samples must be an integer of at least 1, got 0"),
        ({"statistics_attack": FGSM()}, "statistics_attack has no effect without recompute_statistics"),
        ({"attacks": FGSM(), "validate": False}, "which validate=False leaves out"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightAverage(**arguments)


class Write(Callback):
    """Nothing but files comes back from a spawned process."""

    def __init__(self, folder):
        self.folder = str(folder)

    def on_fit_end(self, trainer, module):
        average = next(c for c in trainer.callbacks if isinstance(c, WeightAverage)).average
        found = {name: value.tolist() for name, value in average.values.items()}
        found["acc"] = trainer.callback_metrics["val/acc_ema"].item()
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps(found))


@pytest.mark.filterwarnings("ignore:.*DistributedSampler.*", "ignore:.*fork.*:DeprecationWarning")
def test_two_processes_hold_the_same_average(tmp_path):
    callbacks = WeightAverage(recompute_statistics=True), Write(tmp_path)
    run = trainer(tmp_path, *callbacks, strategy="ddp_spawn", devices=2, max_epochs=2, num_sanity_val_steps=0)
    run.fit(Foreign(seed=1), loader(16), loader(7))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert "network.1.running_mean" in first

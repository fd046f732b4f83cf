import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.callbacks import RobustAccuracy
from lightning_advreg.callbacks.weight_average import WeightAverage, load_average_

from .averaging import PGD3, Trace, accuracy, equal, fit, values, with_average
from .foreign import At, Foreign, images, loader, trainer


class Recorded(Foreign):
    """Keep the weights that the test ran on."""

    def test_step(self, batch, batch_idx):
        self.tested = values(self)
        return super().test_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        self.predicted = values(self)


def test_the_test_runs_on_the_average_and_puts_the_weights_back(tmp_path):
    callback = WeightAverage()
    run, module = fit(tmp_path, callback, module=Recorded(seed=1))
    raw = copy.deepcopy(module.state_dict())
    run.test(module, loader(8), verbose=False)
    assert equal(module.tested, callback.average.weights)
    assert equal(module.state_dict(), raw)
    assert not equal(module.tested, values(module))
    run.predict(module, loader(8))
    assert equal(module.predicted, values(module))
    assert not any(p.is_inference() for p in module.parameters())
    callback.use_in_test = False
    run.test(module, loader(8), verbose=False)
    assert equal(module.tested, values(module))


def test_robust_accuracy_of_the_test_is_that_of_the_average(tmp_path):
    callback = WeightAverage()
    module = Foreign(seed=1)
    module.learning_rate = 1.0
    run, _ = fit(tmp_path, RobustAccuracy(PGD3), callback, module=module)
    (result,) = run.test(module, loader(20, seed=1), verbose=False)
    averaged = with_average(module, callback.average.weights)
    assert result["test/robust_acc/pgd"] == accuracy(averaged, loader(20, seed=1), PGD3)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["test", "validate"])
def test_an_error_puts_the_weights_back(tmp_path, error, stage):
    def failing(*_):
        raise error

    callback = WeightAverage(attacks={"failing": failing})
    torch.manual_seed(0)
    run, module = fit(tmp_path, callback, module=Recorded(seed=1))
    raw = copy.deepcopy(module.state_dict())
    module.test_step = failing
    with pytest.raises((error, SystemExit)):
        getattr(run, stage)(module, loader(8), verbose=False)
    assert equal(module.state_dict(), raw)


def test_a_checkpoint_holds_both_and_a_test_of_it_uses_its_own_average(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    callback, then = WeightAverage(), []
    note = At("on_train_epoch_end", lambda t, m: then.append((values(m), copy.deepcopy(callback.average.weights))))
    run, module = fit(tmp_path, callback, note, saving, module=Recorded(seed=1), enable_checkpointing=True)
    raw, average = then[0]
    stored = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert equal({name: stored["state_dict"][name] for name in raw}, raw)
    assert equal(stored["callbacks"]["WeightAverage"]["weights"], average)
    # by the trainer that went on, and by a new one
    for tester in (run, trainer(tmp_path, WeightAverage(0.5))):
        tester.test(module, loader(8), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True, verbose=False)
        assert equal(module.tested, average)
        assert equal(values(module), raw)
    other = Foreign(seed=5)
    load_average_(other, tmp_path / "epoch=0.ckpt")
    assert equal(values(other), average)


def test_an_average_of_other_weights_is_never_used(tmp_path):
    saving = ModelCheckpoint(tmp_path, save_weights_only=True, filename="weights")
    run, module = fit(tmp_path, WeightAverage(), saving, module=Recorded(seed=1), enable_checkpointing=True)
    with pytest.warns(UserWarning, match="WeightAverage has no average of these weights"):
        run.test(module, loader(8), ckpt_path=tmp_path / "weights.ckpt", weights_only=True, verbose=False)
    assert equal(module.tested, values(module))
    with pytest.raises(ValueError, match="holds no averaged weights; train with WeightAverage, and save with"):
        load_average_(module, tmp_path / "weights.ckpt")
    run, module = fit(tmp_path, WeightAverage(), module=Recorded(seed=1))
    other = Recorded(seed=2)
    with pytest.warns(UserWarning, match="WeightAverage has no average of these weights"):
        run.test(other, loader(8), verbose=False)
    assert equal(other.tested, values(Recorded(seed=2)))


class Interrupt(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            # before WeightAverage has counted the step of this batch
            trainer.save_checkpoint(Path(trainer.default_root_dir, "middle.ckpt"))
            raise KeyboardInterrupt


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    def run(callbacks, ckpt_path=None):
        # without dropout, whose stream a foreign module does not restore
        torch.manual_seed(0)
        module = Foreign(seed=1)
        module.network[4] = nn.Identity()
        fitting = trainer(tmp_path, *callbacks, max_epochs=3)
        x, y = images(4)
        # batches that are alike, since Lightning begins a foreign loader anew
        batches = DataLoader(TensorDataset(x.repeat(4, 1, 1, 1), y.repeat(4)), batch_size=4)
        fitting.fit(module, batches, loader(8), ckpt_path=ckpt_path, weights_only=True)
        return module

    whole, resumed = WeightAverage(), WeightAverage()
    expected = run([whole])
    with pytest.raises(SystemExit):
        run([Interrupt(), WeightAverage()])
    module = run([resumed], tmp_path / "middle.ckpt")
    assert equal(module.state_dict(), expected.state_dict())
    assert resumed.average.steps == whole.average.steps == 12
    assert equal(resumed.average.weights, whole.average.weights)


def test_a_second_fit_of_the_same_module_goes_on_and_another_module_starts_anew(tmp_path):
    callback, trace = WeightAverage(), Trace()
    module = Foreign(seed=1)
    run, _ = fit(tmp_path, callback, trace, module=module, max_epochs=1)
    run.fit_loop.max_epochs = 2
    run.fit(module, loader(16))
    assert callback.average.steps == 8
    fit(tmp_path, callback, module=Foreign(seed=2), max_epochs=1)
    assert callback.average.steps == 4


def test_averages_in_low_precision_do_not_stand_still(tmp_path):
    module = Foreign(seed=1).to(torch.bfloat16)
    callback = WeightAverage()
    fit(tmp_path, callback, module=module, precision="bf16-true", val=loader(8))
    assert {value.dtype for value in callback.average.weights.values()} == {torch.float32}
    assert all(p.dtype == torch.bfloat16 for p in module.parameters())
    target = {"network.0.weight": torch.ones_like(module.network[0].weight, dtype=torch.float32)}
    callback.average.steps, callback.average.weights = 10**6, {n: v * 0 + 1 for n, v in target.items()}
    module.network[0].weight.data.fill_(1.01)
    callback.average.update(module)
    assert callback.average.weights["network.0.weight"].mean() == pytest.approx(1 + 0.0005 * (
        module.network[0].weight.float().mean().item() - 1), abs=1e-7)  # fmt: skip


@pytest.mark.parametrize("swap", [True, False])
def test_the_module_ends_with_the_average_if_asked(tmp_path, swap):
    saving = ModelCheckpoint(tmp_path, save_last=True)
    callback, trace = WeightAverage(swap_at_end=swap), Trace()
    _, module = fit(tmp_path, callback, trace, saving, enable_checkpointing=True)
    expected = callback.average.weights if swap else trace.weights[-1]
    assert equal(values(module), expected)
    # the last checkpoint can be continued either way
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert equal({name: stored[name] for name in trace.weights[-1]}, trace.weights[-1])


def buffers(module):
    return {name: value for name, value in module.named_buffers() if "running" in name}


def test_buffers_are_copied_and_never_shared(tmp_path):
    held = []
    callback = WeightAverage()
    look = At("on_test_batch_end", lambda t, m: held.append({n: b.clone() for n, b in buffers(m).items()}))
    run, module = fit(tmp_path, callback, look)
    raw = {name: value.clone() for name, value in buffers(module).items()}
    run.test(module, loader(4), verbose=False)
    assert equal(held[0], raw)
    state = callback.state_dict()
    before = copy.deepcopy(state["weights"])
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.zero_()
    for value in callback.average.weights.values():
        value.zero_()
    assert equal(state["weights"], before)


@pytest.mark.parametrize("attack", [None, PGD3])
def test_recomputed_statistics_are_means_over_the_training_batches(tmp_path, attack):
    callback = WeightAverage(recompute_statistics=True, statistics_attack=attack, swap_at_end=True)
    trained = []
    note = At("on_train_end", lambda t, m: trained.append(copy.deepcopy(m)))
    _, module = fit(tmp_path, note, callback)
    averaged = with_average(trained[0], callback.average.weights)
    means, variances = [], []
    for x, y in loader(16):
        x = x if attack is None else attack(averaged, x, y)
        h = averaged.network[0](x).transpose(0, 1).flatten(1)
        means.append(h.mean(1))
        variances.append(h.var(1))
    expected = {"running_mean": sum(means) / 4, "running_var": sum(variances) / 4}
    for name, value in expected.items():
        torch.testing.assert_close(callback.average.statistics[f"network.1.{name}"], value.detach())
        torch.testing.assert_close(getattr(module.network[1], name), value.detach())
        assert not torch.allclose(getattr(trained[0].network[1], name), value)
    assert module.network[1].momentum == 0.1
    assert callback.state_dict()["statistics"].keys() == {"network.1.running_mean", "network.1.running_var"}


def test_frozen_batch_norm_keeps_its_statistics(tmp_path):
    module = Foreign(seed=1)
    freeze = At("on_train_epoch_start", lambda t, m: m.network[1].eval())
    callback = WeightAverage(recompute_statistics=True)
    fit(tmp_path, freeze, callback, module=module)
    assert callback.average.statistics == {}
    assert module.network[1].running_mean.tolist() == [0.0] * 8

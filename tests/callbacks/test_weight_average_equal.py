"""Stochastic weight averaging: weights that count the same, with statistics of their own."""

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_advreg import RegularizedClassifier
from lightning_advreg.callbacks import WeightAverage
from lightning_advreg.callbacks.moving_average import MovingAverage
from lightning_advreg.perturbations import SAM
from tests.modules import parts

from .averaging import Trace, assert_close, fit
from .foreign import trainer


def test_it_is_the_mean_of_all_weights_since_its_start(tmp_path):
    callback, trace = WeightAverage(decay=None, start_epoch=1), Trace(start_epoch=1)
    fit(tmp_path, callback, trace)
    stacked = {name: torch.stack([w[name] for w in trace.weights]) for name in trace.weights[0]}
    assert len(trace.weights) == 9 and callback.average.steps == 8
    assert_close(callback.average.weights, {name: values.mean(0) for name, values in stacked.items()})


def test_it_continues_where_it_was():
    layer = torch.nn.Linear(1, 1, bias=False)
    whole, first = MovingAverage(None), MovingAverage(None)
    for average in (whole, first):
        layer.weight.data.fill_(0.0)
        average.start(layer)
    for value in (1.0, 2.0):
        layer.weight.data.fill_(value)
        whole.update(layer)
        first.update(layer)
    second = MovingAverage(None)
    second.load_state_dict(first.state_dict())
    layer.weight.data.fill_(9.0)
    for average in (whole, second):
        average.update(layer)
    assert second.weights["weight"].item() == whole.weights["weight"].item() == 3.0


def test_with_our_module_batch_norm_and_sam(tmp_path):
    """The average is swapped in at the end, with statistics of its own, and the test runs on it."""
    model = RegularizedClassifier(parts.conv(norm="batch"), weight_perturbation=SAM())
    callback = WeightAverage(decay=None, start_epoch=1, recompute_statistics=True, swap_at_end=True)
    run = trainer(tmp_path, callback, ModelCheckpoint(tmp_path), max_epochs=2, enable_checkpointing=True)
    run.fit(model, datamodule=parts.digits())
    names = {name for name, _ in model.named_buffers() if "running" in name}
    assert names and names == set(callback.average.statistics)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(held[name].equal(value) for name, value in callback.average.values.items())
    assert "val/acc_ema" in run.callback_metrics

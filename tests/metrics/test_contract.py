"""What every metric keeps to, however the data are cut."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM
from lightning_advreg.metrics import (
    Accuracy,
    AccuracyCurve,
    AccuracyUnderAttack,
    ClasswiseAccuracy,
    MeanOverImages,
    PerturbationSize,
    WorstCaseAccuracy,
)
from tests.metrics.processes import joined

N = 60
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(N, 4, generator=GENERATOR)
Y = torch.randint(4, (N,), generator=GENERATOR)
X = torch.rand(N, 1, 2, 2, generator=GENERATOR)
X_ADV = (X + 0.2 * torch.rand(N, 1, 2, 2, generator=GENERATOR)).clamp(max=1)
HIT = torch.rand(N, generator=GENERATOR) < 0.6
OTHER_HIT = torch.rand(N, generator=GENERATOR) < 0.4
RADIUS = torch.where(HIT, torch.inf, torch.rand(N, generator=GENERATOR))
WEIGHT = torch.randn(4, 4, generator=GENERATOR)


def net(x):
    return x.flatten(1) @ WEIGHT


# how to make each metric, and how to update it with some of the images
METRICS = {
    "accuracy": (Accuracy, lambda metric, part: metric.update(LOGITS[part], Y[part])),
    "classwise": (lambda: ClasswiseAccuracy(5), lambda metric, part: metric.update(HIT[part], Y[part])),
    "worst-case": (
        lambda: WorstCaseAccuracy(["a", "b"]),
        lambda metric, part: metric.update({"a": HIT[part], "b": OTHER_HIT[part]}),
    ),
    "curve": (lambda: AccuracyCurve([0, 0.1, 0.5]), lambda metric, part: metric.update(RADIUS[part])),
    "mean": (MeanOverImages, lambda metric, part: metric.update(LOGITS[part, 0])),
    "size": (lambda: PerturbationSize("l2"), lambda metric, part: metric.update(X[part], X_ADV[part], HIT[part])),
    "under-attack": (
        lambda: AccuracyUnderAttack({"fgsm": FGSM(eps=0.05), "strong": FGSM(eps=0.2)}),
        lambda metric, part: metric.update(net, X[part], Y[part]),
    ),
}
every_metric = pytest.mark.parametrize(("make", "update"), METRICS.values(), ids=METRICS)


def values(metric):
    return {key: value.clone() for key, value in as_dict(metric.compute()).items()}


def as_dict(result):
    return result if isinstance(result, dict) else {"value": result}


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        # the mean of sizes is a float32 sum, whose order may differ
        torch.testing.assert_close(actual[key], value, rtol=1e-6, atol=0, equal_nan=True)


def whole(make, update):
    metric = make()
    update(metric, slice(None))
    return values(metric)


@every_metric
def test_batches_may_be_cut_anywhere(make, update):
    metric = make()
    for part in (slice(0, 7), slice(7, 8), slice(8, 60)):
        update(metric, part)
    assert_same(values(metric), whole(make, update))


@every_metric
@pytest.mark.parametrize("cut", [1, 20, 59])
def test_processes_with_unequal_shares_give_the_result_of_one(make, update, cut):
    first, second = make(), make()
    update(first, slice(0, cut))
    update(second, slice(cut, N))
    assert_same(values(joined(first, second)), whole(make, update))
    # afterwards the process has its own share again
    alone, fresh = copy.copy(first), make()
    alone.distributed_available_fn, alone._computed = lambda: False, None
    update(fresh, slice(0, cut))
    assert_same(values(alone), values(fresh))


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_process_without_images_joins_in(make, update):
    first, second = make(), make()
    update(second, slice(None))
    assert_same(values(joined(first, second)), whole(make, update))


@every_metric
def test_forward_gives_the_batch_and_counts_it(make, update):
    metric = make()
    update(metric, slice(0, 20))

    class Forward:
        def update(self, *arguments):
            self.value = metric(*arguments)

    batch, alone = Forward(), make()
    update(batch, slice(20, N))
    update(alone, slice(20, N))
    assert_same(as_dict(batch.value), values(alone))
    assert_same(values(metric), whole(make, update))


@every_metric
def test_reset_forgets(make, update):
    metric = make()
    update(metric, slice(0, 30))
    metric.reset()
    update(metric, slice(30, N))
    fresh = make()
    update(fresh, slice(30, N))
    assert_same(values(metric), values(fresh))


@every_metric
def test_updates_inside_and_outside_inference_mode_mix(make, update):
    with torch.inference_mode():
        metric = make()
        update(metric, slice(0, 20))
        metric.compute()
    update(metric, slice(20, 40))
    with torch.inference_mode():
        update(metric, slice(40, N))
    assert_same(values(metric), whole(make, update))


@every_metric
def test_nothing_of_it_lands_in_a_checkpoint(make, update):
    metric = make()
    update(metric, slice(None))
    assert nn.ModuleDict({"metric": metric}).state_dict() == {}


@every_metric
def test_copies_and_pickles_hold_what_was_counted(make, update):
    metric = make()
    update(metric, slice(None))
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_same(values(twin), whole(make, update))


@every_metric
def test_counts_are_whole_numbers_and_results_float32_whatever_the_default_dtype(make, update):
    metric = make().double()
    update(metric, slice(None))
    for name in ("correct", "total"):
        assert getattr(metric, name, torch.tensor(0)).dtype == torch.int64
    for key, value in as_dict(metric.compute()).items():
        assert value.dtype == (torch.int64 if key in ("found", "total") else torch.float32)


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_states_and_results_follow_the_device(make, update):
    metric = make().to("meta")
    for name in metric._reductions:
        state = getattr(metric, name)
        assert isinstance(state, list) or state.device.type == "meta"
    if not isinstance(metric, PerturbationSize):
        assert all(value.device.type == "meta" for value in as_dict(metric.compute()).values())

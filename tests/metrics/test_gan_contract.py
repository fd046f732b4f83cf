"""What every metric of generated images keeps to, however the data are cut."""

import copy
import pickle

import pytest
import torch

from lightning_advreg.metrics import (
    ClassAccuracy,
    ClasswiseFrechetDistance,
    Features,
    FrechetDistance,
    InceptionScore,
    InterpolationSmoothness,
    KernelDistance,
    ModeCount,
    NearestNeighbours,
    PrecisionRecallDensityCoverage,
)
from lightning_advreg.metrics.gan_reference import ReferenceFile
from tests.metrics.processes import joined

N = 40
STREAM = torch.Generator().manual_seed(0)
SEEN = {
    origin: Features(
        torch.randn(N, 3, generator=STREAM) + shift,
        torch.randn(N, 4, generator=STREAM),
        torch.randint(4, (N,), generator=STREAM),
    )
    for origin, shift in (("real", 0), ("generated", 0.3), ("train", 0), ("held_out", 0))
}
METRICS = {
    "frechet": FrechetDistance,
    "classwise": ClasswiseFrechetDistance,
    "kernel": lambda: KernelDistance(subsets=2, subset_size=10),
    "manifold": PrecisionRecallDensityCoverage,
    "neighbours": NearestNeighbours,
    "modes": lambda: ModeCount("real"),
    "accuracy": ClassAccuracy,
    "score": lambda: InceptionScore(splits=2),
    "path": InterpolationSmoothness,
}
every_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)


def update(metric, part, origins=None):
    for origin in origins or metric.origins:
        seen = Features(*(each[part] for each in SEEN[origin]))
        more = [Features(seen.features + 0.1)] if isinstance(metric, InterpolationSmoothness) else []
        metric.update(seen, origin, *more)


def whole(make):
    metric = make()
    update(metric, slice(None))
    return metric.figures()


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-9, atol=1e-12, equal_nan=True)


@every_metric
def test_batches_may_be_cut_anywhere(make):
    metric = make()
    for part in (slice(0, 7), slice(7, 8), slice(8, N)):
        update(metric, part)
    assert_same(metric.figures(), whole(make))


@every_metric
def test_processes_with_unequal_shares_give_the_result_of_one(make):
    first, second = make(), make()
    update(first, slice(0, 11))
    update(second, slice(11, N))
    assert_same(joined(first, second).figures(), whole(make))


@every_metric
def test_the_reference_stays_while_generated_images_are_forgotten(make):
    metric = make()
    update(metric, slice(None))
    metric.compute()
    metric.forget_generated()
    update(metric, slice(0, 20), ["generated"])
    other = make()
    update(other, slice(None), [origin for origin in other.origins if origin != "generated"] or ["generated"])
    if other.origins == ("generated",):
        other.reset()
    update(other, slice(0, 20), ["generated"])
    assert_same(metric.figures(), other.figures())


@every_metric
def test_updates_inside_and_outside_inference_mode_mix(make):
    metric = make()
    with torch.inference_mode():
        update(metric, slice(0, 20))
    update(metric, slice(20, 30))
    with torch.inference_mode():
        update(metric, slice(30, N))
    assert_same(metric.figures(), whole(make))


@every_metric
def test_copies_pickles_and_checkpoints(make):
    metric = make()
    update(metric, slice(None))
    assert metric.state_dict() == {}
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_same(twin.figures(), whole(make))


@every_metric
@pytest.mark.parametrize("size", [1, 2])
def test_a_file_of_the_reference_serves_any_number_of_processes(make, size, tmp_path):
    metric = make()
    update(metric, slice(None))
    file = ReferenceFile(tmp_path, "data", "val", "net-1")
    file.save([metric], {"held_out": [N, 1]})
    read = [make() for _ in range(size)]
    for rank, each in enumerate(read):
        assert file.load([each], rank, size) == {"held_out": [N, 1]}
        update(each, slice(rank * 20, (rank + 1) * 20) if size == 2 else slice(None), ["generated"])
    found = read[0] if size == 1 else joined(*read)
    if size == 1 or not isinstance(found, KernelDistance):  # whose subsets follow the order of images
        assert_same(found.figures(), whole(make))


def saved(folder, **of):
    metric = FrechetDistance()
    update(metric, slice(None))
    file = ReferenceFile(folder, **{"data": "MNIST", "split": "val", "extractor": "net-1", **of})
    file.save([metric], {"held_out": [40, 7]})
    return file


def test_stale_foreign_and_damaged_files_are_refused(tmp_path):
    file = saved(tmp_path)
    file.check({"held_out": [40, 7], "train": [1, 1]}, {"held_out": [40, 7]})
    with pytest.raises(ValueError, match=r"MNIST-val-net-1.npz is of other held_out images than the 41 of this run"):
        file.check({"held_out": [40, 7]}, {"held_out": [41, 7]})
    with pytest.raises(ValueError, match=r"is of other held_out images than the 40 of this run: their number or"):
        file.check({"held_out": [40, 7]}, {"held_out": [40, 8]})
    for name, other in (("data", "CIFAR10"), ("split", "test"), ("extractor", "net-2")):
        foreign = saved(tmp_path / name, **{name: other})
        foreign.path.rename(foreign.path.parent / file.path.name)
        mine = ReferenceFile(tmp_path / name, "MNIST", "val", "net-1")
        with pytest.raises(ValueError, match=f"holds statistics of another {name}, '{other}' instead of"):
            mine.load([FrechetDistance()])
    file.path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"MNIST-val-net-1.npz is no file of reference statistics; delete it"):
        file.load([FrechetDistance()])


def test_metrics_add_what_they_know_to_the_file_of_others(tmp_path):
    file = saved(tmp_path)
    assert file.load([KernelDistance()]) is None
    kernel = KernelDistance()
    update(kernel, slice(None))
    file.save([kernel], {"held_out": [40, 7], "train": [50, 1]})
    frechet = FrechetDistance()
    update(frechet, slice(None))
    first, second = FrechetDistance(), KernelDistance()
    assert file.load([first, second]) == {"held_out": [40, 7], "train": [50, 1]}
    for written, read in ((frechet, first), (kernel, second)):
        assert written.reference()
        for name, value in written.reference().items():
            torch.testing.assert_close(read.reference()[name], value)
    with pytest.raises(ValueError, match=r"MNIST-val-net-1.npz is of other held_out images than the 40 of this run"):
        file.save([FrechetDistance()], {"held_out": [40, 8]})
    assert file.load([FrechetDistance(), KernelDistance()]) is not None
    assert ReferenceFile(tmp_path, "MNIST", "test", "net-1").load([FrechetDistance()]) is None
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST-val-net-1.npz"]

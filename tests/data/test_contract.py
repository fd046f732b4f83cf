"""What every data module promises, with both loaders."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from .sources import BUILDERS

every_source = pytest.mark.parametrize("source", BUILDERS)
both_loaders = pytest.mark.parametrize("loader", ["standard", "resident"])


@pytest.fixture
def build(tmp_path, monkeypatch):
    made = []

    def build(source, **kwargs):
        root = tmp_path / str(len(made))
        root.mkdir()
        made.append(BUILDERS[source](root, monkeypatch, **{"batch_size": 16, "val_size": 10, **kwargs}))
        return made[-1]

    return build


def trainer(rank=0, world_size=1, overfit_batches=0):
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        distributed_sampler_kwargs={"num_replicas": world_size, "rank": rank},
        overfit_batches=overfit_batches,
    )


def collect(loader, epoch=0):
    loader.sampler.set_epoch(epoch)
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


def same(a, b):
    return all(p.shape == q.shape and p.equal(q) for p, q in zip(a, b, strict=True))


def keys(x):
    return [image.numpy().tobytes() for image in x]


@every_source
@both_loaders
def test_batches_are_float_images_and_integer_labels(build, source, loader):
    data = build(source, loader=loader)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        x, y = next(iter(batches))
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert tuple(x.shape[1:]) == data.image_shape and y.shape == (len(x),)
        assert x.min() >= 0 and 0.5 < x.max() <= 1
        # 8-bit values: nothing was rounded or scaled twice on the way
        assert (x.double() * 255).sub((x.double() * 255).round()).abs().max() < 1e-4
        assert y.min() >= 0 and y.max() < data.num_classes == len(data.class_names)


@every_source
@both_loaders
def test_same_seed_gives_the_same_epoch_and_the_next_epoch_differs(build, source, loader):
    first = build(source, loader=loader, augment=True, seed=3).train_dataloader()
    again = build(source, loader=loader, augment=True, seed=3).train_dataloader()
    other = build(source, loader=loader, augment=True, seed=4).train_dataloader()
    epoch = collect(first, epoch=2)
    assert same(epoch, collect(again, epoch=2)) and same(epoch, collect(first, epoch=2))
    assert not same(epoch, collect(first, epoch=3))
    assert not same(epoch, collect(other, epoch=2))


@every_source
def test_both_loaders_give_identical_batches(build, source):
    standard = build(source, loader="standard", augment=True)
    resident = build(source, loader="resident", augment=True)
    assert same(collect(standard.train_dataloader(), epoch=1), collect(resident.train_dataloader(), epoch=1))
    assert same(collect(standard.val_dataloader()), collect(resident.val_dataloader()))
    assert same(collect(standard.test_dataloader()), collect(resident.test_dataloader()))
    assert len(standard.train_dataloader()) == len(resident.train_dataloader())
    assert len(standard.test_dataloader()) == len(resident.test_dataloader())


@every_source
@both_loaders
def test_validation_is_never_augmented(build, source, loader):
    plain = build(source, loader=loader, augment=False)
    augmented = build(source, loader=loader, augment=True)
    assert same(collect(plain.val_dataloader()), collect(augmented.val_dataloader(), epoch=5))
    assert not same(collect(plain.train_dataloader()), collect(augmented.train_dataloader()))


@every_source
def test_splits_are_disjoint_and_complete(build, source):
    data = build(source, augment=False, batch_size=1)
    train, val, test = (
        keys(collect(batches)[0])
        for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    assert len(val) == 10
    assert len(train) + len(val) == len(data.train_set.images)
    # digits has a few images that occur twice
    if source != "digits":
        assert len({*train, *val, *test}) == len(train) + len(val) + len(test)
    assert set(data.train_set.rows.tolist()).isdisjoint(data.val_set.rows.tolist())


@every_source
@both_loaders
def test_global_random_state_is_untouched(build, source, loader):
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data = build(source, loader=loader, augment=True)
    epoch = collect(data.train_dataloader())
    collect(data.val_dataloader())
    collect(data.test_dataloader())
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
    torch.manual_seed(6)
    assert same(epoch, collect(data.train_dataloader()))


@both_loaders
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 7, 16])
def test_ranks_share_every_evaluation_image_exactly_once(build, loader, world_size, batch_size):
    data = build("digits", loader=loader, val_size=37, eval_batch_size=batch_size)
    whole = collect(data.val_dataloader())
    shards, lengths = [], []
    for rank in range(world_size):
        data.trainer = trainer(rank, world_size)
        batches = data.val_dataloader()
        shards.append(collect(batches))
        lengths.append((len(batches), sum(1 for _ in batches)))
    assert sorted(keys(whole[0])) == sorted(key for x, _ in shards for key in keys(x))
    # unequal numbers of batches would leave DDP waiting in its broadcast of buffers
    assert set(lengths) == {(lengths[0][0],) * 2}


@both_loaders
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_train_on_equally_many_different_images(build, loader, world_size):
    data = build("cifar10", loader=loader, augment=False, batch_size=4, val_size=9)
    shards = []
    for rank in range(world_size):
        data.trainer = trainer(rank, world_size)
        batches = data.train_dataloader()
        assert len(batches.sampler) == 51 // world_size
        assert len(batches) == 51 // world_size // 4
        shards.append([keys(x) for x, _ in batches])
        assert [len(batch) for batch in shards[-1]] == [4] * len(batches)
    seen = [key for shard in shards for batch in shard for key in batch]
    assert len(set(seen)) == len(seen) == world_size * 4 * (51 // world_size // 4)


def test_global_batches_do_not_depend_on_the_number_of_ranks(build):
    data = build("cifar10", augment=True, batch_size=12, val_size=12)
    alone = [keys(x) for x, _ in data.train_dataloader()]
    data.batch_size = 6
    ranks = []
    for rank in range(2):
        data.trainer = trainer(rank, 2)
        ranks.append([keys(x) for x, _ in data.train_dataloader()])
    assert [set(batch) for batch in alone] == [{*a, *b} for a, b in zip(*ranks, strict=True)]


def test_workers_give_what_no_workers_give(build):
    plain = build("folder", augment=True).train_dataloader()
    worked = build("folder", augment=True, num_workers=2).train_dataloader()
    assert worked.persistent_workers and not plain.persistent_workers
    state = torch.get_rng_state()
    for epoch in (4, 5):
        assert same(collect(plain, epoch), collect(worked, epoch))
    assert torch.get_rng_state().equal(state)
    del worked


def test_a_worker_epoch_set_after_the_iterator_was_made_counts(build):
    # what Lightning does in the first epoch of a resumed run
    batches = build("digits", num_workers=1).train_dataloader()
    iterator = iter(batches)
    batches.sampler.set_epoch(7)
    assert next(iterator)[0].equal(collect(batches, epoch=7)[0][:16])


@both_loaders
def test_validation_set_does_not_depend_on_train_size_and_small_sets_are_nested(build, loader):
    small, middle, full = (build("digits", loader=loader, train_size=size, val_size=0.2) for size in (50, 100, None))
    for data in (small, middle, full):
        data.setup("fit")
    assert small.val_set.rows.equal(full.val_set.rows) and middle.val_set.rows.equal(full.val_set.rows)
    assert len(small.train_set) == 50 and len(full.train_set) == 1437 - 287 == 1437 - len(full.val_set)
    assert set(small.train_set.rows.tolist()) < set(middle.train_set.rows.tolist()) < set(full.train_set.rows.tolist())
    assert small.train_set.labels[small.train_set.rows].bincount(minlength=10).tolist() == pytest.approx(
        [5] * 10, abs=1
    )


@both_loaders
def test_last_batch_is_dropped_in_training_only_and_never_the_only_one(build, loader):
    data = build("cifar10", loader=loader, batch_size=16, eval_batch_size=7)
    assert [len(y) for _, y in data.train_dataloader()] == [16, 16, 16]
    assert [len(y) for _, y in data.val_dataloader()] == [7, 3]
    data.batch_size = 64
    assert [len(y) for _, y in data.train_dataloader()] == [50]


@both_loaders
def test_no_validation(build, loader):
    data = build("cifar10", loader=loader, val_size=0)
    assert data.val_dataloader() == []
    assert len(data.train_set) == 60 and data.val_set is None


def test_resident_copies_are_shared_and_let_go(build):
    data = build("cifar10", loader="resident")
    data.trainer = trainer()
    train, val = data.train_dataloader(), data.val_dataloader()
    assert train.images.data_ptr() == val.images.data_ptr()
    assert train.images.dtype == torch.uint8
    data.teardown("fit")
    assert not data._on_device


def test_pinning_only_for_cuda(build):
    data = build("cifar10")
    data.trainer = trainer()
    assert not data.train_dataloader().pin_memory
    data.trainer.strategy.root_device = torch.device("cuda", 0)
    assert data.train_dataloader().pin_memory


def test_overfitting_repeats_the_same_plain_batches(build):
    data = build("cifar10", loader="resident", augment=True)
    data.trainer = trainer(overfit_batches=2)
    batches = data.train_dataloader()
    assert same(collect(batches, epoch=0), collect(batches, epoch=1))
    assert collect(batches)[1].equal(data.train_set.labels[data.train_set.rows][: 3 * 16])


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_fewer_images_than_processes(build, loader):
    data = build("cifar10", train_size=2, val_size=2)
    data.trainer = trainer(0, 3)
    with pytest.raises(ValueError, match=r"2 images for .* cannot be shared among 3 processes"):
        getattr(data, loader)()


@every_source
def test_fit_never_reads_the_test_set(build, source, monkeypatch):
    data = build(source)
    read = type(data).read
    asked = []
    monkeypatch.setattr(type(data), "read", lambda self, *, train: asked.append(train) or read(self, train=train))
    data.setup("fit")
    data.setup("validate")
    data.train_dataloader()
    data.val_dataloader()
    assert asked == [True]
    data.setup()
    data.setup("test")
    assert asked == [True, False]

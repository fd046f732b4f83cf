import pytest
import torch

from lightning_advreg.data import RandomCropFlip, ResidentLoader
from lightning_advreg.data.samplers import EvalSampler, TrainSampler, even_batch_size


def resident(**kwargs):
    images = torch.arange(23, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return ResidentLoader(images, torch.arange(23), **{"batch_size": 5, **kwargs})


def labels(loader):
    return [y.tolist() for _, y in loader]


def flat(lists):
    return [item for part in lists for item in part]


def test_resident_order_depends_on_seed_and_epoch_alone():
    loader, other = resident(shuffle=True, seed=1), resident(shuffle=True, seed=1)
    first = labels(loader)
    assert labels(loader) == first  # no epoch was set in between
    loader.set_epoch(1)
    second = labels(loader)
    assert second != first and sorted(flat(second)) == list(range(23))
    torch.manual_seed(99)
    other.set_epoch(1)
    assert labels(other) == second
    # seed + epoch would make these two equal
    assert labels(resident(shuffle=True, seed=2)) != second


def test_resident_images_and_labels_belong_together():
    for x, y in resident(shuffle=True, augment=RandomCropFlip(padding=0, flip=True)):
        assert (x * 255).round()[:, 0, 0, 0].long().equal(y)


@pytest.mark.parametrize(("drop_last", "lengths"), [(False, [5, 5, 5, 5, 3]), (True, [5, 5, 5, 5])])
def test_resident_length(drop_last, lengths):
    loader = resident(shuffle=True, drop_last=drop_last)
    assert [len(y) for _, y in loader] == lengths and len(loader) == len(lengths)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_resident_shards(shuffle, world_size):
    shards = [flat(labels(resident(shuffle=shuffle, rank=rank, world_size=world_size))) for rank in range(world_size)]
    seen = flat(shards)
    assert len(set(seen)) == len(seen) == (23 // world_size * world_size if shuffle else 23)


def test_resident_position_is_taken_up_in_its_own_epoch_only():
    loader = resident(shuffle=True)
    loader.set_epoch(3)
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    state = loader.state_dict()
    whole = labels(loader)

    again = resident(shuffle=True)
    again.load_state_dict(state)
    assert again.state_dict() == state
    again.set_epoch(3)
    assert len(again) == 5 and labels(again) == whole[2:] and labels(again) == whole

    later = resident(shuffle=True)
    later.load_state_dict(state)
    later.set_epoch(4)
    assert len(labels(later)) == 5


def test_resident_refuses_to_augment_evaluation_images():
    with pytest.raises(ValueError, match="augment is for training and needs shuffle=True"):
        resident(augment=RandomCropFlip(padding=1, flip=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_resident_batches_on_cuda_equal_those_on_the_cpu_and_never_wait():
    kwargs = {"shuffle": True, "augment": RandomCropFlip(padding=2, flip=True), "drop_last": True}
    there, here = resident(device="cuda", **kwargs), resident(**kwargs)
    on_device = iter(there)
    batches = [next(on_device)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches += list(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (expected_x, expected_y) in zip(batches, here, strict=True):
        assert x.is_cuda and x.cpu().equal(expected_x) and y.cpu().equal(expected_y)


def test_train_variants_do_not_depend_on_the_number_of_ranks():
    one = dict(TrainSampler(10, variants=1000))
    two = dict(pair for rank in range(2) for pair in TrainSampler(10, variants=1000, rank=rank, world_size=2))
    assert one == two and len(set(one.values())) > 5


@pytest.mark.parametrize("total", [7, 12, 37, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 16])
def test_even_batch_size_gives_every_rank_as_many_batches(total, world_size, batch_size):
    size = even_batch_size(total, batch_size, world_size)
    counts = [len(EvalSampler(total, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sum(counts) == total and len({-(-count // size) for count in counts}) == 1
    if len({-(-count // batch_size) for count in counts}) == 1:
        assert size == batch_size

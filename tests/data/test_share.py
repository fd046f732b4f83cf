import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_advreg.data.share import Share


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [None, 1, 4, 6, 100])
def test_every_image_counts_once_though_the_distributed_sampler_repeats_some(world_size, limit):
    for total in range(1, 14):
        data = TensorDataset(torch.arange(total))
        counted = []
        for rank in range(world_size):
            sampler = DistributedSampler(data, world_size, rank, shuffle=False)
            share = Share(total if limit is None else min(limit, total), rank, world_size)
            for (batch,) in DataLoader(data, batch_size=3, sampler=sampler):
                place = share.place
                taken = batch[: share.take(len(batch))].tolist()
                assert taken == [place + i * world_size for i in range(len(taken))]
                counted += taken
        assert sorted(counted) == list(range(total if limit is None else min(limit, total)))


def test_without_a_limit_everything_that_comes_counts():
    share = Share(None, rank=1, world_size=2)
    assert [share.take(5), share.take(2)] == [5, 2]

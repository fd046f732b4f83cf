import pytest
import torch

from lightning_advreg.attacks import Alone
from lightning_advreg.callbacks.collected import CollectedImages
from lightning_advreg.data.share import Share


class OneOf(Alone):
    """A process whose fellows hold what is given."""

    def __init__(self, rank, held):
        self.rank, self.size, self.held = rank, len(held), held

    def gather(self, value):
        return [value if rank == self.rank else other for rank, other in enumerate(self.held)]


def data(n):
    return torch.arange(n).view(n, 1, 1, 1) / 100, torch.arange(n)


def collected(x, y, limit=None, rank=0, size=1, batch=2):
    images = CollectedImages(Share(limit, rank, size))
    for part in torch.arange(len(x)).split(batch):
        images.add(x[part], y[part])
    return images


@pytest.mark.parametrize(("n", "size", "limit"), [(7, 2, None), (7, 3, None), (7, 3, 5), (1, 2, None), (7, 1, 4)])
def test_images_of_all_processes_come_in_the_order_of_the_data(n, size, limit):
    x, y = data(n)
    # a sampler that repeats images at the end, to give all processes equally many
    places = torch.arange(-(-n // size) * size) % n
    shares = [collected(x[places[r::size]], y[places[r::size]], limit or n, r, size) for r in range(size)]
    held = [None] * size
    for rank in range(size):
        shares[rank].gather(OneOf(rank, held := held.copy())) if size == 1 else None
        batches = shares[rank]._batches
        held[rank] = tuple(torch.cat(part) for part in zip(*batches, strict=True))
    for rank in range(size):
        found_x, found_y = shares[rank].gather(OneOf(rank, held))
        assert found_y.tolist() == list(range(limit or n))
        assert torch.equal(found_x, x[: limit or n])


def test_processes_that_hold_unequally_many():
    """Loaders without a distributed sampler deal out images as they like."""
    x, y = data(5)
    mine = collected(x[:4], y[:4])
    _, found = mine.gather(OneOf(0, [None, (x[4:], y[4:])]))
    assert found.tolist() == [0, 4, 1, 2, 3]
    _, found = mine.gather(OneOf(0, [None, None]))
    assert found.tolist() == [0, 1, 2, 3]


def test_nothing_was_seen():
    x, y = CollectedImages(Share(None)).gather(Alone())
    assert len(x) == len(y) == 0


def test_copies_can_take_part_in_a_backward_pass():
    images = CollectedImages(Share(None))
    with torch.inference_mode():
        x, y = data(2)
        images.add(x, y)
        x.zero_()
    found, _ = images.gather(Alone())
    assert found[1].item() == pytest.approx(0.01)
    (found.requires_grad_() * 2).sum().backward()

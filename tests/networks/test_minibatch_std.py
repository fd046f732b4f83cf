import numpy as np
import pytest
import torch

from lightning_advreg.networks import MinibatchStandardDeviation


def reference(x, sizes):
    """The standard deviation of Karras et al. (2018), group by group, in numpy."""
    added, start = [], 0
    for size in sizes:
        group = x[start : start + size].astype(np.float64)
        deviation = np.sqrt(((group - group.mean(0)) ** 2).mean(0) + 1e-8).mean()
        added += [np.full((1, *x.shape[2:]), deviation)] * size
        start += size
    return np.concatenate([x, np.stack(added)], axis=1)


@pytest.mark.parametrize(
    ("n", "group_size", "sizes"),
    [(8, 4, [4, 4]), (4, 4, [4]), (11, 4, [6, 5]), (9, 2, [3, 2, 2, 2]), (7, 4, [7]), (3, 4, [3]), (1, 4, [1])],
)
@pytest.mark.parametrize("shape", [(3, 4, 5), (6,)])
def test_it_is_that_of_the_paper_in_groups_of_any_batch(n, group_size, sizes, shape):
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))
    y = MinibatchStandardDeviation(group_size)(x)
    assert y.shape == (n, shape[0] + 1, *shape[1:]) and sum(sizes) == n
    np.testing.assert_allclose(y.numpy(), reference(x.numpy(), sizes), rtol=1e-5, atol=1e-7)


def test_gradients_are_those_of_differences_and_finite_where_all_images_are_equal():
    layer = MinibatchStandardDeviation(2)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    # the layer computes in float32, so that gradcheck would see its rounding alone
    layer(x)[:, -1].sum().backward()
    step = torch.zeros_like(x)
    step[1, 1, 2] = 1e-2
    slope = (layer(x + step)[:, -1].sum() - layer(x - step)[:, -1].sum()) / 2e-2
    assert x.grad[1, 1, 2].item() == pytest.approx(slope.item(), rel=1e-2)
    equal = torch.ones(4, 2, requires_grad=True)
    layer(equal).sum().backward()
    assert equal.grad.isfinite().all()


def test_half_precision_neither_overflows_nor_changes_type():
    x = torch.tensor([[0.0], [1000.0]], dtype=torch.float16)
    y = MinibatchStandardDeviation()(x)
    assert y.dtype == torch.float16 and y[:, 1].tolist() == [500.0, 500.0]


def test_channels_last_maps_are_fine():
    x = torch.randn(4, 3, 2, 2)
    layer = MinibatchStandardDeviation()
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


def test_a_group_of_one_is_an_error():
    with pytest.raises(ValueError, match="group_size must be 2 or more, got 1"):
        MinibatchStandardDeviation(1)

import math

import pytest
import torch

from lightning_advreg.metrics import PerturbationSize

P = {"linf": math.inf, "l2": 2, "l1": 1}


def sized(sizes, found=None, **arguments):
    """A metric of images of one pixel whose changes are these."""
    x = torch.zeros(len(sizes), 1, 1, 1)
    metric = PerturbationSize("linf", **arguments)
    found = torch.ones(len(sizes), dtype=torch.bool) if found is None else torch.tensor(found)
    metric.update(x, x + torch.tensor(sizes).view(-1, 1, 1, 1), found)
    return metric


def plain(metric):
    return {name: value.item() for name, value in metric.compute().items()}


def test_by_hand():
    metric = sized([0.5, 0.1, 0.9, 0.2, 0.3, 0.7], [True, True, False, True, True, False])
    assert plain(metric) == pytest.approx(
        {
            "mean": 0.275,
            "q25": 0.175,
            "median": 0.25,
            "q75": 0.35,
            "min": 0.1,
            "max": 0.5,
            "median_all": 0.4,
            "found": 4,
            "total": 6,
        }
    )


@pytest.mark.parametrize("norm", P)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_distances_are_norms_of_the_change(norm, dtype):
    generator = torch.Generator().manual_seed(0)
    x, x_adv = (torch.rand(9, 3, 4, 5, generator=generator).to(dtype) for _ in range(2))
    metric = PerturbationSize(norm)
    metric.update(x, x_adv, torch.ones(9, dtype=torch.bool))
    expected = torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), P[norm], dim=1)
    torch.testing.assert_close(torch.cat(metric.sizes).double(), expected, rtol=1e-5, atol=1e-6)
    result = plain(metric)
    assert result["mean"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert result["max"] == pytest.approx(expected.max().item(), rel=1e-5)


def test_the_median_over_all_is_infinite_where_most_were_not_found():
    assert plain(sized([0.1, 0.2, 0.3], [True, False, False]))["median_all"] == math.inf
    # of two middle values, one or both infinite
    assert plain(sized([0.1, 0.2], [True, False]))["median_all"] == math.inf
    assert plain(sized([0.1, 0.2, 0.3, 0.4], [True, False, False, False]))["median_all"] == math.inf
    assert plain(sized([0.1, 0.2, 0.3], [True, True, False]))["median_all"] == pytest.approx(0.2)


def test_nothing_found_gives_nan_and_counts():
    result = plain(sized([0.1, 0.2], [False, False]))
    assert (result["found"], result["total"], result["median_all"]) == (0, 2, math.inf)
    assert all(math.isnan(result[name]) for name in ("mean", "q25", "median", "q75", "min", "max"))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_gives_nan_and_zeros():
    result = plain(PerturbationSize("l2"))
    assert (result.pop("found"), result.pop("total")) == (0, 0)
    assert len(result) == 7 and all(math.isnan(value) for value in result.values())


def test_what_was_not_found_may_be_anything():
    x = torch.zeros(2, 1, 1, 1)
    x_adv = torch.tensor([0.5, math.nan]).view(2, 1, 1, 1)
    metric = PerturbationSize("l2")
    metric.update(x, x_adv, torch.tensor([True, False]))
    assert plain(metric)["max"] == 0.5 and plain(metric)["found"] == 1


def test_quantiles_are_named():
    names = list(plain(sized([0.1, 0.2], quantiles=(0.5, 0.05, 0.125, 1))))
    assert names == ["mean", "median", "q5", "q12.5", "q100", "min", "max", "median_all", "found", "total"]


def test_sizes_hold_no_graph():
    metric = PerturbationSize("l2")
    x = torch.rand(2, 1, 2, 2)
    metric.update(x, (x + 0.1).requires_grad_(), torch.tensor([True, True]))
    assert not metric.sizes[0].requires_grad


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, got 'l0'"):
        PerturbationSize("l0")
    for quantiles in ((0.5, 1.5), (0.5, 0.5), (math.nan,)):
        with pytest.raises(ValueError, match=r"quantiles must be distinct numbers in \[0, 1\]"):
            PerturbationSize("l2", quantiles)
    metric = PerturbationSize("l2")
    x, found = torch.zeros(3, 1, 2, 2), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"x and x_adv must have one shape, got \(3, 1, 2, 2\) and \(1, 1, 2, 2\)"):
        metric.update(x, x[:1], found)
    with pytest.raises(ValueError, match=r"found must be a bool mask of shape \(3,\), got torch.int64"):
        metric.update(x, x, found.long())
    with pytest.raises(TypeError, match="images must be floating point"):
        metric.update(x, x.to(torch.uint8), found)
    assert metric.sizes == []

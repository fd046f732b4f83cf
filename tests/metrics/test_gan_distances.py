"""Distances between sets of features, against closed forms and other people's arithmetic."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from lightning_advreg.metrics import (
    ClasswiseFrechetDistance,
    Features,
    FrechetDistance,
    KernelDistance,
    NearestNeighbours,
    PrecisionRecallDensityCoverage,
    frechet_distance,
)


def normal(count, size, seed=0, shift=0.0, scale=1.0):
    return shift + scale * torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def between(metric, real, generated):
    metric.update(Features(real), "real")
    metric.update(Features(generated), "generated")
    return metric.compute()


def by_scipy(real, generated):
    means, covariances = zip(*((x.mean(0), np.cov(x, rowvar=False)) for x in (real, generated)), strict=True)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    apart = ((means[0] - means[1]) ** 2).sum()
    return apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)


def test_frechet_of_commuting_gaussians_is_that_of_their_standard_deviations():
    s, t = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 0.0, 0.5])
    turn = torch.linalg.qr(normal(3, 3)).Q
    mean, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    found = frechet_distance(mean, turn * s**2 @ turn.T, other, turn * t**2 @ turn.T)
    assert found.item() == pytest.approx(5 + ((s - t) ** 2).sum().item(), rel=1e-6)


def test_frechet_agrees_with_scipy_and_torchmetrics():
    real, generated = normal(300, 12) @ normal(12, 12, 5), normal(200, 12, 1, 0.5) @ normal(12, 12, 6)
    found = between(FrechetDistance(), real, generated)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(by_scipy(real.double().numpy(), generated.double().numpy()), rel=1e-9)
    identity = nn.Identity()
    identity.num_features = 12
    theirs = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(generated, real=False)
    assert found.item() == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_frechet_agrees_with_torch_fidelity():
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    real, generated = normal(100, 6), normal(100, 6, 1, 0.3, 1.4)
    statistics = [fid.fid_features_to_statistics(x) for x in (real, generated)]
    theirs = fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert between(FrechetDistance(), real, generated).item() == pytest.approx(theirs, rel=1e-5)


def test_frechet_of_fewer_images_than_features_is_real_and_zero_for_the_same():
    x = normal(5, 20)
    assert between(FrechetDistance(), x, x).item() == pytest.approx(0, abs=1e-9)
    assert between(FrechetDistance(), x, x + 3).item() == pytest.approx(180, rel=1e-6)


def test_frechet_keeps_its_digits_far_from_the_origin():
    x, y = normal(400, 3), normal(400, 3, 1)
    near, far = between(FrechetDistance(), x, y), between(FrechetDistance(), x + 1000, y + 1000)
    # float32 features at 1000 have steps of 6e-5, float32 sums would lose all digits
    assert far.item() == pytest.approx(near.item(), abs=1e-3)


def test_frechet_of_each_class():
    y = torch.tensor([0, 1] * 50 + [2])
    x = normal(101, 4)
    metric = ClasswiseFrechetDistance()
    logits = torch.zeros(101, 4)
    metric.update(Features(x, logits, y), "real")
    metric.update(Features(x + y[:, None], logits, y), "generated")
    found = {name: value.item() for name, value in metric.compute().items()}
    # class 1 has moved by 1 in each of 4 features; of class 2 there is one image, of class 3 none
    assert found["frechet_class_0"] == pytest.approx(0, abs=1e-9)
    assert found["frechet_class_1"] == pytest.approx(4, rel=1e-6)
    assert math.isnan(found["frechet_class_2"]) and math.isnan(found["frechet_class_3"])
    assert found["frechet_classwise"] == pytest.approx(2, rel=1e-6)
    one = FrechetDistance()
    one.update(Features(x[y == 0]), "real")
    one.update(Features((x + 2 * y[:, None])[y == 1]), "generated")
    swapped = ClasswiseFrechetDistance()
    swapped.update(Features(x[y == 0], logits[y == 0], y[y == 0]), "real")
    # without labels, what the classifier says counts
    swapped.update(Features((x + 2 * y[:, None])[y == 1], torch.eye(4)[torch.zeros(50).long()]), "generated")
    assert swapped.compute()["frechet_class_0"].item() == pytest.approx(one.compute().item(), rel=1e-9)


def kernel_by_loop(real, generated):
    def mean(a, b, same):
        values = [
            (np.dot(u, v) / len(u) + 1) ** 3 for i, u in enumerate(a) for j, v in enumerate(b) if not (same and i == j)
        ]
        return np.mean(values)

    return mean(real, real, True) + mean(generated, generated, True) - 2 * mean(real, generated, False)


def test_kernel_distance_of_all_images_is_the_double_sum():
    real, generated = normal(9, 4), normal(9, 4, 1, 0.5)
    found = between(KernelDistance(subsets=1), real, generated)
    expected = kernel_by_loop(real.double().numpy(), generated.double().numpy())
    assert found["kernel"].item() == pytest.approx(expected, rel=1e-12)
    assert found["kernel_std"].item() == 0


def test_kernel_distance_is_unbiased_and_agrees_with_torchmetrics_within_its_spread():
    real, generated = normal(400, 6), normal(400, 6, 1)
    same = between(KernelDistance(subsets=200, subset_size=50), real, generated)
    # the biased estimate would be about (2^3 - 1) * 2 / 50 above
    assert abs(same["kernel"].item()) < 0.06 < 0.28
    identity = nn.Identity()
    identity.num_features = 6
    theirs = KernelInceptionDistance(feature=identity, subsets=200, subset_size=50)
    theirs.update(real, real=True)
    theirs.update(generated + 0.5, real=False)
    ours = between(KernelDistance(subsets=200, subset_size=50), real, generated + 0.5)
    mean, std = theirs.compute()
    assert ours["kernel"].item() == pytest.approx(mean.item(), abs=4 * std.item() / math.sqrt(200))
    assert ours["kernel_std"].item() == pytest.approx(std.item(), rel=0.3)


def test_kernel_distance_depends_on_its_seed_alone():
    real, generated = normal(60, 3), normal(60, 3, 1)

    def found(seed):
        return between(KernelDistance(subsets=3, subset_size=20, seed=seed), real, generated)["kernel"].item()

    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert found(1) == found(1) != found(2)
    assert torch.equal(torch.get_rng_state(), state)


def manifold_by_loop(real, generated, k):
    def reach(points):
        return [sorted(math.dist(a, b) for j, b in enumerate(points) if j != i)[k - 1] for i, a in enumerate(points)]

    r, g = reach(real), reach(generated)
    inside = [[math.dist(y, x) <= r[i] for i, x in enumerate(real)] for y in generated]
    return {
        "precision": np.mean([any(row) for row in inside]),
        "recall": np.mean([any(math.dist(x, y) <= g[j] for j, y in enumerate(generated)) for x in real]),
        "density": np.sum(inside) / (k * len(generated)),
        "coverage": np.mean([any(row[i] for row in inside) for i in range(len(real))]),
    }


@pytest.mark.parametrize("k", [1, 3])
def test_manifolds_agree_with_loops(k, monkeypatch):
    monkeypatch.setattr("lightning_advreg.metrics.gan_neighbours._ROWS", 7)
    real, generated = normal(30, 2), normal(23, 2, 1, 1.2, 0.8)
    found = between(PrecisionRecallDensityCoverage(k), real, generated)
    expected = manifold_by_loop(real.double().tolist(), generated.double().tolist(), k)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)
    assert all(0 < value < 1 for value in expected.values()) and len(set(expected.values())) == 4


def test_one_image_over_and_over_is_precise_and_covers_nothing():
    real = normal(100, 3)
    found = between(PrecisionRecallDensityCoverage(), real, real[:1].repeat(100, 1) + 1e-4)
    assert found["precision"] == 1 and found["recall"] <= 0.01 and found["coverage"] < 0.15


def test_copies_are_found_and_new_images_are_not():
    train, held_out, new = normal(500, 4), normal(500, 4, 1), normal(500, 4, 2)

    def found(generated):
        metric = NearestNeighbours()
        metric.update(Features(train), "train")
        metric.update(Features(held_out), "held_out")
        metric.update(Features(generated), "generated")
        return {name: value.item() for name, value in metric.compute().items()}

    fresh, copied = found(new), found(train[:100] + 1e-3)
    assert fresh["nearest_ratio"] == pytest.approx(1, abs=0.1) and fresh["nearest_share"] < 0.04
    assert copied["nearest_ratio"] < 0.01 and copied["nearest_share"] == 1


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"FrechetDistance takes images of the origins real, generated, got 'train'"):
        FrechetDistance().update(Features(torch.zeros(2, 2)), "train")
    with pytest.raises(ValueError, match="a covariance needs at least two images, got 1 generated ones"):
        between(FrechetDistance(), torch.zeros(2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="got 3 real and 1 generated ones"):
        between(KernelDistance(), torch.zeros(3, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="neighbours=5 needs more images of each kind, got 6 real and 5 generated"):
        between(PrecisionRecallDensityCoverage(), normal(6, 2), normal(5, 2))
    with pytest.raises(ValueError, match="ClasswiseFrechetDistance has seen no images of one kind"):
        ClasswiseFrechetDistance().compute()
    with pytest.raises(ValueError, match="seen no images of the origin 'train'"):
        NearestNeighbours().compute()
    with pytest.raises(ValueError, match="ClasswiseFrechetDistance needs an extractor that knows classes"):
        ClasswiseFrechetDistance().update(Features(torch.zeros(2, 2)), "real")
    for make, message in (
        (lambda: KernelDistance(subsets=0), "subsets must be at least 1, got 0"),
        (lambda: KernelDistance(subset_size=1), "subset_size must be at least 2, got 1"),
        (lambda: PrecisionRecallDensityCoverage(0), "neighbours must be at least 1, got 0"),
        (lambda: NearestNeighbours(1.0), "percentile must be between 0 and 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

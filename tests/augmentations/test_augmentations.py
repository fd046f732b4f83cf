"""Noise, mixtures and holes: statistics, and each against its formula."""

import pytest
import torch
from torch.nn.functional import one_hot

from lightning_advreg.augmentations import CutMix, Cutout, InputNoise, MixUp
from lightning_advreg.augmentations.base import as_labels

ALL = [InputNoise(), MixUp(), CutMix(), Cutout(size=3)]
each = pytest.mark.parametrize("augmentation", ALL, ids=lambda a: type(a).__name__)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def batch(n=16, size=8, classes=4):
    return torch.rand(n, 3, size, size), one_hot(torch.arange(n) % classes, classes).float()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_dtype_and_range_stay_and_nothing_is_written_to(augmentation, dtype):
    x, y = (tensor.to(dtype) for tensor in batch())
    kept = x.clone(), y.clone()
    images, labels = augmentation(x, y)
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == (x.shape, dtype, y.shape, dtype)
    assert images.min() >= 0 and images.max() <= 1 and not images.equal(x)
    assert labels.sum(1).float().allclose(torch.ones(16), atol=1e-2)
    assert x.equal(kept[0]) and y.equal(kept[1])


@each
def test_it_follows_the_generator(augmentation):
    x, y = batch()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augmentation(x, y)[0])
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])


def test_noise_has_its_standard_deviation_and_no_pattern():
    x = torch.full((64, 3, 16, 16), 0.5)
    noise = InputNoise(std="1/20")(x, torch.zeros(64))[0] - x
    assert noise.mean().abs() < 1e-3 and noise.std().item() == pytest.approx(0.05, rel=0.02)
    flat = noise.flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(64)
    assert correlation.abs().max() < 0.2


def test_noise_of_zero_is_none():
    x, y = batch()
    assert InputNoise(std=0)(x, y)[0].equal(x)


def test_mixup_mixes_images_and_labels_in_one_proportion():
    x, y = batch()
    shares = []
    for _ in range(200):
        images, labels = MixUp(alpha=0.5)(x, y)
        share = labels[1, 1].item()
        assert images.allclose(share * x + (1 - share) * x.roll(1, 0), atol=1e-6)
        assert labels.allclose(share * y + (1 - share) * y.roll(1, 0), atol=1e-6)
        shares.append(share)
    # Beta(a, a) has mean 1/2 and variance 1 / (8 a + 4)
    assert torch.tensor(shares).mean().item() == pytest.approx(0.5, abs=0.08)
    assert torch.tensor(shares).var().item() == pytest.approx(1 / 8, abs=0.03)


def test_cutmix_shares_labels_by_the_area_that_is_covered():
    x, y = batch(size=16)
    areas = []
    for _ in range(50):
        images, labels = CutMix()(x, y)
        foreign = (images == x.roll(1, 0)).all(1) & ~(images == x).all(1)
        # the same box in each image
        assert (foreign == foreign[:1]).all()
        areas.append(foreign[0].float().mean().item())
        assert labels[1, 0].item() == pytest.approx(areas[-1], abs=1e-6)
    assert min(areas) < 0.1 and max(areas) > 0.5


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_the_share_of_batches_that_are_mixed(kind):
    x, y = batch()
    mixing = kind(probability=0.25)
    # a box may be empty, so it is the object that tells
    mixed = [mixing(x, y)[0] is not x for _ in range(400)]
    assert sum(mixed) == pytest.approx(100, abs=30)
    assert kind(probability=0)(x, y)[0] is x


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_cuts_a_square_of_its_own_from_each_image(size):
    x = torch.ones(400, 2, 9, 9)
    holes = Cutout(size=size, fill=0)(x, torch.zeros(400))[0] == 0
    assert (holes[:, 0] == holes[:, 1]).all()
    rows, columns = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert (holes[:, 0].sum((1, 2)) == rows * columns).all()
    assert rows.max() == size and rows.min() == (size + 1) // 2 and columns.max() == size
    assert len({tuple(hole.flatten().tolist()) for hole in holes[:, 0]}) > 50
    # centres are even over the image: a centre pixel is covered in size^2 of 81 cases
    assert holes[:, 0, 4, 4].float().mean().item() == pytest.approx(size**2 / 81, abs=0.07)


def test_cutout_fills():
    assert Cutout(size=20, fill="1/4")(torch.ones(2, 1, 4, 4), torch.zeros(2))[0].unique().tolist() == [0.25]


def test_the_class_of_shares_is_the_largest():
    assert as_labels(torch.tensor([[0.4, 0.6], [0.9, 0.1]])).tolist() == [1, 0]
    assert as_labels(torch.tensor([3, 1])).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: InputNoise(std=-1), r"^std must be at least 0, got -1"),
        (lambda: MixUp(alpha=0), r"^alpha must be positive, got 0; for no mixing leave it out"),
        (lambda: CutMix(alpha="-1/2"), r"^alpha must be positive, got '-1/2'"),
        (lambda: MixUp(probability=1.5), r"^probability must be at most 1, got 1.5"),
        (lambda: Cutout(size=0), r"^size must be an integer of at least 1, got 0"),
        (lambda: Cutout(size=2.0), r"^size must be an integer of at least 1, got 2.0"),
        (lambda: Cutout(fill=255), r"^fill must be at most 1, got 255"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_mixing_needs_shares(kind):
    x, _ = batch()
    message = rf"^{kind.__name__} mixes labels, .* got torch.int64 of shape \(16,\); give torch.nn.functional.one_hot"
    with pytest.raises(TypeError, match=message):
        kind()(x, torch.zeros(16, dtype=torch.int64))

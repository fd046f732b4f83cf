"""AugMix and TrivialAugment on whole batches."""

import pytest
import torch

from lightning_advreg.augmentations import AugMix, TrivialAugment

POLICIES = pytest.mark.parametrize("kind", [AugMix, TrivialAugment])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def one_image(n):
    """The same image everywhere, so that what differs is the draw."""
    return torch.rand(1, 3, 12, 12).expand(n, 3, 12, 12), torch.arange(n)


def kinds(images):
    return len({image.numpy().tobytes() for image in images})


@POLICIES
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(kind, channels):
    x, y = torch.rand(5, channels, 12, 12), torch.arange(5)
    kept = x.clone()
    images, labels = kind()(x, y)
    assert (images.shape, images.dtype) == (x.shape, x.dtype) and labels is y and x.equal(kept)
    assert images.min() >= 0 and images.max() <= 1


def test_each_image_has_a_draw_of_its_own():
    x, y = one_image(40)
    assert kinds(AugMix()(x, y)[0]) == 40
    # some operations change nothing, and some draws are alike
    assert kinds(TrivialAugment()(x, y)[0]) > 12
    assert kinds(TrivialAugment(shared_by=20)(x, y)[0]) <= 2


def test_mixing_weights_are_each_images_own_where_operations_are_shared():
    x, y = one_image(20)
    assert kinds(AugMix(shared_by=20, severity=10)(x, y)[0]) > 15


@POLICIES
def test_it_follows_the_generator(kind):
    x, y = one_image(8)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(kind()(x, y)[0])
    assert drawn[0].equal(drawn[1]) and not drawn[0].equal(drawn[2])


def test_mild_augmix_is_near_the_image_and_strong_is_further():
    x, y = torch.rand(30, 3, 12, 12), torch.arange(30)
    mild, strong = ((AugMix(severity=s)(x, y)[0] - x).abs().mean().item() for s in (1, 10))
    assert mild < strong


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AugMix(severity=11), r"^severity must be an integer from 1 to 10, got 11"),
        (lambda: AugMix(width=0), r"^width must be an integer of at least 1, got 0"),
        (lambda: AugMix(alpha=0), r"^alpha must be positive, got 0"),
        (lambda: TrivialAugment(shared_by=0), r"^shared_by must be an integer of at least 1, got 0"),
        (lambda: AugMix()(torch.rand(2, 4, 8, 8), torch.zeros(2)), r"^AugMix takes images \(N, C, H, W\) of 1 or 3"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()

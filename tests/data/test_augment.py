import pytest
import torch

from lightning_advreg.data import RandomCropFlip
from lightning_advreg.data.pixels import to_unit_range


def one_by_one(x, variants, padding, mode):
    """Pad, crop and flip each image with the textbook operations."""
    side = 2 * padding + 1
    result = []
    for image, variant in zip(x, variants.tolist(), strict=True):
        flip, top, left = variant // side**2, variant // side % side, variant % side
        padded = torch.nn.functional.pad(
            image.float()[None], (padding,) * 4, mode="constant" if mode == "zeros" else "reflect"
        )[0]
        cut = padded[:, top : top + x.shape[2], left : left + x.shape[3]]
        result.append(torch.fliplr(cut.permute(1, 2, 0)).permute(2, 0, 1) if flip else cut)
    return torch.stack(result).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_equals_the_augmentation_of_one_image_after_the_other(dtype, mode, flip, padding):
    augment = RandomCropFlip(padding=padding, flip=flip, mode=mode)
    x = torch.randint(256, (augment.variants, 3, 9, 7), dtype=torch.uint8).to(dtype)
    before = x.clone()
    every_variant = torch.arange(augment.variants)
    result = augment.apply(x, every_variant)
    assert result.dtype == dtype and result.equal(one_by_one(x, every_variant, padding, mode))
    assert x.equal(before)


def test_draws_every_offset_and_flip_equally_often():
    augment = RandomCropFlip(padding=1, flip=True)
    counts = augment.draw(18_000, torch.Generator().manual_seed(0)).bincount(minlength=18)
    # 18 variants of 1000 each: five standard deviations
    assert augment.variants == 18 and (counts - 1000).abs().max() < 160


def test_images_of_a_batch_are_augmented_each_in_its_own_way():
    augment = RandomCropFlip(padding=4, flip=True)
    image = torch.rand(1, 1, 32, 32).expand(64, -1, -1, -1)
    result = augment(image, torch.Generator().manual_seed(0))
    assert len({x.numpy().tobytes() for x in result}) > 40
    assert result.equal(augment(image, torch.Generator().manual_seed(0)))


def test_pixels_become_exactly_v_over_255():
    values = torch.arange(256, dtype=torch.uint8)
    expected = torch.tensor([v / 255 for v in range(256)], dtype=torch.float32)
    assert to_unit_range(values).equal(expected)
    if torch.cuda.is_available():
        assert to_unit_range(values.cuda()).cpu().equal(expected)


def test_bad_arguments():
    with pytest.raises(ValueError, match="padding must be 0 or more pixels, got -1"):
        RandomCropFlip(padding=-1, flip=False)
    with pytest.raises(ValueError, match="mode must be 'zeros' or 'reflect', got 'edge'"):
        RandomCropFlip(padding=1, flip=False, mode="edge")
    with pytest.raises(ValueError, match="larger than the padding of 4 pixels, got 4x9"):
        RandomCropFlip(padding=4, flip=False, mode="reflect").apply(torch.rand(1, 1, 4, 9), torch.zeros(1).long())

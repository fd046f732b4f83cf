import numpy as np
import pytest
import torch
from PIL import Image

from lightning_advreg.reporting import image_grid, save_image, to_array


def test_tiles_go_left_to_right_and_are_enlarged_without_blurring():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2) / 8
    grid = image_grid(images, columns=3, min_tile=4)
    assert grid.shape == (3, 2 * 6 + 2, 3 * 6 + 2)
    tiles = grid[:, 2:, 2:].unfold(1, 4, 6).unfold(2, 4, 6).permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert [tile.unique().tolist() for tile in tiles] == [[0.0], [0.125], [0.25], [0.375], [0.5], [1.0]]


@pytest.mark.parametrize(("height", "enlarged"), [(8, 64), (28, 84), (32, 64), (64, 64), (100, 100)])
def test_one_image_has_no_border_and_its_channels(height, enlarged):
    assert image_grid(torch.rand(1, 1, height, height), columns=4).shape == (1, enlarged, enlarged)


def test_grid_refuses_what_is_no_batch_of_images():
    with pytest.raises(ValueError, match=r"N >= 1, got \(0, 3, 8, 8\)"):
        image_grid(torch.rand(0, 3, 8, 8), columns=2)
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\)"):
        image_grid(torch.rand(3, 8, 8), columns=2)
    with pytest.raises(ValueError, match="columns must be at least 1, got 0"):
        image_grid(torch.rand(3, 1, 8, 8), columns=0)


def test_pixels_are_rounded_to_the_nearest_of_256_and_grey_becomes_colour():
    levels = torch.arange(256) / 255
    array = to_array((levels + 0.4 / 255).clamp(max=1).view(1, 16, 16))
    assert array.shape == (16, 16, 3)
    assert np.array_equal(array[:, :, 0].ravel(), np.arange(256))
    assert np.array_equal(array[:, :, 0], array[:, :, 2])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(3, 4, 4, dtype=torch.uint8), TypeError, "floating point in .* got torch.uint8; divide by 255"),
        (torch.zeros(4, 4), ValueError, r"must have shape .* got \(4, 4\)"),
        (torch.zeros(2, 4, 4), ValueError, r"must have shape .* got \(2, 4, 4\)"),
        (torch.full((1, 2, 2), 255.0), ValueError, r"must lie in \[0, 1\], got values from 255 to 255"),
        (torch.full((1, 2, 2), torch.nan), ValueError, r"must lie in \[0, 1\], got values from nan"),
    ],
)
def test_what_is_no_image_is_refused(image, error, message):
    with pytest.raises(error, match=message):
        to_array(image)


def test_a_saved_image_reads_back(tmp_path):
    image = torch.rand(3, 5, 7)
    save_image(image, tmp_path / "new" / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "image.png")), to_array(image))

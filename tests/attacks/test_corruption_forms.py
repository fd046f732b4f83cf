"""Closed forms of the corruptions, kind by kind."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from lightning_advreg.attacks.randomness import seeded
from tests.attacks.test_corruptions import corrupt, photos


@pytest.mark.parametrize(
    ("kind", "severity", "variance"),
    [
        ("gaussian_noise", 3, 0.08**2),
        ("gaussian_noise", 5, 0.10**2),
        ("speckle_noise", 3, (0.5 * 0.12) ** 2),
        ("speckle_noise", 5, (0.5 * 0.20) ** 2),
        ("shot_noise", 1, 0.5 / 500),
        ("shot_noise", 4, 0.5 / 75),
        ("impulse_noise", 2, 0.02 * 0.25),
        ("impulse_noise", 5, 0.07 * 0.25),
    ],
)
def test_noise_on_grey_has_its_variance_and_no_bias(kind, severity, variance):
    grey = torch.full((16, 3, 64, 64), 0.5)
    result = corrupt(grey, kind, severity)
    assert result.var().item() == pytest.approx(variance, rel=0.04)
    assert result.mean().item() == pytest.approx(0.5, abs=0.002)
    # every channel has noise of its own
    noise = (result - 0.5).transpose(0, 1).flatten(1)
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.03


def test_shot_and_speckle_noise_grow_with_the_light():
    dark, bright = torch.full((4, 1, 64, 64), 0.1), torch.full((4, 1, 64, 64), 0.6)
    assert corrupt(bright, "shot_noise").var() / corrupt(dark, "shot_noise").var() == pytest.approx(6, rel=0.1)
    assert corrupt(bright, "speckle_noise").std() / corrupt(dark, "speckle_noise").std() == pytest.approx(6, rel=0.1)


def test_impulses_are_black_and_white_in_equal_number():
    result = corrupt(torch.full((16, 3, 64, 64), 0.5), "impulse_noise", 5)
    assert set(result.unique().tolist()) == {0.0, 0.5, 1.0}
    for value in (0, 1):
        assert (result == value).float().mean().item() == pytest.approx(0.035, rel=0.05)


@pytest.mark.parametrize("kind", ["gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"])
def test_blur_keeps_the_mean_and_lowers_the_total_variation(kind):
    def variation(x):
        return x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()

    x = photos()
    result = corrupt(x, kind, 5)
    torch.testing.assert_close(result.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=0.02, rtol=0)
    assert variation(result) < 0.9 * variation(x)
    flat = torch.full((2, 3, 32, 32), 0.3)
    torch.testing.assert_close(corrupt(flat, kind, 5), flat, atol=1e-6, rtol=0)


def moments(result):
    """Mean place and variances of a blurred point along rows and columns."""
    weights = result[0, 0].double()
    assert weights.sum().item() == pytest.approx(1, abs=2e-3)
    place = torch.arange(len(weights), dtype=torch.float64)
    rows, columns = weights.sum(1), weights.sum(0)
    means = (rows @ place).item(), (columns @ place).item()
    return means, ((rows @ (place - means[0]) ** 2).item(), (columns @ (place - means[1]) ** 2).item())


def point():
    x = torch.zeros(1, 1, 33, 33)
    x[..., 16, 16] = 1
    return x


# a sampled Gaussian of standard deviation 1 has variance 1; a disk of radius 1.5 on a grid is a square of 9
@pytest.mark.parametrize(
    ("kind", "severity", "variance"),
    [("gaussian_blur", 5, 1.0), ("defocus_blur", 5, 2 / 3), ("defocus_blur", 4, 2 / 5)],
)
def test_a_blurred_point_has_the_spread_of_the_kernel(kind, severity, variance):
    means, variances = moments(corrupt(point(), kind, severity))
    assert means == pytest.approx((16, 16), abs=1e-3)
    assert variances == pytest.approx((variance, variance), rel=0.01)


def test_motion_spreads_a_point_along_a_line_near_the_horizontal():
    x = point().repeat(64, 1, 1, 1)
    slopes = []
    for image in corrupt(x, "motion_blur", 5):
        means, (rows, columns) = moments(image.unsqueeze(0))
        assert columns > 0.75 * rows
        slopes.append((means[0] - 16) / (means[1] - 16))
        # the mean of half a sampled Gaussian with standard deviation 2.5
        weights = [2.718281828 ** (-i * i / 12.5) for i in range(11)]
        moved = sum(i * w for i, w in enumerate(weights)) / sum(weights)
        assert ((means[0] - 16) ** 2 + (means[1] - 16) ** 2) ** 0.5 == pytest.approx(moved, rel=0.02)
    assert -1.01 < min(slopes) < -0.5 and 0.5 < max(slopes) < 1.01


def test_zoom_blur_leaves_the_centre_and_draws_the_rest_outwards():
    rows = torch.arange(33.0).view(1, 1, -1, 1).expand(1, 1, 33, 33) / 32
    result = corrupt(rows, "zoom_blur", 2)
    # a ramp from the centre is divided by the zoom, on average over 1, 1, 1.01, ..., 1.10
    shrunk = (1 + sum(1 / (1 + p / 100) for p in range(11))) / 12
    torch.testing.assert_close(result, 0.5 + (rows - 0.5) * shrunk, atol=1e-5, rtol=0)


def test_brightness_adds_to_the_largest_channel_and_keeps_hue_and_saturation():
    colour = torch.tensor([0.5, 0.25, 0.1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(corrupt(colour, "brightness", 4), colour * (0.7 / 0.5))
    torch.testing.assert_close(corrupt(torch.full((1, 1, 8, 8), 0.5), "brightness", 4), torch.full((1, 1, 8, 8), 0.7))
    assert corrupt(torch.zeros(1, 3, 8, 8), "brightness", 5).unique().item() == pytest.approx(0.3)
    # the value stops at 1, where clipping channels one by one would wash the colour out
    bright = torch.tensor([0.9, 0.45, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(corrupt(bright, "brightness", 5), bright / 0.9)


def test_contrast_shrinks_each_channel_towards_its_mean():
    x = photos(2)
    result = corrupt(x, "contrast", 4)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(result, mean + 0.3 * (x - mean), atol=1e-6, rtol=0)


def test_saturation_fades_to_grey_of_the_same_luminance():
    x = photos(2)
    grey = corrupt(x, "saturation", 5)
    torch.testing.assert_close(grey, tv.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(corrupt(x, "saturation", 2), (x + grey) / 2, atol=1e-6, rtol=0)


def test_fog_is_the_same_in_all_channels_and_keeps_the_brightest_pixel_as_the_limit():
    x = torch.full((2, 3, 32, 32), 0.6)
    result = corrupt(x, "fog", 3)
    torch.testing.assert_close(result[:, 0], result[:, 2])
    # (x + c f) m / (m + c) with f in [0, 1], where m = x and c = 0.75
    low, high = result.amin((1, 2, 3)), result.amax((1, 2, 3))
    torch.testing.assert_close(low, torch.full((2,), 0.36 / 1.35))
    torch.testing.assert_close(high, torch.full((2,), 0.6))
    # smooth: neighbours are much closer than distant pixels
    assert result.diff(dim=3).square().mean() < 0.3 * (result[..., :16] - result[..., 16:]).square().mean()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 64)])
def test_elastic_moves_pixels_by_a_share_of_the_sides(height, width):
    x = torch.zeros(64, 2, height, width)
    x[:, 0] = torch.linspace(0, 1, height).view(-1, 1)
    x[:, 1] = torch.linspace(0, 1, width)
    moved = (corrupt(x, "elastic", 2) - x)[..., 8:-8, 8:-8]
    # ramps show the displacement, as a share of the side
    for channel in (0, 1):
        assert moved[:, channel].square().mean().sqrt().item() == pytest.approx(0.02, rel=0.15)
    assert moved.diff(dim=3).square().mean() < 0.1 * moved.square().mean()


@pytest.mark.parametrize(("severity", "blocks"), [(1, (30, 38)), (4, (24, 30)), (5, (20, 26))])
def test_pixelate_replaces_blocks_by_their_means(severity, blocks):
    x = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    result = corrupt(x, "pixelate", severity)
    rows = 1 + (result.diff(dim=2).abs().amax((0, 1, 3)) > 1e-6).sum().item()
    columns = 1 + (result.diff(dim=3).abs().amax((0, 1, 2)) > 1e-6).sum().item()
    assert (rows, columns) == blocks
    torch.testing.assert_close(result.mean((2, 3)), x.mean((2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(corrupt(result, "pixelate", severity), result, atol=1e-6, rtol=0)


def test_pixelate_by_hand():
    x = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8) / 8
    # 8 pixels in 6 blocks: by their centres, blocks begin at pixels 0, 1, 3, 4, 5 and 7
    expected = torch.tensor([0, 1.5, 1.5, 3, 4, 5.5, 5.5, 7]) / 8
    torch.testing.assert_close(corrupt(x, "pixelate", 4)[0, 0, 3], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_the_codec_on_rounded_pixels(channels):
    x = photos(2, channels)
    expected = []
    for image in x:
        pixels = (255 * image).round().permute(1, 2, 0).squeeze(2).numpy().astype("uint8")
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=65)
        expected.append(torch.from_numpy(np.array(Image.open(file))).view(32, 32, channels).permute(2, 0, 1) / 255)
    torch.testing.assert_close(corrupt(x, "jpeg", 2), torch.stack(expected), atol=1e-6, rtol=0)


def test_posterize_keeps_the_upper_bits():
    x = torch.arange(256).view(1, 1, 16, 16) / 255
    result = corrupt(x, "posterize", 5)
    assert result.unique().tolist() == [0, 0.25, 0.5, 0.75]
    torch.testing.assert_close(result, (4 * x).floor().clamp(max=3) / 4)


def test_the_stream_is_that_of_the_seed():
    x = torch.full((1, 1, 8, 8), 0.5)
    with seeded(7, x.device):
        noise = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(corrupt(x, "gaussian_noise", 1, seed=7), x + 0.04 * noise)

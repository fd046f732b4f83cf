import contextlib
import subprocess
import sys
from itertools import pairwise
from typing import get_args

import pytest
import torch

from lightning_advreg.attacks.corruptions import Corruption, CorruptionName, common_corruptions

KINDS = get_args(CorruptionName)
RANDOM = {
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "motion_blur",
    "fog",
    "elastic",
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_random_kind = pytest.mark.parametrize("kind", sorted(RANDOM))


def photos(n=4, channels=3, height=32, width=32):
    """Smooth shading with an edge and some texture, in colours that differ from image to image."""
    rows = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    columns = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    colour = torch.linspace(0, 2, n * channels).view(n, channels, 1, 1)
    shade = 0.5 + 0.3 * torch.sin(5 * rows + 4 * colour) * torch.cos(4 * columns + colour)
    texture = 0.08 * torch.sin(60 * columns + 25 * rows)
    disk = ((rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.08).float()
    return (shade + texture + 0.3 * disk * (0.5 - colour % 1)).clamp(0, 1)


def corrupt(x, kind, severity=3, seed=0):
    return Corruption(kind=kind, severity=severity, seed=seed)(None, x, torch.zeros(len(x), dtype=torch.int64))


def change(x, kind, severity):
    return (corrupt(x, kind, severity) - x).square().mean().item()


@every_kind
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 24, 40), (1, 28, 21)])
def test_a_higher_severity_moves_further(kind, shape):
    x = photos(8, *shape)
    changes = [change(x, kind, severity) for severity in (1, 2, 3, 4, 5)]
    if kind == "saturation" and shape[0] == 1:
        assert changes == [0] * 5
        return
    assert changes[0] > 1e-6
    assert all(more > 1.04 * less for less, more in pairwise(changes)), changes
    assert changes[4] < 0.12


@every_kind
@pytest.mark.parametrize("context", ["plain", "no_grad", "inference_mode", "autocast"])
def test_result_keeps_to_the_contract_of_attacks_in_every_context(kind, context):
    x = photos(4)
    x[0], x[1] = 0, 1
    x[2, 0, 0, 0] = -5e-5  # the rounding of resizing
    expected = corrupt(x, kind, 5)
    with contextlib.ExitStack() as stack:
        if context == "no_grad":
            stack.enter_context(torch.no_grad())
        elif context == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        elif context == "inference_mode":
            stack.enter_context(torch.inference_mode())
            x = x.clone()
        else:
            x.requires_grad_()
        before = x.detach().clone()
        result = corrupt(x, kind, 5)
    assert result.shape == x.shape and result.dtype == x.dtype and result.device == x.device
    assert not result.requires_grad and not result.is_inference()
    assert result.min() >= 0 and result.max() <= 1
    assert torch.equal(x, before) and result.data_ptr() != x.data_ptr()
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_worked_on_in_float32_at_least(kind, dtype):
    x = photos(2).to(dtype)
    result = corrupt(x, kind)
    assert result.dtype == dtype and result.min() >= 0 and result.max() <= 1
    if dtype == torch.float64 and kind in RANDOM:
        assert change(x, kind, 3) > 0  # its random stream is another one
        return
    rounding = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 1e-4}[dtype]
    # jpeg rounds to 1/255, where tiny differences can tip
    rounding += 0.02 * (kind == "jpeg")
    torch.testing.assert_close(result.float(), corrupt(x.float(), kind), atol=rounding, rtol=0)


@every_kind
def test_memory_layout_does_not_matter(kind):
    x = photos(3)
    assert torch.allclose(corrupt(x.contiguous(memory_format=torch.channels_last), kind), corrupt(x, kind), atol=1e-6)
    one = x[:1].repeat(3, 1, 1, 1)
    assert torch.allclose(corrupt(x[:1].expand(3, -1, -1, -1), kind), corrupt(one, kind), atol=1e-6)


@every_random_kind
def test_a_seed_repeats_and_leaves_the_generator_alone(kind):
    x = photos()
    before = torch.get_rng_state()
    first = corrupt(x, kind, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(corrupt(x, kind, seed=1), first)
    assert not torch.equal(corrupt(x, kind, seed=2), first)


@every_random_kind
def test_without_a_seed_the_default_generator_is_used(kind):
    x = photos()
    torch.manual_seed(5)
    first = corrupt(x, kind, seed=None)
    assert not torch.equal(corrupt(x, kind, seed=None), first)
    torch.manual_seed(5)
    assert torch.equal(corrupt(x, kind, seed=None), first)
    assert torch.equal(corrupt(x, kind, seed=5), first)


@every_random_kind
def test_images_of_a_batch_are_corrupted_each_in_its_own_way(kind):
    result = corrupt(photos(1).repeat(3, 1, 1, 1), kind)
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result[1], result[2])


@pytest.mark.parametrize("kind", sorted(set(KINDS) - RANDOM))
def test_kinds_without_random_numbers_draw_none_and_treat_images_alone(kind):
    x = photos()
    before = torch.get_rng_state()
    result = corrupt(x, kind, seed=None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(torch.cat([corrupt(image.unsqueeze(0), kind) for image in x]), result)


@every_kind
def test_other_channel_counts_work_except_where_colours_matter(kind):
    x = torch.cat([photos(2), photos(2, 1)], dim=1)
    if kind in ("saturation", "jpeg"):
        with pytest.raises(ValueError, match=rf"{kind} needs images of 1 or 3 channels, got 4; leave this kind out"):
            corrupt(x, kind)
    else:
        assert corrupt(x, kind).shape == x.shape


def test_all_kinds_and_severities_have_names():
    corruptions = common_corruptions()
    assert len(corruptions) == 5 * len(KINDS) == 80
    assert corruptions["shot_noise_4"] == Corruption(kind="shot_noise", severity=4)
    assert list(common_corruptions((2,), ("jpeg", "fog"))) == ["jpeg_2", "fog_2"]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"kind must be one of gaussian_noise, .*, got 'snow'"):
        Corruption(kind="snow")
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity must be 1, 2, 3, 4 or 5, got {severity}"):
            Corruption(kind="fog", severity=severity)
    with pytest.raises(ValueError, match="severity must be"):
        common_corruptions(severities=(3, 7))


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got values from 0 to 255"):
        corrupt(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2).expand(1, 1, 8, 2), "fog")
    with pytest.raises(TypeError, match="images must be floating point"):
        corrupt(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "fog")
    with pytest.raises(ValueError, match=r"at least 8x8 pixels, got shape \(1, 1, 8, 7\)"):
        corrupt(torch.zeros(1, 1, 8, 7), "fog")
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\)"):
        Corruption(kind="fog")(None, torch.zeros(2, 1, 8, 8), torch.zeros(1, dtype=torch.int64))


@every_kind
def test_the_smallest_images_that_are_taken(kind):
    assert corrupt(photos(2, 3, 8, 9), kind, 5).isfinite().all()


def test_importing_attacks_does_not_import_torchvision():
    script = "import sys, lightning_advreg.attacks.corruptions"
    script += "; print('torchvision.transforms.v2' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"

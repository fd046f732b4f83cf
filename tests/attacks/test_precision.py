import pytest
import torch

from lightning_advreg.attacks.precision import round_towards, working_precision

HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALF)
def test_rounding_never_moves_a_pixel_further_out_and_gives_away_less_than_a_step(dtype):
    x = torch.rand(100_000).to(dtype)
    x[:100], x[100:200], x[200:300] = 0, -0.0, 1
    x_adv = (x.float() + 0.2 * torch.rand_like(x, dtype=torch.float32) - 0.1).clamp(0, 1)
    rounded = round_towards(x_adv, x)
    assert rounded.dtype == dtype and rounded.min() >= 0 and rounded.max() <= 1
    kept, allowed = rounded.float() - x.float(), x_adv - x.float()
    assert (kept.abs() <= allowed.abs()).all()
    assert (kept * allowed >= 0).all()
    # the distance between neighbouring values in [1/2, 1], the coarsest in the box
    assert ((allowed - kept).abs() <= torch.finfo(dtype).eps / 2).all()


@pytest.mark.parametrize("dtype", HALF)
def test_values_of_the_dtype_stay(dtype):
    x, x_adv = torch.rand(1000).to(dtype), torch.rand(1000).to(dtype)
    assert torch.equal(round_towards(x_adv.float(), x), x_adv)


@pytest.mark.parametrize("dtype", HALF)
def test_a_pixel_a_little_below_zero_is_treated_as_zero(dtype):
    x = torch.tensor([-5e-5]).to(dtype)
    rounded = round_towards(torch.tensor([0.70001]), x)
    assert 0.69 < rounded.item() <= 0.70001


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_is_left_alone(dtype):
    x = torch.rand(3, dtype=dtype, requires_grad=True)
    assert working_precision(x) is x
    rounded = round_towards(x, x)
    assert torch.equal(rounded, x) and not rounded.requires_grad


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_worked_on_in_float32(dtype):
    assert working_precision(torch.rand(3).to(dtype)).dtype == torch.float32

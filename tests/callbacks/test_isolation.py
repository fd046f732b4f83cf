import pytest
import torch
from torch import nn

from lightning_advreg.callbacks.isolation import evaluation, isolated_rng

CPU = torch.device("cpu")


def draw(offset=0, seed=7, before=0):
    torch.manual_seed(seed)
    torch.rand(before)
    with isolated_rng(CPU, offset):
        return torch.rand(3).tolist()


def test_the_stream_depends_on_seed_and_offset_and_not_on_what_was_drawn_before():
    assert draw() == draw(before=10)
    assert draw() != draw(offset=1)
    assert draw() != draw(seed=8)
    assert draw(seed=2**64 - 1, offset=5) != draw()  # the largest seed there is


def test_the_callers_stream_goes_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(7)
    torch.rand(3)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"), isolated_rng(CPU):
        torch.rand(3)
        raise RuntimeError("stop")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.initial_seed() == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_stream_of_a_cuda_device_is_given_back_too():
    device = torch.device("cuda", 0)
    torch.manual_seed(7)
    expected = [torch.rand(3).tolist(), torch.rand(3, device=device).tolist()]
    torch.manual_seed(7)
    with isolated_rng(device):
        first = torch.rand(3, device=device)
    with isolated_rng(device, offset=1):
        assert not torch.equal(torch.rand(3, device=device), first)
    assert [torch.rand(3).tolist(), torch.rand(3, device=device).tolist()] == expected


def test_an_attack_has_gradients_and_float32_whatever_surrounds_it():
    module = nn.Linear(4, 2)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.rand(3, 4)
        with evaluation(module, CPU):
            leaf = x.clone().requires_grad_()
            logits = module(leaf)
            assert logits.dtype == torch.float32
            assert torch.autograd.grad(logits.sum(), leaf)[0].abs().sum() > 0
        assert module(x).dtype == torch.bfloat16
        assert torch.is_inference_mode_enabled()

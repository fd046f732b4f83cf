"""A device that runs out of memory: a network that takes no more than so many images at once."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD, attack_in_stages
from lightning_advreg.attacks.batch_size import attack_what_fits


class Small(nn.Module):
    def __init__(self, most):
        super().__init__()
        self.most, self.sizes = most, []
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.layers(x)


@pytest.fixture
def setting():
    torch.manual_seed(0)
    small = Small(most=6)
    return small, torch.rand(20, 3, 2, 2, dtype=torch.float64), torch.arange(20) % 3


ATTACKS = [FGSM(eps=0.05), PGD(eps=0.05, step_size=0.02, steps=4, random_start=False)]


@pytest.mark.parametrize("attack", ATTACKS, ids=["fgsm", "pgd"])
def test_a_smaller_attack_batch_gives_the_same_images(setting, attack):
    model, x, y = setting
    expected = attack(model.layers, x, y)
    x_adv, fits = attack_what_fits(attack, model, x, y, limit=2**31)
    torch.testing.assert_close(x_adv, expected, atol=1e-9, rtol=0)
    assert fits == 5 and max(size for size in model.sizes if size <= 6) == 5
    # what fits is known the next time
    model.sizes.clear()
    attack_what_fits(attack, model, x, y, fits)
    assert max(model.sizes) == 5


def test_a_batch_that_fits_is_attacked_as_it_lies(setting):
    model, x, y = setting
    seen = []
    x = x.contiguous(memory_format=torch.channels_last)
    attack_what_fits(lambda m, a, b: seen.append(a) or a, model, x, y, 2**31)
    assert seen[0].data_ptr() == x.data_ptr() and seen[0].stride() == x.stride()


def test_an_evaluation_in_stages_gives_the_same_result(setting):
    model, x, y = setting
    stages = {"pgd": ATTACKS[1]}
    expected = attack_in_stages(model.layers, x, y, stages)
    outcome = attack_in_stages(model, x, y, stages, batch_size=20)
    assert torch.equal(outcome.stage, expected.stage)
    torch.testing.assert_close(outcome.x_adv, expected.x_adv, atol=1e-9, rtol=0)


def test_an_image_that_does_not_fit_alone_is_an_error(setting):
    model, x, y = setting
    model.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        attack_what_fits(ATTACKS[0], model, x, y, 2**31)

"""RobustAccuracy where images come normalised: the attack and its budget are in pixels."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import RobustAccuracy
from lightning_advreg.networks import Normalize

from .foreign import Foreign, images, trainer

MEAN, STD = (0.4,), (0.3,)
ATTACK = PGD(eps=0.1, step_size=0.05, steps=3, random_start=False)


def normalised(n, dtype=torch.float32):
    x, y = images(n)
    return DataLoader(TensorDataset(((x - 0.4) / 0.3).to(dtype), y), batch_size=16)


class Watched:
    def __init__(self):
        self.seen = []

    def __call__(self, model, x, y):
        x_adv = ATTACK(model, x, y)
        self.seen.append((x, x_adv))
        return x_adv


def measure(tmp_path, module, data, attack=ATTACK, **units):
    run = trainer(tmp_path, RobustAccuracy({"pgd": attack}, **units))
    run.validate(module, data, verbose=False)
    return run.callback_metrics["val/robust_acc/pgd"].item()


def test_it_is_what_the_attack_does_to_a_network_from_pixels(tmp_path):
    x, y = images(64)
    module, watched = Foreign(), Watched()
    module.eval()
    found = measure(tmp_path, module, normalised(64), watched, mean=MEAN, std=STD)
    pixels, attacked = (torch.cat(parts) for parts in zip(*watched.seen, strict=True))
    torch.testing.assert_close(pixels, x, atol=1e-6, rtol=0)
    assert attacked.min() >= 0 and attacked.max() <= 1 and (attacked - x).abs().max() == pytest.approx(0.1, abs=1e-6)
    network = nn.Sequential(Normalize(MEAN, STD), module.network)
    robust = (network(ATTACK(network, x, y)).argmax(1) == y).float().mean().item()
    assert found == pytest.approx(robust) and 0 < found < (network(x).argmax(1) == y).float().mean()


def test_modes_and_flags_come_back_through_the_wrapper(tmp_path):
    module = Foreign()
    module.train()
    module.network[1].eval()
    module.network[0].weight.requires_grad_(False)
    flags = [layer.training for layer in module.modules()]
    statistics = module.network[1].running_mean.clone()
    measure(tmp_path, module, normalised(16), mean=MEAN, std=STD)
    assert flags == [layer.training for layer in module.modules()]
    assert [p.requires_grad for p in module.parameters()] == [False] + [True] * 5
    assert torch.equal(module.network[1].running_mean, statistics)


def test_rounding_is_no_error_and_wrong_numbers_are(tmp_path):
    assert 0 <= measure(tmp_path, Foreign().bfloat16(), normalised(32, torch.bfloat16), mean=MEAN, std=STD) <= 1
    with pytest.raises(
        ValueError, match=r"RobustAccuracy takes pixels .* first batch go from -0.29.* mean=\(...\), std="
    ):
        measure(tmp_path, Foreign(), normalised(16), mean=(0.1,), std=STD)
    with pytest.raises(ValueError, match="mean and std of RobustAccuracy have 3 values"):
        measure(tmp_path, Foreign(), normalised(16), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match="mean and std must be given together"):
        RobustAccuracy(ATTACK, mean=MEAN)

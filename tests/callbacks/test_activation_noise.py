"""Noise on activations: its statistics, where it is off, and that nothing of it stays."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD, borrowed
from lightning_advreg.callbacks.activation_noise import ActivationNoise
from tests.modules import parts

from .foreign import Foreign, loader, trainer


class Seen(Foreign):
    """A layer whose output is 2 everywhere, and what comes of it."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4000), nn.Identity(), nn.Linear(4000, 2))
        nn.init.zeros_(self.network[1].weight).requires_grad_(False)
        nn.init.constant_(self.network[1].bias, 2.0).requires_grad_(False)
        self.network[2].register_forward_pre_hook(self.see)
        self.seen = {True: [], False: []}

    def see(self, layer, args):
        self.seen[self.training].append(args[0].detach().clone())


def fit(tmp_path, module, callback, **settings):
    run = trainer(tmp_path, callback, num_sanity_val_steps=0, **settings)
    run.fit(module, loader(8), loader(8))
    return module


@pytest.mark.parametrize(("multiplicative", "std"), [(False, 0.5), (True, 1.0)])
def test_it_has_its_standard_deviation_in_training_alone(tmp_path, multiplicative, std):
    module = fit(tmp_path, Seen(), ActivationNoise(0.5, "network.1", multiplicative))
    noisy = torch.stack(module.seen[True])
    assert noisy.mean().item() == pytest.approx(2, abs=0.02) and noisy.std().item() == pytest.approx(std, rel=0.03)
    # of its own in each image and batch
    rows = noisy.flatten(0, 1) - 2
    assert (torch.corrcoef(rows) - torch.eye(len(rows))).abs().max() < 0.1
    assert all((x == 2).all() for x in module.seen[False]) and len(module.seen[False]) == 2
    assert not module.network[1]._forward_hooks


def test_runs_of_one_seed_are_equal(tmp_path):
    runs = []
    for seed in (1, 1, 2):
        seed_everything(seed, verbose=False)
        runs.append(fit(tmp_path, Seen(), ActivationNoise(0.5, "network.1")).seen[True][0])
    assert runs[0].equal(runs[1]) and not runs[0].equal(runs[2])


def test_attacks_see_none(tmp_path):
    """In their default mode, also on the fast copy."""

    class Repeated(PGD):
        def __call__(self, model, x, y):
            with borrowed(model), torch.no_grad():
                assert model(x).equal(model(x))
            return super().__call__(model, x, y)

    run = trainer(tmp_path, ActivationNoise(0.5, "network.*"), limit_val_batches=0, limit_train_batches=1)
    run.fit(AdversarialClassifier(parts.conv(norm="batch"), attack=Repeated(steps=1)), datamodule=parts.digits())


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"^std must be at least 0, got -1"):
        ActivationNoise(-1, "network.*")
    with pytest.raises(TypeError, match=r"^layers must name the layers whose activations get noise"):
        ActivationNoise(0.1, None)
    with pytest.raises(ValueError, match=r"^layers: 'net.9' matches no layer of Seen; the nearest names are"):
        fit(tmp_path, Seen(), ActivationNoise(0.1, "net.9"))


def test_a_layer_that_gives_no_tensor(tmp_path):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    module = Seen()
    module.network[2] = Pair()
    with pytest.raises(TypeError, match=r"^ActivationNoise: the layer 'network.2' gives tuple rather than one tensor"):
        fit(tmp_path, module, ActivationNoise(0.1, "network.2"))
    assert not module.network[2]._forward_hooks

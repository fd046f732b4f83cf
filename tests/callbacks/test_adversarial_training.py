"""Any LightningModule, trained on attacked images: what its step and the attack see, and what comes of it."""

import copy
from collections import namedtuple

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.ops import MLP, Conv2dNormActivation

from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks.adversarial_training import AdversarialTraining
from lightning_advreg.data import DigitsDataModule

from .attacked import ATTACK, MEAN, STD, Batches, OfDicts, Seen, expected, fit
from .foreign import images, loader, trainer

# What the training step gets


def test_the_step_gets_images_attacked_at_the_weights_of_the_moment(tmp_path):
    module = Seen()
    fit(tmp_path, module, AdversarialTraining(ATTACK), max_epochs=2)
    clean = list(loader(16)) * 2
    assert len(module.seen) == 8
    for (x_adv, y_adv), network, (x, y) in zip(module.seen, module.weights, clean, strict=True):
        assert y_adv.equal(y) and 0.05 < (x_adv - x).abs().max() <= 0.1 + 1e-6
        assert x_adv.equal(expected(network, x, y)) and not x_adv.requires_grad


@pytest.mark.parametrize("overfit_batches", [0, 2])
def test_the_data_stay_clean(tmp_path, overfit_batches):
    """Batches that are views of the data, or the very same objects in every epoch."""
    x, y = images(16)
    kept = x.clone()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 16, 4)]
    seen = []
    spy = Spy(seen)
    fit(
        tmp_path,
        Seen(),
        AdversarialTraining(ATTACK),
        Batches(*batches),
        [spy],
        max_epochs=2,
        overfit_batches=overfit_batches,
    )
    assert x.equal(kept)
    assert seen and all(batch[0].data_ptr() in {x.data_ptr() for x, _ in batches} for batch in seen)


class Spy(Callback):
    def __init__(self, seen):
        self.seen = seen

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(batch)


def test_an_attack_that_writes_to_its_images_does_not_reach_the_data(tmp_path):
    x, y = images(8)
    kept = x.clone()
    fit(tmp_path, Seen(), AdversarialTraining(lambda model, x, y: x.mul_(0.5)), Batches((x, y)))
    assert x.equal(kept)


Pair = namedtuple("Pair", ["x", "y"])


@pytest.mark.parametrize("kind", [tuple, list, Pair, dict])
def test_batches_keep_their_kind(tmp_path, kind):
    x, y = images(4)
    batch = {"image": x, "label": y, "name": "abcd"} if kind is dict else Pair(x, y) if kind is Pair else kind([x, y])
    module = OfDicts() if kind is dict else Seen()
    others = []
    fit(tmp_path, module, AdversarialTraining(ATTACK), Batches(batch), [Spy(others)])
    (given,) = module.seen
    assert (others[0]["image"] if kind is dict else others[0][0]).equal(x)  # other callbacks see clean images
    assert type(given) is type(batch)
    x_adv, y_adv = (given["image"], given["label"]) if kind is dict else given
    assert x_adv.equal(expected(module.weights[0], x, y)) and y_adv is y
    assert kind is not dict or (given["name"] == "abcd" and batch["image"] is x)


def test_keys_may_be_named(tmp_path):
    class Renamed(Seen):
        def pair(self, batch):
            return batch["pixels"], batch["class"]

    x, y = images(4)
    module = Renamed()
    fit(tmp_path, module, AdversarialTraining(ATTACK, keys=("pixels", "class")), Batches({"pixels": x, "class": y}))
    assert module.seen[0]["pixels"].equal(expected(module.weights[0], x, y))


def test_normalised_data_are_attacked_in_pixels_and_given_back_normalised(tmp_path):
    x, y = images(4)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    normalised = (x - mean) / std
    module = Seen()
    fit(tmp_path, module, AdversarialTraining(ATTACK, mean=MEAN, std=STD), Batches((normalised, y)))
    network = module.weights[0]
    attacked = ATTACK(lambda pixels: network.eval()((pixels - mean) / std), x, y)
    assert torch.allclose(module.seen[0][0], (attacked - mean) / std, atol=1e-5)
    assert (module.seen[0][0] - normalised).abs().max() > 0.2


def test_half_precision_that_was_normalised(tmp_path):
    x, y = images(4)
    normalised = (x - 0.4) / 0.3
    module = Seen()
    callback = AdversarialTraining(ATTACK, mean=MEAN, std=STD)
    fit(tmp_path, module, callback, Batches((normalised, y)), precision="bf16-true")
    assert module.seen[0][0].dtype == torch.bfloat16
    assert 0.05 < (module.seen[0][0].float() * 0.3 + 0.4 - x).abs().max() < 0.11


# What the attack sees


def probe(found):
    """An attack that looks around."""

    def attack(model, x, y):
        logits = model(x)
        network = model.module.network
        found.append(
            {
                "training": [layer.training for layer in network],
                "frozen": not any(p.requires_grad for p in network.parameters()),
                "autocast": logits.dtype,
                "gradients": torch.is_grad_enabled(),
                "statistics": network[1].running_mean.clone(),
            }
        )
        return x

    return attack


@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("batch_stats", True), ("train", True)])
def test_the_model_is_frozen_in_the_mode_of_the_attack(tmp_path, mode, training):
    found = []
    attack = probe(found)
    attack.model_mode = mode
    module = Seen()
    module.eval().network.train()
    module.network[4].eval()  # frozen by its owner
    before = module.network[1].running_mean.clone()
    fit(tmp_path, module, AdversarialTraining(attack), loader(4))
    assert found[0]["training"] == [training] * 4 + [False, training]
    assert found[0]["frozen"] and found[0]["gradients"]
    assert found[0]["statistics"].equal(before) == (mode != "train")
    assert module.network.training and not module.network[4].training
    assert all(p.requires_grad for p in module.parameters())


def test_gradients_and_optimizer_are_those_of_the_attacked_batch_alone(tmp_path):
    module = Seen()
    start = copy.deepcopy(module)
    fit(tmp_path, module, AdversarialTraining(ATTACK), loader(4))
    x, y = next(iter(loader(4)))
    x_adv = expected(start.network, x, y)
    optimizer = start.configure_optimizers()
    F.cross_entropy(start(x_adv), y).backward()
    optimizer.step()
    for name, value in start.state_dict().items():
        assert torch.allclose(module.state_dict()[name], value, atol=1e-6), name


def test_the_attack_runs_under_the_autocast_of_the_step(tmp_path):
    found = []
    fit(tmp_path, Seen(), AdversarialTraining(probe(found)), loader(8), precision="bf16-mixed")
    assert [entry["autocast"] for entry in found[1:]] == [torch.bfloat16]
    module = Seen()
    # weights cast under autocast must not be kept without their gradient
    start = module.network[0].weight.detach().clone()
    fit(tmp_path, module, AdversarialTraining(ATTACK), precision="bf16-mixed")
    assert not module.network[0].weight.equal(start)
    assert module.seen[0][0].dtype == torch.float32


@pytest.mark.parametrize("model", ["network", "logits", lambda module: module.network])
def test_another_model_than_forward(tmp_path, model):
    class NoForward(Seen):
        forward = pl.LightningModule.forward

        def logits(self, x):
            return self.network(x)

        def training_step(self, batch, batch_idx):
            self.seen.append(batch)
            self.weights.append(copy.deepcopy(self.network))
            return F.cross_entropy(self.logits(batch[0]), batch[1])

    module = NoForward()
    given = model if isinstance(model, str) else model(module)
    fit(tmp_path, module, AdversarialTraining(ATTACK, given), loader(4))
    x, y = next(iter(loader(4)))
    assert module.seen[0][0].equal(expected(module.weights[0], x, y))


# What it is for


class ImageClassifier(pl.LightningModule):
    """The classifier of Lightning's introduction around layers of torchvision, with data that are normalised."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(Conv2dNormActivation(1, 16), Conv2dNormActivation(16, 16, stride=2))
        self.head = MLP(256, [64, 10])

    def forward(self, x):
        return self.head(self.features(x).flatten(1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def test_a_module_that_knows_nothing_of_attacks_becomes_robust(tmp_path):
    data = DigitsDataModule()
    data.setup()
    x, y = (torch.cat(part) for part in zip(*data.train_dataloader(), strict=True))
    x_test, y_test = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    eps = 0.15
    training = PGD(eps=eps, step_size=0.06, steps=3)
    robust = []
    for callbacks in ([], [AdversarialTraining(training, mean=(0.3,), std=(0.37,))]):
        torch.manual_seed(0)
        module = ImageClassifier()
        generator = torch.Generator().manual_seed(0)
        normalised = TensorDataset((x - 0.3) / 0.37, y)
        batches = DataLoader(normalised, batch_size=64, shuffle=True, generator=generator)
        trainer(tmp_path, *callbacks, max_epochs=8).fit(module, batches)
        module.eval()
        network = lambda pixels, module=module: module((pixels - 0.3) / 0.37)  # noqa: E731
        x_adv = PGD(eps=eps, step_size=0.03, steps=20, seed=0)(network, x_test, y_test)
        robust.append((network(x_adv).argmax(1) == y_test).float().mean().item())
        assert (network(x_test).argmax(1) == y_test).float().mean() > 0.9
    assert robust[1] > robust[0] + 0.3
    assert robust[1] > 0.6

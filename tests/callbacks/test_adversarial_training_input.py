"""What AdversarialTraining refuses, and how it says so."""

import warnings

import lightning.pytorch as pl
import pytest
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks.adversarial_training import AdversarialTraining

from .attacked import ATTACK, MEAN, STD, Batches, Seen, fit
from .foreign import Foreign, images, loader


def refuse(tmp_path, batch, error, message, **arguments):
    with pytest.raises(error, match=message):
        fit(tmp_path, Seen(), AdversarialTraining(ATTACK, **arguments), Batches(batch))


def test_pixels_out_of_range_are_explained(tmp_path):
    x, y = images(4)
    remedy = r"\[0, 1\], but those of the first training batch go from -1.* give the numbers: .*mean=\(...\), std="
    refuse(tmp_path, ((x - 0.4) / 0.3, y), ValueError, remedy)
    refuse(tmp_path, (255 * x, y), ValueError, "if they go up to 255, divide by 255")
    wrong = r"with mean=\(0.4,\) and std=\(0.3,\) undone, pixels .* go from 0.4.* to 0.*|go from 0.4"
    refuse(tmp_path, (4 * x, y), ValueError, wrong, mean=MEAN, std=STD)
    refuse(tmp_path, (x * float("nan"), y), ValueError, "go from nan to nan")
    refuse(tmp_path, ((255 * x).byte(), y), TypeError, "images must be floating point")
    three = r"have 3 values, one per channel, but images have shape \(4, 1, 4, 4\)"
    refuse(tmp_path, (x, y), ValueError, three, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_labels_that_no_attack_can_leave(tmp_path):
    x, y = images(4)
    remedy = r"labels must be class indices, .* got torch.int64 of shape \(4, 2\); .* y.argmax\(1\), and mixup"
    refuse(tmp_path, (x, F.one_hot(y, 2)), TypeError, remedy)
    refuse(tmp_path, (x, F.one_hot(y, 2) * 0.9), TypeError, r"got torch.float32 of shape \(4, 2\)")
    refuse(tmp_path, (x, y + 1), ValueError, r"labels must be in \[0, 2\), for 2 classes, got labels from 1 to 2")


def test_other_kinds_of_batches(tmp_path):
    x, y = images(4)
    for batch, found in (
        ((x, y, y), "tuple of Tensor, Tensor, Tensor"),
        (x, "Tensor"),
        ({"image": x, "target": y}, "dict with the keys image, target; set keys="),
        ((x, ["a"] * 4), "tuple of Tensor, list"),
    ):
        refuse(tmp_path, batch, TypeError, rf"needs batches \(x, y\) .* 'image' and 'label', got {found}")


def test_models_without_logits(tmp_path):
    class NoForward(Seen):
        forward = pl.LightningModule.forward

    class Pair(Seen):
        def forward(self, x):
            return self.network(x), x

    with pytest.raises(TypeError, match="to get logits, but it defines no `forward`; name the part"):
        fit(tmp_path, NoForward(), AdversarialTraining(ATTACK))
    with pytest.raises(TypeError, match=r"must give logits \(N, K\), for one image \(1, K\), got tuple"):
        fit(tmp_path, Pair(), AdversarialTraining(ATTACK))
    with pytest.raises(ValueError, match=r"Seen has no part named model='net'; its parts are: network"):
        fit(tmp_path, Seen(), AdversarialTraining(ATTACK, "net"))
    with pytest.raises(TypeError, match="model='learning_rate' of Seen cannot be called, it is float"):
        fit(tmp_path, Seen(), AdversarialTraining(ATTACK, "learning_rate"))


def test_probabilities_are_warned_of(tmp_path):
    module = Seen()
    with pytest.warns(UserWarning, match="gives probabilities. Gradients vanish"):
        fit(tmp_path, module, AdversarialTraining(ATTACK, lambda x: module.network(x).softmax(1)), loader(4))


def test_images_are_not_attacked_twice(tmp_path):
    with pytest.raises(ValueError, match="AdversarialClassifier attacks its training images already"):
        fit(tmp_path, AdversarialClassifier(Foreign().network), AdversarialTraining(ATTACK))
    with pytest.raises(ValueError, match="two AdversarialTraining callbacks"):
        fit(tmp_path, Seen(), AdversarialTraining(ATTACK), None, [AdversarialTraining(ATTACK)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attack": "PGD"}, TypeError, r"attack must be called as attack\(model, x, y\), got 'PGD'"),
        ({"model": 3}, TypeError, "model must be a name such as 'net', or a callable, got 3"),
        ({"eps_warmup_epochs": -1}, ValueError, "eps_warmup_epochs must be at least 0, got -1"),
        ({"attack": lambda m, x, y: x, "eps_warmup_epochs": 1}, TypeError, "has no `scaled` method"),
        ({"mean": (0.5,)}, ValueError, "mean and std must be given together"),
        ({"mean": (0.5,), "std": (0.0,)}, ValueError, "std positive"),
        ({"keys": "xy"}, ValueError, "keys must be two, .* got 'xy'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        AdversarialTraining(**{"attack": ATTACK, **arguments})


def test_yaml_builds_it():
    parser = LightningArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    init_args = {
        "attack": {"class_path": "lightning_advreg.attacks.PGD", "init_args": {"eps": "8/255"}},
        "model": "net",
        "eps_warmup_epochs": "1/2",
        "mean": [0.5],
        "std": [0.25],
        "keys": ["pixels", "class"],
    }
    path = "lightning_advreg.callbacks.adversarial_training.AdversarialTraining"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jsonargparse renames the method below in version 5
        parsed = parser.parse_object({"callbacks": [{"class_path": path, "init_args": init_args}]})
        (built,) = parser.instantiate_classes(parsed).callbacks
    assert built.attack == PGD(eps=8 / 255) and built.model == "net" and built.keys == ("pixels", "class")
    assert built.eps_warmup_epochs == 0.5 and built.mean == [0.5]

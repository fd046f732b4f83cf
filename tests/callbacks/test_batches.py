"""Batches of other forms: dicts, named tuples and longer tuples, in each callback that takes images and labels."""

from collections import UserDict, namedtuple

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from lightning_advreg.attacks import PGD
from lightning_advreg.augmentations import InputNoise
from lightning_advreg.callbacks import (
    AdversarialExamples,
    AdversarialTraining,
    BatchAugmentation,
    ConvergenceMonitor,
    RobustAccuracy,
    RobustEvaluation,
    WeightAverage,
)
from lightning_advreg.callbacks.batches import KEYS, checked_keys, put_together, taken_apart

from .foreign import Foreign, images, trainer

ATTACK = PGD(eps=0.1, step_size=0.05, steps=2, random_start=False)
Named = namedtuple("Named", "mask pixels digit")
X, Y, Z = torch.rand(3, 1, 2, 2), torch.arange(3), torch.ones(3)

FORMS = [
    ((X, Y), KEYS),
    ([X, Y], KEYS),
    ((Y, X), (1, 0)),
    ([Z, X, Y], (1, 2)),
    ((X, Z, Y), (0, -1)),
    (Named(Z, X, Y), ("pixels", "digit")),
    (Named(Z, X, Y), (1, 2)),
    ({"label": Y, "mask": Z, "image": X}, KEYS),
    ({"pixels": X, "digit": Y}, ("pixels", "digit")),
    ({0: X, "digit": Y}, (0, "digit")),
    (UserDict(image=X, label=Y, mask=Z), KEYS),
]


@pytest.mark.parametrize(("batch", "keys"), FORMS)
def test_only_images_and_labels_change(batch, keys):
    x, y = taken_apart(batch, keys, "RobustAccuracy")
    assert x is X and y is Y
    new = torch.zeros_like(X)
    attacked = put_together(batch, keys, new)
    assert type(attacked) is type(batch) and attacked is not batch and len(attacked) == len(batch)
    assert taken_apart(attacked, keys, "RobustAccuracy")[0] is new
    assert taken_apart(batch, keys, "RobustAccuracy")[0] is X
    rest = [part for part in (attacked.values() if hasattr(attacked, "values") else attacked) if part is not new]
    assert {id(part) for part in rest} <= {id(Y), id(Z)} and len(rest) == len(batch) - 1
    relabelled = put_together(batch, keys, new, Z)
    assert taken_apart(relabelled, keys, "RobustAccuracy") == (new, Z)


@pytest.mark.parametrize(
    ("batch", "keys", "found"),
    [
        ((X, Y, Z), KEYS, "tuple of Tensor, Tensor, Tensor"),
        ((X, Y, Z), (0, 3), "tuple of Tensor, Tensor, Tensor"),
        ((X, [1, 2, 3]), KEYS, "tuple of Tensor, list"),
        ({"pixels": X, "label": Y}, KEYS, "dict with the keys pixels, label"),
        (Named(Z, X, Y), KEYS, "Named of Tensor, Tensor, Tensor"),
        (X, (0, 1), "Tensor"),
        (None, KEYS, "NoneType"),
    ],
)
def test_what_is_not_there_is_said(batch, keys, found):
    message = (
        rf"Probe needs batches \(x, y\) .* keys {keys[0]!r} and {keys[1]!r}, got {found}; set keys=\(...\) of Probe"
    )
    with pytest.raises(TypeError, match=message):
        taken_apart(batch, keys, "Probe")


def test_a_callback_without_keys_names_none():
    with pytest.raises(TypeError, match=r"^Probe needs .* of images and labels, got dict .* keys image, label; turn"):
        taken_apart({"image": X, "label": Y}, None, "Probe")


@pytest.mark.parametrize("keys", ["xy", ("image",), ("image", "image"), (0, 1, 2), (0.0, 1), None, 3])
def test_keys_are_two(keys):
    with pytest.raises(ValueError, match="keys must be two, of images and of labels, such as"):
        checked_keys(keys)


class OfDicts(Foreign):
    """Reads its own keys, and a weight for each image beside them."""

    def pair(self, batch):
        assert batch["weight"].shape == batch["digit"].shape
        return batch["pixels"], batch["digit"]

    def training_step(self, batch, batch_idx):
        return super().training_step(self.pair(batch), batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(self.pair(batch), batch_idx)

    def test_step(self, batch, batch_idx):
        super().test_step(self.pair(batch), batch_idx)


def dicts(n):
    x, y = images(n)
    return DataLoader([{"weight": torch.tensor(1.0), "pixels": x[i], "digit": y[i]} for i in range(n)], batch_size=4)


def pairs(n):
    x, y = images(n)
    return DataLoader([(x[i], y[i]) for i in range(n)], batch_size=4)


KEYED = {"keys": ("pixels", "digit")}


def all_callbacks(**keys):
    return [
        BatchAugmentation([InputNoise(std=0.01)], **keys),
        AdversarialTraining(ATTACK, **keys),
        RobustAccuracy({"pgd": ATTACK}, **keys),
        ConvergenceMonitor(max_cost=1e6),
        WeightAverage(attacks={"pgd": ATTACK}, recompute_statistics=True, statistics_attack=ATTACK, **keys),
        AdversarialExamples(ATTACK, num_images=2, **keys),
        RobustEvaluation({"own": ATTACK}, curve_eps=[], masking=False, examples=0, progress=False, **keys),
    ]


def test_every_callback_gives_for_dicts_what_it_gives_for_pairs(tmp_path):
    figures, weights = [], []
    for name, module, load, keys in (("dicts", OfDicts(), dicts, KEYED), ("pairs", Foreign(), pairs, {})):
        torch.manual_seed(0)
        run = trainer(tmp_path / name, *all_callbacks(**keys))
        run.fit(module, load(12), load(8))
        logged = dict(run.callback_metrics)
        run.test(module, load(8), verbose=False)
        figures.append({**logged, **run.callback_metrics})
        weights.append(module.state_dict())
    expected = {"val/robust_acc/pgd", "val/robust_acc/pgd_ema", "val/acc_ema", "monitor/pgd_acc", "test/robust_acc/own"}
    assert expected <= figures[0].keys()
    torch.testing.assert_close(*figures, rtol=0, atol=0)
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_keys_of_the_monitor_go_before_those_of_the_attack(tmp_path):
    """For a monitor without the callback, and for a validation whose batches have other names."""
    run = trainer(tmp_path, ConvergenceMonitor(eps=0.1, max_cost=1e6, **KEYED), limit_val_batches=0)
    run.fit(OfDicts(), dicts(8))
    assert run.callback_metrics["monitor/images"] == 8
    wrong = ConvergenceMonitor(eps=0.1, keys=("pixels", "class"))
    with pytest.raises(TypeError, match=r"ConvergenceMonitor needs .* 'class', got dict with the keys weight, pixels"):
        trainer(tmp_path, AdversarialTraining(ATTACK, **KEYED), wrong).fit(OfDicts(), dicts(8))


@pytest.mark.parametrize("keys", [["pixels", "digit"], [0, 2]])
def test_yaml_names_them(keys):
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    attack = {"class_path": "lightning_advreg.attacks.PGD", "init_args": {"eps": "8/255"}}
    given = [
        {"class_path": f"lightning_advreg.callbacks.{name}", "init_args": {**settings, "keys": keys}}
        for name, settings in {
            "AdversarialTraining": {"attack": attack},
            "RobustAccuracy": {"attacks": attack},
            "RobustEvaluation": {"attacks": attack},
            "ConvergenceMonitor": {},
            "AdversarialExamples": {"attack": attack},
            "WeightAverage": {},
            "BatchAugmentation": {"augmentations": []},
        }.items()
    ]
    built = parser.instantiate(parser.parse_object({"callbacks": given})).callbacks
    assert [callback.keys for callback in built] == [tuple(keys)] * 7

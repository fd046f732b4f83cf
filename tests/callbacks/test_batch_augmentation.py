"""Any LightningModule, trained on augmented batches: what its step sees, and that it is the same after a resume."""

import math
from collections import namedtuple

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torchvision.transforms import v2

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.augmentations import CutMix, Cutout, InputNoise, MixUp
from lightning_advreg.callbacks import AdversarialTraining, BatchAugmentation
from tests.modules import parts

from .attacked import Batches, OfDicts, Seen, fit
from .foreign import images, loader, trainer

NOISE = InputNoise(std=0.05)


class Soft(Seen):
    """Whose loss takes shares of classes, and which fails if evaluation is touched."""

    def validation_step(self, batch, batch_idx):
        self.seen.append(("val", *batch))


def seen(tmp_path, augmentations=(NOISE,), module=None, data=None, seed=0, callbacks=(), **settings):
    module = Soft() if module is None else module
    pl.seed_everything(seed, verbose=False)
    fit(tmp_path, module, BatchAugmentation(list(augmentations), 2), data, callbacks, **settings)
    return module.seen


# What the training step gets


def test_each_image_of_each_epoch_gets_noise_of_its_own(tmp_path):
    batches = seen(tmp_path, max_epochs=2)
    clean = list(loader(16)) * 2
    noise = torch.cat([x - c for (x, y), (c, _) in zip(batches, clean, strict=True)])
    assert all(y.equal(c) for (_, y), (_, c) in zip(batches, clean, strict=True))
    assert all(x.min() >= 0 and x.max() <= 1 for x, _ in batches)
    rows = noise.flatten(1)
    assert len(rows) == 32 and torch.cdist(rows, rows).add(torch.eye(32)).min() > 0.05


def test_the_data_stay_as_they_are(tmp_path):
    x, y = images(16)
    kept = x.clone()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 16, 4)]
    seen(tmp_path, [NOISE, Cutout(size=2), MixUp(), CutMix()], data=Batches(*batches), max_epochs=2)
    assert x.equal(kept)


def test_augmentations_act_in_their_order(tmp_path):
    def double(x, y):
        return x * 2, y

    def shift(x, y):
        return x + 0.5, y

    batches = seen(tmp_path, [double, shift])
    for (x, _), (clean, _) in zip(batches, loader(16), strict=True):
        assert x.equal(clean * 2 + 0.5)


def test_labels_are_mixed_as_images_are(tmp_path):
    for (x, y), (clean, labels) in zip(seen(tmp_path, [MixUp()]), loader(16), strict=True):
        share = y[labels != labels.roll(1)].gather(1, labels[labels != labels.roll(1)][:, None])
        if len(share):
            lam = share[0].item()
            assert x.allclose(lam * clean + (1 - lam) * clean.roll(1, 0), atol=1e-6)
        assert y.sum(1).allclose(torch.ones(4)) and y.shape == (4, 2)


def test_a_transform_of_torchvision_is_an_augmentation(tmp_path):
    batches = seen(tmp_path, [v2.RandomHorizontalFlip(p=1.0), v2.MixUp(num_classes=2)])
    assert batches[0][1].shape == (4, 2)


def test_a_dict_and_a_named_tuple_stay_what_they_are(tmp_path):
    x, y = images(4)
    (batch,) = seen(tmp_path, [MixUp()], OfDicts(), Batches({"image": x, "label": y, "name": "a"}))
    assert batch["name"] == "a" and batch["label"].shape == (4, 2)
    pair = namedtuple("Pair", "x y")
    (batch,) = seen(tmp_path, [MixUp()], Seen(), Batches(pair(x, y)))
    assert type(batch) is pair and batch.y.shape == (4, 2)


def test_validation_sees_the_data(tmp_path):
    module = Soft()
    run = trainer(tmp_path, BatchAugmentation([NOISE]), num_sanity_val_steps=0)
    run.fit(module, loader(4), loader(8))
    validated = [entry[1] for entry in module.seen if entry[0] == "val"]
    assert torch.cat(validated).equal(images(8)[0])
    assert "training_step" not in vars(module)


def test_noise_on_normalised_images_is_in_units_of_pixels(tmp_path):
    x, y = images(16)
    normalised = Batches(((x - 0.4) / 0.3, y))
    module = Seen()
    pl.seed_everything(0, verbose=False)
    fit(tmp_path, module, BatchAugmentation([NOISE], mean=(0.4,), std=(0.3,)), normalised)
    ((plain, _),) = seen(tmp_path, data=Batches((x, y)))
    assert module.seen[0][0].allclose((plain - 0.4) / 0.3, atol=1e-5)


# Random numbers


def test_runs_of_one_seed_are_equal_and_of_two_are_not(tmp_path):
    first, again, other = (seen(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert all(a[0].equal(b[0]) for a, b in zip(first, again, strict=True))
    assert not any(a[0].equal(b[0]) for a, b in zip(first, other, strict=True))


def test_what_the_module_draws_changes_nothing(tmp_path):
    class Drawing(Soft):
        def training_step(self, batch, batch_idx):
            torch.rand(7)
            return super().training_step(batch, batch_idx)

    pairs = zip(seen(tmp_path), seen(tmp_path, module=Drawing()), strict=True)
    assert all(a[0].equal(b[0]) for a, b in pairs)


def test_the_module_draws_as_if_there_were_no_augmentation(tmp_path):
    class Drawing(Soft):
        def training_step(self, batch, batch_idx):
            self.drawn = torch.rand(3)
            return super().training_step(batch, batch_idx)

    module, plain = Drawing(), Drawing()
    seen(tmp_path, [NOISE, MixUp()], module)
    seen(tmp_path, [], plain)
    assert module.drawn.equal(plain.drawn)


def test_two_callbacks_draw_different_noise(tmp_path):
    x, y = torch.full((4, 1, 4, 4), 0.5), torch.zeros(4, dtype=torch.int64)
    ((once, _),) = seen(tmp_path, data=Batches((x, y)))
    ((twice, _),) = seen(tmp_path, data=Batches((x, y)), callbacks=[BatchAugmentation([NOISE])])
    assert not (twice - x).allclose(2 * (once - x), atol=1e-4)


@pytest.mark.parametrize("foreign", [True, False])
def test_a_run_continues_with_the_noise_it_would_have_had(tmp_path, foreign):
    def run(epochs, ckpt_path=None):
        callback = BatchAugmentation([NOISE, MixUp(alpha=0.4)], 10)
        if foreign:
            module, data = Soft(), {"train_dataloaders": loader(16)}
            callback.num_classes = 2
        else:
            # with dropout: the state of the generator is part of the checkpoint
            module = RegularizedClassifier(parts.conv(dropout=0.3, norm="batch"))
            data = {"datamodule": parts.digits(loader="resident", augment=True)}
        fitting = trainer(
            tmp_path, callback, ModelCheckpoint(tmp_path / str(epochs)), max_epochs=epochs, enable_checkpointing=True
        )
        fitting.fit(module, **data, ckpt_path=ckpt_path, weights_only=True)
        return module, fitting.checkpoint_callback.best_model_path

    pl.seed_everything(3, verbose=False)
    if foreign:
        torch.manual_seed(3)
    whole, _ = run(2)
    pl.seed_everything(3, verbose=False)
    _, path = run(1)
    # another process would start from the seed again
    pl.seed_everything(3, verbose=False)
    continued, _ = run(2, path)
    if foreign:
        assert all(a[0].equal(b[0]) for a, b in zip(whole.seen[4:], continued.seen, strict=True))
    else:
        weights = zip(whole.network.parameters(), continued.network.parameters(), strict=True)
        assert all(a.equal(b) for a, b in weights)


# With our modules and the other callback


class Losses(Callback):
    """The batch as ``training_step`` sees it, its loss and the accuracy of the epoch."""

    def __init__(self):
        self.batches, self.losses, self.correct = [], [], 0

    def on_fit_start(self, trainer, pl_module):
        self.network = pl_module.network
        pl_module.network.register_forward_hook(self.see)
        self.logits = []

    def see(self, network, args, logits):
        if network.training and len(logits) > 1:
            self.logits.append(logits.detach())

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_accuracy_of_mixed_labels(tmp_path, smoothing):
    labels, spy = [], Losses()

    def note(x, y):
        labels.append(y)
        return x, y

    model = RegularizedClassifier(parts.conv(), label_smoothing=smoothing)
    run = trainer(tmp_path, BatchAugmentation([MixUp(), note]), spy, limit_val_batches=0)
    run.fit(model, datamodule=parts.digits())
    assert len(labels) == 6
    for logits, shares, loss in zip(spy.logits, labels, spy.losses, strict=True):
        target = shares * (1 - smoothing) + smoothing / 10
        assert loss == pytest.approx(-(target * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-5)
    right = [(z.argmax(1) == s.argmax(1)).float() for z, s in zip(spy.logits, labels, strict=True)]
    assert run.callback_metrics["train/acc"].item() == pytest.approx(torch.cat(right).mean().item())


def test_the_callback_that_comes_first_acts_first(tmp_path):
    """Augment, then attack: the perturbation is that of the attack alone."""

    class Dims:
        def __call__(self, model, x, y):
            return x * 0.75

    def half(x, y):
        return torch.full_like(x, 0.5), y

    for callbacks, expected in [
        ([BatchAugmentation([half]), AdversarialTraining(Dims())], 0.375),
        ([AdversarialTraining(Dims()), BatchAugmentation([half])], 0.5),
    ]:
        module = Seen()
        fit(tmp_path, module, callbacks[0], callbacks=callbacks[1:])
        assert all((x == expected).all() for x, _ in module.seen) and "training_step" not in vars(module)


def test_a_batch_that_is_replayed_is_augmented_once(tmp_path):
    class Twice(Seen):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            closure()
            super().optimizer_step(epoch, batch_idx, optimizer, closure)

    batches = seen(tmp_path, module=Twice())
    assert len(batches) == 8
    assert all(batches[i][0] is batches[i + 1][0] for i in range(0, 8, 2))


def test_the_module_is_itself_again_after_an_error(tmp_path):
    class Failing(Seen):
        def training_step(self, batch, batch_idx):
            raise ArithmeticError

    module = Failing()
    with pytest.raises(ArithmeticError):
        seen(tmp_path, module=module, callbacks=[AdversarialTraining(PGD(steps=1))])
    assert "training_step" not in vars(module)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"augmentations": NOISE},
            TypeError,
            r"^augmentations must be a list of objects such as InputNoise\(std=0.1\)",
        ),
        ({"augmentations": [0.1]}, TypeError, r"^augmentations must be a list .* got \[0.1\]"),
        ({"augmentations": [], "num_classes": 1}, ValueError, r"^num_classes must be at least 2, .* got 1"),
        ({"augmentations": [], "mean": (0.5,)}, ValueError, r"^mean and std must be given together"),
        ({"augmentations": [], "keys": "xy"}, ValueError, r"^keys must be two"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        BatchAugmentation(**arguments)


def test_an_unknown_number_of_classes(tmp_path):
    with pytest.raises(
        ValueError, match=r"^labels can be mixed only where .* BatchAugmentation\(augmentations, num_cl"
    ):
        fit(tmp_path, Seen(), BatchAugmentation([MixUp()]))
    x, y = images(4)
    with pytest.raises(ValueError, match=r"^labels go up to 7, but there are 2 classes; set num_classes"):
        seen(tmp_path, [MixUp()], data=Batches((x, y + 7 - y.max())))


def test_pixels_out_of_range(tmp_path):
    x, y = images(4)
    for wrong in (x * 255, x - 0.5, x * math.nan):
        with pytest.raises(ValueError, match=r"^BatchAugmentation takes pixels in \[0, 1\], but .* mean=\(...\)"):
            seen(tmp_path, data=Batches((wrong, y)))
    with pytest.raises(TypeError, match=r"^images must be floating point in \[0, 1\], got torch.uint8"):
        seen(tmp_path, data=Batches(((x * 255).to(torch.uint8), y)))


def test_a_batch_of_another_kind_names_the_callback(tmp_path):
    with pytest.raises(TypeError, match=r"^BatchAugmentation needs batches \(x, y\)"):
        seen(tmp_path, data=Batches(images(4)[0]))


def test_adversarial_classifier_names_its_own_mixup(tmp_path):
    model = AdversarialClassifier(parts.conv())
    run = trainer(tmp_path, BatchAugmentation([MixUp()]), limit_val_batches=0)
    message = r"^labels must be integer .* \(16, 10\): AdversarialClassifier attacks .*objective=AdversarialMixup\(\)"
    with pytest.raises(TypeError, match=message):
        run.fit(model, datamodule=parts.digits())


def test_adversarial_classifier_attacks_noisy_images(tmp_path):
    noisy = []

    class Noted(PGD):
        def __call__(self, model, x, y):
            noisy.append(x)
            return super().__call__(model, x, y)

    model = AdversarialClassifier(parts.conv(), attack=Noted(eps=0.1, steps=1))
    run = trainer(tmp_path, BatchAugmentation([InputNoise(std=0.1)]), limit_val_batches=0)
    run.fit(model, datamodule=parts.digits())
    # the background of the digits is exactly 0 in the data
    assert noisy and all((x == 0).float().mean() < 0.35 for x in noisy)


def test_cross_entropy_of_one_hot_shares_is_that_of_indices():
    logits, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    assert F.cross_entropy(logits, F.one_hot(y, 3).float()).allclose(F.cross_entropy(logits, y))

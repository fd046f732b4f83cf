"""The command that writes labelled samples, and the function below it."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_advreg import RegularizedClassifier
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.samples import labelled_samples, load_module, main

from .modules.parts import conv, plain_gan, trainer


class Grey(nn.Module):
    """Grey images; which grey depends on the noise, and the upper half on the label."""

    latent_dim = 4

    def __init__(self, num_classes=None):
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, z, y=None):
        images = (self.weight * z[:, :1] / 4 + 0.5).clamp(0, 1).view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
        if y is not None:
            images[:, :, :4] = (y / 10).view(-1, 1, 1, 1)
        return images


class Conditional(nn.Module):
    """The part of a GAN that samples need."""

    latent_dim, device = 4, torch.device("cpu")

    def __init__(self, classes=3):
        super().__init__()
        self.generator = Grey(classes)

    def sample(self, z, y):
        with torch.no_grad():
            return self.generator(z, y)


class Threshold(nn.Module):
    """Class 1 for bright images, surer the brighter; notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, x):
        self.shown.append(x)
        lead = 20 * (x[:, 0, 4:].mean((1, 2)) - 0.5)
        return torch.stack([-lead, lead], dim=1)


def unconditional(generator=None):
    return plain_gan(generator=Grey() if generator is None else generator)


def test_a_classifier_labels_the_images_that_will_be_read():
    classifier = Threshold()
    found = labelled_samples(unconditional(), 50, classifier=classifier, batch_size=16)
    assert found.images.dtype == torch.uint8 and found.images.shape == (50, 1, 8, 8) and found.made == 50
    assert torch.equal(found.labels, (found.images[:, 0, 5, 5] > 127).long())
    assert torch.equal(torch.cat(classifier.shown), found.images.float() / 255) and found.agreed is None


def test_only_sure_images_are_kept_and_as_many_as_asked_for():
    found = labelled_samples(unconditional(), 40, classifier=Threshold(), min_confidence="99/100", batch_size=32)
    assert len(found.images) == len(found.labels) == 40 and found.made > 40 and found.made % 32 == 0
    brightness = found.images[:, 0, 0, 0].float() / 255
    # the confidence is sigmoid(40 |b - 1/2|)
    assert ((brightness - 0.5).abs() * 40).sigmoid().min() >= 0.99
    assert set(found.labels.tolist()) == {0, 1}


def test_a_conditional_gan_is_asked_for_each_class_in_turn():
    found = labelled_samples(Conditional(3), 10, batch_size=4)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0] and found.agreed is None
    assert torch.equal(found.images[:, 0, 0, 0], (found.labels / 10 * 255).round().byte())


def test_the_label_of_a_conditional_gan_stays_and_the_classifier_drops_what_it_does_not_see():
    every = labelled_samples(Conditional(2), 64, classifier=Threshold(), batch_size=64)
    bright = every.images[:, 0, 5, 5] > 127
    assert every.labels.tolist() == [0, 1] * 32
    assert every.agreed == pytest.approx((bright == every.labels).float().mean().item())
    sure = labelled_samples(Conditional(2), 20, classifier=Threshold(), min_confidence=0.9, batch_size=64)
    assert torch.equal((sure.images[:, 0, 5, 5] > 127).long(), sure.labels) and len(sure.labels) == 20


def test_the_seed_decides():
    first, again, other = (labelled_samples(Conditional(), 6, seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_cannot_be_done():
    with pytest.raises(ValueError, match=r"not conditional and gives no labels; give .*--label-by CLASSIFIER\.ckpt"):
        labelled_samples(unconditional(), 3)
    with pytest.raises(ValueError, match=r"min_confidence=0.5 is that of a classifier, and none is given"):
        labelled_samples(Conditional(), 3, min_confidence=0.5)
    with pytest.raises(ValueError, match=r"num must be an integer of at least 1, got 0"):
        labelled_samples(Conditional(), 0)
    with pytest.raises(ValueError, match=r"classifier knows 2 classes, and the GAN makes images of more"):
        labelled_samples(Conditional(3), 9, classifier=Threshold())

    class Unsure(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 4)

    with pytest.raises(ValueError, match=r"0 have a confidence of at least 0.9; lower min_confidence"):
        labelled_samples(Conditional(), 5, classifier=Unsure(), min_confidence=0.9, batch_size=5000)


def checkpoint(model, path):
    fitting = trainer(max_steps=0)
    fitting.fit(model, datamodule=DigitsDataModule(batch_size=16, train_size=96, val_size=32))
    fitting.save_checkpoint(path)
    return str(path)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    return checkpoint(plain_gan(), folder / "gan.ckpt"), checkpoint(RegularizedClassifier(conv()), folder / "c.ckpt")


def test_the_command_writes_a_file_that_joins_training(tmp_path, checkpoints, capsys):
    gan, classifier = checkpoints
    path = tmp_path / "made.npz"
    flags = ["--num", "40", "--out", str(path), "--label-by", classifier, "--device", "cpu", "--seed", "3"]
    assert main(["--ckpt_path", gan, *flags]) == 0
    printed, bar = capsys.readouterr()
    assert "samples: 100%" in bar and "40/40" in bar
    assert f"40 labelled images are in {path}" in printed and f"--data.init_args.extra_path {path}" in printed
    stored = np.load(path)
    expected = labelled_samples(load_module(gan), 40, classifier=load_module(classifier), seed=3)
    assert np.array_equal(stored["image"][..., 0], expected.images[:, 0].numpy())
    assert np.array_equal(stored["label"], expected.labels.numpy())
    data = DigitsDataModule(batch_size=10, train_size=60, val_size=20, extra_path=path, extra_fraction=0.5)
    assert len(next(iter(data.train_dataloader()))[1]) == 10


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (lambda gan, c: ["--ckpt_path", c], "is a RegularizedClassifier, not a GAN"),
        (lambda gan, c: ["--ckpt_path", gan, "--label-by", gan], "is a GAN, not a classifier"),
        (lambda gan, c: ["--ckpt_path", "gone.ckpt"], "there is no checkpoint gone.ckpt"),
        (lambda gan, c: ["--ckpt_path", gan], "not conditional and gives no labels"),
        (lambda gan, c: ["--ckpt_path", gan, "--label-by", c, "--min-confidence", "2"], "must be at most 1, got '2'"),
    ],
)
def test_wrong_arguments_end_with_one_line(checkpoints, capsys, swap, message, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main([*swap(*checkpoints), "--num", "4", "--device", "cpu", "--out", str(tmp_path / "a.npz")])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-advreg samples: error: ") and message in error and error.count("\n") == 1


def test_a_checkpoint_of_another_program_is_named(tmp_path):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"was saved by another program, which is no module of lightning_advreg"):
        load_module(tmp_path / "foreign.ckpt")

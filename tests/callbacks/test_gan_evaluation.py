"""Measuring a GAN in validation and test."""

import copy
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import TensorDataset

from lightning_advreg import RegularizedClassifier
from lightning_advreg.callbacks import GANEvaluation
from lightning_advreg.callbacks.gan_samples import SampleStream
from lightning_advreg.callbacks.gan_training_images import training_images
from lightning_advreg.metrics import (
    ClassAccuracy,
    ClassifierFeatures,
    FrechetDistance,
    InterpolationSmoothness,
    KernelDistance,
    ModeCount,
    NearestNeighbours,
    PixelFeatures,
)
from tests.modules.parts import conv, digits, gan, trainer


class Templates(nn.Module):
    """A generator with an image for each class; noise makes it a little brighter."""

    num_classes = 10

    def __init__(self, images):
        super().__init__()
        self.register_buffer("images", images)

    def forward(self, z, y):
        return (self.images[y] + z[:, :1, None, None].abs() / 50).clamp(0, 1)


class Conditional(LightningModule):
    """A module that knows nothing of this library, and generates by class."""

    latent_dim = 4

    def __init__(self, images):
        super().__init__()
        self.generator = Templates(images)

    def sample(self, z, y):
        return self.generator(z, y)

    def validation_step(self, batch, batch_idx):
        pass


def first_of_each_class():
    data = digits()
    data.setup("fit")
    x, y = data.train_set.__getitems__(list(range(96)))
    return torch.stack([x[(y == k).nonzero()[0, 0]] for k in range(10)])


class Brightness(nn.Module):
    """A classifier by the nearest of ten images."""

    def __init__(self, images):
        super().__init__()
        self.hidden, self.last = nn.Flatten(), nn.Linear(64, 10)
        flat = images.flatten(1)
        with torch.no_grad():
            self.last.weight.copy_(flat)
            self.last.bias.copy_(-flat.square().sum(1) / 2)

    def forward(self, x):
        return self.last(self.hidden(x))


def callback(**settings):
    torch.manual_seed(3)
    given = {"extractor": ClassifierFeatures(conv()), "num_samples": 50, "batch_size": 16, "progress": False}
    return GANEvaluation(**{**given, **settings})


def measured(model, evaluating, stage="validate", **settings):
    run = trainer(callbacks=[evaluating], **settings)
    (logged,) = getattr(run, stage)(model, datamodule=digits(), verbose=False)
    return {name: value for name, value in logged.items() if "/gan/" in name}


def test_figures_are_those_of_the_metrics_themselves():
    torch.manual_seed(0)
    model, evaluating = gan(), callback(seed=5)
    logged = measured(model, evaluating)
    name = evaluating.extractor.name
    expected = ["frechet", "kernel", "kernel_std", "precision", "recall", "density", "coverage", "modes", "mode_kl"]
    assert list(logged) == [f"val/gan/{name}/{figure}" for figure in expected]
    data = digits()
    data.setup("fit")
    x, y = data.val_set.__getitems__(list(range(32)))
    metric = FrechetDistance()
    metric.update(evaluating.extractor(x, y), "real")
    for images, _, _ in SampleStream(model, 16, 5).samples(50):
        metric.update(evaluating.extractor(images), "generated")
    assert logged[f"val/gan/{name}/frechet"] == pytest.approx(metric.compute().item(), rel=1e-5)
    # the same again, in test of other images, and not with other noise
    assert measured(model, callback(seed=5)) == logged
    tested = measured(model, callback(seed=5), "test")
    assert [key.removeprefix("test") for key in tested] == [key.removeprefix("val") for key in logged]
    assert tested[f"test/gan/{name}/frechet"] != logged[f"val/gan/{name}/frechet"]
    assert measured(model, callback(seed=6))[f"val/gan/{name}/frechet"] != logged[f"val/gan/{name}/frechet"]


def test_samples_do_not_depend_on_the_number_of_processes():
    model = gan()
    whole = [images for images, _, _ in SampleStream(model, 16).samples(21)]
    parts = [list(SampleStream(model, 16, 0, rank, 2).samples(21)) for rank in range(2)]
    for batch, halves in zip(whole, zip(*parts, strict=True), strict=True):
        together = torch.empty_like(batch)
        for rank, (images, _, drawn) in enumerate(halves):
            together[rank::2] = images
            assert drawn == len(batch)
        torch.testing.assert_close(together, batch)


def test_a_conditional_generator_is_asked_for_each_class_equally_often():
    images = first_of_each_class()
    extractor = ClassifierFeatures(Brightness(images))
    logged = measured(Conditional(images), callback(extractor=extractor))
    path = f"val/gan/{extractor.name}/"
    assert logged[f"{path}class_accuracy"] == 1 and logged[f"{path}modes"] == 10
    assert logged[f"{path}mode_kl"] == pytest.approx(0, abs=1e-6)
    # a generator that takes two classes for one another
    images[[3, 4]] = images[[4, 3]]
    logged = measured(Conditional(images), callback(extractor=extractor))
    assert logged[f"{path}class_accuracy"] == pytest.approx(0.8)


def test_training_is_the_same_with_and_without(tmp_path):
    def fitted(*callbacks):
        torch.manual_seed(0)
        model = gan(n_critic=1)
        run = trainer(callbacks=list(callbacks), max_epochs=2, limit_train_batches=3, default_root_dir=tmp_path)
        run.fit(model, datamodule=digits())
        run.save_checkpoint(tmp_path / "last.ckpt")
        return model, run.callback_metrics, torch.load(tmp_path / "last.ckpt", weights_only=True)

    metrics = [FrechetDistance(), NearestNeighbours(), InterpolationSmoothness(pairs=20)]
    model, logged, checkpoint = fitted(callback(metrics=metrics))
    plain, _, expected = fitted()
    assert {name.rpartition("/")[2] for name in logged if "/gan/" in name} == {
        "frechet",
        "nearest_ratio",
        "nearest_share",
        "path_length",
    }
    # samples of the first epoch are forgotten in the second
    (again,) = measured(model, callback(metrics=[FrechetDistance()])).items()
    assert logged[again[0]].item() == pytest.approx(again[1], rel=1e-5)
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert checkpoint["state_dict"].keys() == expected["state_dict"].keys()
    assert checkpoint["callbacks"] == expected["callbacks"]
    assert torch.equal(checkpoint["lightning_advreg"]["random_state"], expected["lightning_advreg"]["random_state"])


def test_real_images_are_seen_once_and_samples_every_time():
    looked = []

    class Counting(PixelFeatures):
        def extract(self, images):
            looked.append(len(images))
            return super().extract(images)

    evaluating = callback(extractor=Counting(), metrics=[FrechetDistance()], num_samples=20, every_n_epochs=2)
    run = trainer(callbacks=[evaluating], max_epochs=5, limit_train_batches=1, num_sanity_val_steps=1)
    run.fit(gan(), datamodule=digits())
    # in the second and the fourth epoch: 32 real images once, 20 samples twice
    assert looked == [16, 16, 16, 4, 16, 4]
    looked.clear()
    measured(gan(), callback(extractor=Counting(), metrics=[FrechetDistance()], num_samples=10, num_real=20))
    assert looked == [16, 4, 10]


def test_what_is_known_of_real_images_is_kept_in_a_file(tmp_path):
    metrics = [FrechetDistance(), NearestNeighbours()]
    looked = []

    class Counting(PixelFeatures):
        def extract(self, images):
            looked.append(len(images))
            return super().extract(images)

    def run(data=None, **settings):
        evaluating = callback(extractor=Counting(), metrics=metrics, reference_dir=tmp_path / "known", **settings)
        (logged,) = trainer(callbacks=[evaluating]).validate(model, datamodule=data or digits(), verbose=False)
        return logged

    model = gan()
    first = run()
    assert sum(looked) == 32 + 96 + 50
    (path,) = (tmp_path / "known").iterdir()
    assert path.name == "DigitsDataModule-val_held_out-pixels.npz"
    looked.clear()
    second = run()
    assert sum(looked) == 50
    assert {k: v for k, v in second.items() if "gan" in k} == {k: v for k, v in first.items() if "gan" in k}
    # a metric that needs less finds its part, and another one adds its own
    kernel = KernelDistance(subsets=2, subset_size=10)
    for chosen, real in ((metrics[:1], 0), ([kernel], 32), ([*metrics, kernel], 0)):
        metrics = chosen
        looked.clear()
        run()
        assert sum(looked) == real + 50
    metrics = metrics[:1]
    with pytest.raises(ValueError, match=r"val_held_out-pixels.npz is of other held_out images than the 32 of this"):
        run(digits(seed=1))
    metrics = [FrechetDistance(), NearestNeighbours()]
    with pytest.raises(ValueError, match=r"is of other train images than the 90 of this run"):
        run(digits(train_size=90))


def test_training_images_as_the_reference():
    model, evaluating = gan(), callback(metrics=[FrechetDistance()], extractor=PixelFeatures(), reference="train")
    found = measured(model, evaluating)["val/gan/pixels/frechet"]
    data = digits()
    data.setup("fit")
    metric = FrechetDistance()
    metric.update(PixelFeatures()(data.train_set.__getitems__(list(range(96)))[0]), "real")
    for images, _, _ in SampleStream(model, 16).samples(50):
        metric.update(PixelFeatures()(images), "generated")
    assert found == pytest.approx(metric.compute().item(), rel=1e-5)
    # a test has to read them first, and the augmentation of training does not change them
    (logged,) = trainer(callbacks=[evaluating]).test(model, datamodule=digits(augment=True), verbose=False)
    assert logged["test/gan/pixels/frechet"] == pytest.approx(found, rel=1e-5)
    with pytest.raises(ValueError, match=r"attribute `train_set` of the data module, which is missing; give"):
        trainer(callbacks=[evaluating]).validate(model, data.val_dataloader(), verbose=False)


def test_a_generator_that_has_diverged_is_named():
    model = gan()
    with torch.no_grad():
        next(model.generator_ema.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="50 generated images have pixels that are not finite"):
        measured(model, callback(metrics=[ModeCount()]))


def test_the_command_line_builds_it(tmp_path):
    path = tmp_path / "classifier.ckpt"
    saving = trainer()
    saving.strategy.connect(RegularizedClassifier(conv()))
    saving.save_checkpoint(path, weights_only=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GANEvaluation, "c")
    given = {
        "extractor": {
            "class_path": "lightning_advreg.metrics.ClassifierFeatures",
            "init_args": {"classifier": str(path)},
        },
        "metrics": [
            {"class_path": "lightning_advreg.metrics.ModeCount", "init_args": {"at_least": 2}},
            {"class_path": "lightning_advreg.metrics.FrechetDistance"},
        ],
        "reference_dir": str(tmp_path),
    }
    built = parser.instantiate_classes(parser.parse_object({"c": given})).c
    assert built.extractor.name.startswith("MNISTConvNet-")
    assert [type(metric) for metric in built.metrics] == [ModeCount, FrechetDistance] and built.metrics[0].at_least == 2


def test_bad_settings_are_named_before_any_time_is_spent():
    with pytest.raises(ValueError, match="reference must be 'held_out' or 'train', got 'test'"):
        callback(reference="test")
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1, got 0"):
        callback(num_samples=0)
    model = gan()
    for settings, message in (
        ({"extractor": PixelFeatures(), "metrics": [ModeCount()]}, "ModeCount needs an extractor that knows classes"),
        ({"metrics": [ClassAccuracy()]}, r"ClassAccuracy needs a generator of the 10 classes .* got num_classes=None"),
        ({"metrics": [ModeCount(), ModeCount("real")]}, "two metrics of class ModeCount would log the same figures"),
    ):
        with pytest.raises(ValueError, match=message):
            measured(model, callback(**settings))
    with pytest.raises(ValueError, match="two GANEvaluation callbacks with the extractor pixels would log the same"):
        evaluating = callback(extractor=PixelFeatures())
        trainer(callbacks=[evaluating, copy.copy(evaluating)]).validate(model, datamodule=digits())
    with pytest.raises(TypeError, match=r"needs a module with a number `latent_dim` .* RegularizedClassifier lacks"):
        measured(RegularizedClassifier(conv()), callback())


def test_a_run_without_validation_is_told():
    run = trainer(callbacks=[callback()], limit_val_batches=0, limit_train_batches=1)
    with pytest.warns(UserWarning, match="measures at the end of validation, and this run has none"):
        run.fit(gan(), datamodule=digits())


@pytest.mark.parametrize("whole", [True, False])
def test_training_images_of_a_foreign_data_module(whole):
    x, y = torch.rand(7, 1, 2, 2), torch.arange(7)
    items = TensorDataset(x, y)
    if whole:
        items.__getitems__ = lambda places: [items[place] for place in places]
    data = SimpleNamespace(train_set=items)
    given = [
        list(training_images(SimpleNamespace(datamodule=data, global_rank=rank, world_size=2), 2, 6)) for rank in (0, 1)
    ]
    assert [labels.tolist() for _, labels in given[0]] == [[0, 2], [4]]
    assert [labels.tolist() for _, labels in given[1]] == [[1, 3], [5]]
    assert torch.equal(given[1][0][0], x[[1, 3]])

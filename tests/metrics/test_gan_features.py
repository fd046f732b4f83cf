"""From images to features."""

import sys

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from lightning_advreg import RegularizedClassifier
from lightning_advreg.metrics import ClassifierFeatures, InceptionFeatures, PixelFeatures, StackedFeatures
from lightning_advreg.metrics.gan_inception import WEIGHTS
from lightning_advreg.metrics.gan_reference import ImageChecksum
from lightning_advreg.networks.pixels import to_bytes
from tests.modules.parts import SHAPE, conv, gan

X = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_pixels_are_rounded_and_clamped_and_not_cut_off():
    assert to_bytes(torch.tensor([-1.0, 0.0, 0.6 / 255, 254.4 / 255, 1.0, 7.0])).tolist() == [0, 0, 1, 254, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(every.float() / 255), every)


def test_penultimate_features_and_logits():
    network = conv(dropout=0.5)
    extractor = ClassifierFeatures(network)
    pixels = X.mul(255).round() / 255
    seen = extractor(X, torch.arange(5))
    hidden = network.eval().classifier[:-1](network.features(network.normalize(pixels)).flatten(1))
    torch.testing.assert_close(seen.features, hidden)
    torch.testing.assert_close(seen.logits, network(pixels))
    assert seen.labels.tolist() == [0, 1, 2, 3, 4]
    assert extractor.num_classes == 10 and not extractor.is_inception
    # bytes are the same images, and so are images within rounding
    torch.testing.assert_close(extractor(to_bytes(X)).features, seen.features, rtol=0, atol=0)
    torch.testing.assert_close(extractor(pixels + 0.4 / 255).features, seen.features, rtol=0, atol=0)
    assert not torch.equal(extractor(pixels + 0.4 / 255, rounded=False).features, seen.features)


def test_it_stays_in_eval_mode_and_as_it_was():
    network = conv(norm="batch", dropout=0.5).train()
    extractor = ClassifierFeatures(network).train()
    before = extractor(X).features
    assert torch.equal(extractor(X).features, before) and not before.requires_grad
    with torch.no_grad():
        network.classifier[0].weight.zero_()
    assert torch.equal(extractor(X).features, before)
    assert network.training and next(network.parameters()).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(X).features, before)


def test_the_name_tells_weights_apart():
    torch.manual_seed(0)
    network = conv(norm="batch", mean=(0.5,), std=(0.5,))
    name = ClassifierFeatures(network).name
    assert name == ClassifierFeatures(network).name and name.startswith("MNISTConvNet-") and len(name) == 21
    names = {name, ClassifierFeatures(network, layer="classifier.0").name}
    # in turn a weight, a statistic, and a buffer that no checkpoint holds
    for tensor in (network.classifier[3].bias, network.features[1].running_var, network.normalize.std):
        with torch.no_grad():
            tensor[0] += 1e-3
        names.add(ClassifierFeatures(network).name)
    assert len(names) == 5


def test_from_a_checkpoint(tmp_path):
    module = RegularizedClassifier(conv())
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "classifier.ckpt", weights_only=True)
    extractor = ClassifierFeatures(tmp_path / "classifier.ckpt")
    assert extractor.name == ClassifierFeatures(module.network).name == ClassifierFeatures(module).name
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt is no checkpoint of Lightning: it lacks"):
        ClassifierFeatures(tmp_path / "other.ckpt")
    trainer.strategy.connect(gan())
    trainer.save_checkpoint(tmp_path / "gan.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"gan.ckpt is a checkpoint of GAN, which is no classifier"):
        ClassifierFeatures(tmp_path / "gan.ckpt")
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*missing.ckpt of a classifier; train one"):
        ClassifierFeatures(tmp_path / "missing.ckpt")


class Darker(nn.Module):
    """A wrapper that does something to images."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x / 2)


def test_a_wrapper_is_not_taken_off():
    network = conv()
    assert torch.equal(
        ClassifierFeatures(Darker(network))(X).features,
        ClassifierFeatures(network)((X * 255).round() / 255 / 2, rounded=False).features,
    )


class Detour(nn.Module):
    """Its last linear layer is not used."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(64, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.used(x.flatten(1))


def test_the_layer_of_the_features_is_checked_and_can_be_named():
    with pytest.raises(ValueError, match=r"Detour has no features .* at its layer 'last': it is not used; name .*used"):
        ClassifierFeatures(Detour())(X)
    assert torch.equal(ClassifierFeatures(Detour(), layer="used")(to_bytes(X)).features, to_bytes(X).flatten(1) / 255)
    with pytest.raises(ValueError, match=r"Detour has no linear layer 'fc', .* it has used, spare. Give a classifier"):
        ClassifierFeatures(Detour(), layer="fc")
    with pytest.raises(ValueError, match=r"Flatten has no linear layer, .* it has none"):
        ClassifierFeatures(nn.Flatten())


def test_images_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match=r"images must be floating point in \[0, 1\], got torch.int64"):
        PixelFeatures()(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


def test_stacked_digits_have_the_classes_of_all_channels():
    grey = ClassifierFeatures(conv())
    stacked = StackedFeatures(grey)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = stacked(x)
    each = [grey(x[:, channel : channel + 1]) for channel in range(3)]
    torch.testing.assert_close(seen.features, torch.cat([part.features for part in each], 1))
    a, b, c = (part.logits.softmax(1) for part in each)
    torch.testing.assert_close(seen.logits.exp()[2, 374], a[2, 3] * b[2, 7] * c[2, 4])
    torch.testing.assert_close(seen.logits.exp().sum(1), torch.ones(4))
    assert stacked.num_classes == 1000 and stacked.name == f"{grey.name}-x3"
    with pytest.raises(ValueError, match="images must have 3 channels, got 1"):
        stacked(X)
    with pytest.raises(ValueError, match=r"needs an extractor with classes, .* got pixels and 3"):
        StackedFeatures(PixelFeatures())


def test_the_checksum_sees_images_and_not_their_order():
    def of(*parts):
        checksum = ImageChecksum()
        for part in parts:
            checksum.update(part)
        return checksum.compute()

    whole = of(X)
    assert whole[0] == 5 and whole == of(X[3:], X[:3]) == of(X + 0.3 / 255 * (X < 0.5) * 0)
    changed = X.clone()
    changed[2, 0, 0, 0] = (changed[2, 0, 0, 0] + 0.5) % 1
    mixed = X.clone()
    # pixels that change places between images, and images between places within one
    mixed[0, 0, 0], mixed[1, 0, 0] = X[1, 0, 0], X[0, 0, 0]
    assert len({whole[1], of(changed)[1], of(mixed)[1], of(X.flip(3))[1], of(X[:4])[1], of(X, X)[1]}) == 6


def test_missing_inception_weights_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=rf"there are no Inception weights at {tmp_path}/{WEIGHTS}; take"):
        InceptionFeatures(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no Inception weights at .*other.pth; take .* or use ClassifierFeat"):
        InceptionFeatures(tmp_path / "other.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"at {tmp_path}/checkpoints/{WEIGHTS}"):
        InceptionFeatures()
    (tmp_path / "empty.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModuleNotFoundError, match=r"install it with `pip install lightning-advreg\[gan\]`"):
        InceptionFeatures(tmp_path / "empty.pth")


def test_inception_with_weights_of_our_own(tmp_path):
    """The architecture runs, and is not called Inception Score and FID without the published weights."""
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity is missing")
    (tmp_path / "damaged.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"damaged.pth holds no Inception weights"):
        InceptionFeatures(tmp_path / "damaged.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth holds no Inception weights"):
        InceptionFeatures(tmp_path / "other.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, tmp_path / "empty.pth")
        network = theirs.FeatureExtractorInceptionV3("name", ["2048"], str(tmp_path / "empty.pth"))
    torch.save(network.state_dict(), tmp_path / "random.pth")
    extractor = InceptionFeatures(tmp_path / "random.pth")
    assert extractor.name.startswith("InceptionV3-") and not extractor.is_inception
    grey = X[:2]
    seen = extractor(grey)
    assert seen.features.shape == (2, 2048) and seen.logits.shape == (2, 1008)
    (expected,) = network(to_bytes(grey).repeat(1, 3, 1, 1))
    assert torch.equal(seen.features, expected)
    with pytest.raises(ValueError, match="takes images of 8 bits, in which images that are close do not differ"):
        extractor(grey, rounded=False)
    with pytest.raises(ValueError, match="sees images of 1 or 3 channels, got 2"):
        extractor(torch.rand(1, 2, 8, 8))

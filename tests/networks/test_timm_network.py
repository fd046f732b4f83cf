import sys

import pytest
import torch
from torch import nn

from lightning_advreg.networks import TimmNetwork

timm = pytest.importorskip("timm")


def small(**kwargs):
    return TimmNetwork("resnet10t", **kwargs)


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(channels):
    network = small(num_classes=7, in_channels=channels).eval()
    assert network(torch.rand(2, channels, 32, 32)).shape == (2, 7)


def test_default_normalisation_is_that_of_the_timm_weights():
    network = small()
    assert network.normalize.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert network.normalize.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert isinstance(small(in_channels=1).normalize, nn.Identity)


def test_normalisation_is_inside():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    network = small(mean=mean, std=std).eval()
    x = torch.rand(2, 3, 32, 32)
    normalised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(network(x), network.model(normalised))


def test_an_image_gets_the_same_logits_alone_as_in_a_batch():
    network, x = small().eval(), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([network(row[None]) for row in x]), network(x), rtol=1e-4, atol=1e-5)


def test_dropout_is_the_drop_rate_of_timm():
    assert small(dropout=0.3).model.drop_rate == 0.3
    assert small().model.drop_rate == 0


def test_model_arguments_reach_timm():
    network = TimmNetwork(
        "vit_tiny_patch16_224", model_kwargs={"img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 12}
    ).eval()
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    assert len(network.model.blocks) == 1


def test_unknown_name_is_an_error_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"no model of name='resnet5O'; the nearest names are .*resnet50"):
        TimmNetwork("resnet5O")


def test_missing_timm_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r'needs timm: pip install "lightning-advreg\[timm\]"'):
        small()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="mean and std must be given together"):
        small(mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
        small(dropout=-1)

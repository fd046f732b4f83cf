import hashlib
import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lightning_advreg.files import RefusedFile, UnfitWeights, export_weights, load_network, load_weights
from lightning_advreg.files.weights import read_weights
from lightning_advreg.modules.loading import load_module
from lightning_advreg.networks import MNISTConvNet, ResNet18
from lightning_advreg.networks.norm_surgery import replace_norms_

from ..modules.parts import conv, gan
from .parts import trained


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def relabelled(source, target, **changes):
    """Write the same weights with other text beside them."""
    weights, text = read_weights(source)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, target, {**text, **changes})
    return target


@pytest.fixture
def exported(tmp_path):
    return export_weights(conv(norm="batch", dropout=0.3), tmp_path / "weights.safetensors", config="seed: 0\n")


def test_others_may_read_an_export_where_they_may_read_other_files(tmp_path, exported):
    beside = tmp_path / "beside.txt"
    beside.touch()
    assert exported.stat().st_mode == beside.stat().st_mode


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_network_is_rebuilt_from_the_file_alone(tmp_path, exported):
    network = MNISTConvNet(image_size=8, width=4, hidden=8, norm="group")
    again = load_network(export_weights(network, tmp_path / "a.safetensors"))
    assert same(network, again) and not again.training
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(network.eval()(x), again(x))
    said = metadata(exported)
    assert json.loads(said["network"]) == {
        "class_path": "lightning_advreg.networks.MNISTConvNet",
        "init_args": {"image_size": 8, "width": 4, "hidden": 8, "norm": "batch", "dropout": 0.3},
    }
    assert said["config_sha256"] == hashlib.sha256(b"seed: 0\n").hexdigest()


def test_layouts_and_views_are_written_as_they_are_seen(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.arange(24.0)
            self.first = nn.Parameter(whole[:12].view(3, 4).t())
            self.register_buffer("second", whole[6:18])
            self.register_buffer("narrow", torch.ones(3, dtype=torch.bfloat16))
            self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    odd, other = Odd(), Odd()
    nn.init.zeros_(other.first)
    path = export_weights(odd, tmp_path / "odd.safetensors")
    load_weights(other, path)
    assert same(odd, other) and other.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert path.stat().st_size < 1500
    with pytest.raises(RefusedFile, match=r"does not say how to build its network.*load_weights\(network, path\)"):
        load_network(path)


def test_tied_weights_are_written_once_and_tied_again(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.second.weight = self.first.weight

    tied, other = Tied(), Tied()
    path = export_weights(tied, tmp_path / "tied.safetensors")
    assert path.stat().st_size < 1.2 * 64 * 64 * 4
    load_weights(other, path)
    assert same(tied, other) and other.first.weight is other.second.weight
    assert json.loads(metadata(path)["tied"]) == {"second.weight": "first.weight"}


def test_weights_that_do_not_fit_change_nothing(exported):
    other = conv(norm="batch", hidden=16)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UnfitWeights, match=r"weights.safetensors does not fit MNISTConvNet: .* instead of \(16,"):
        load_weights(other, exported)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda content: b"", "is an empty file"),
        (lambda content: content[:-3], "is no whole safetensors file"),
        (lambda content: content[:100], "is no whole safetensors file"),
        (lambda content: struct.pack("<Q", 2**60) + content[8:], "is no whole safetensors file"),
        (lambda content: b"PK\x03\x04" * 9, "is no whole safetensors file"),
    ],
)
def test_what_is_no_whole_file_is_refused(exported, spoil, message):
    exported.write_bytes(spoil(exported.read_bytes()))
    for load in (load_network, lambda path: load_weights(conv(norm="batch"), path)):
        with pytest.raises(RefusedFile, match=rf"weights.safetensors {message}"):
            load(exported)


def named(class_path, init_args="{}"):
    return {"network": f'{{"class_path": "{class_path}", "init_args": {init_args}}}'}


OURS = "lightning_advreg.networks"


@pytest.mark.parametrize(
    "changes, message",
    [
        (named("stranger.Net"), rf"stranger.Net, which is outside of {OURS}. Nothing was imported"),
        (named(f"{OURS}.norm_surgery.partial"), r"which (is no network|there is not)"),
        (named(f"{OURS}.preact_resnet.nn.Linear"), "which there is not"),
        (named(f"{OURS}.Nothing"), "which there is not"),
        (named(f"{OURS}.ResNet18", '{"lr": 1}'), "names arguments that ResNet18 does not take"),
        (named(f"{OURS}.ResNet18", "[1]"), "it names no arguments"),
        ({"network": "{"}, "its network is no JSON"),
        ({"network": "[1]"}, "its network is no JSON object"),
        ({"tied": '{"a": "b"}'}, "names tied weights that it does not hold"),
        ({"lightning_advreg": "99.0"}, r"was written by lightning_advreg 99.0"),
        ({"changes": '{"x": {"kind": "bach"}}'}, "names x, which cannot be made"),
    ],
)
def test_text_beside_the_weights_is_not_trusted(exported, tmp_path, monkeypatch, changes, message):
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RefusedFile, match=message):
        load_network(relabelled(exported, tmp_path / "b.safetensors", **changes))
    assert not (tmp_path / "canary").exists()


def test_a_package_that_is_allowed_is_built_from(exported, tmp_path):
    said = {
        "network": json.dumps({"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}})
    }
    path = export_weights(nn.Linear(2, 3), tmp_path / "linear.safetensors")
    path = relabelled(path, tmp_path / "named.safetensors", **said)
    assert isinstance(load_network(path, allow_packages=["torch.nn"]), nn.Linear)
    with pytest.raises(RefusedFile, match=r"outside of lightning_advreg.networks"):
        load_network(path)


def test_lightning_modules_are_exported_by_their_network(tmp_path):
    checkpoint = tmp_path / "last.ckpt"
    model = trained(checkpoint)
    again = load_network(export_weights(load_module(checkpoint), tmp_path / "a.safetensors"))
    assert same(model.network, again)
    critic = gan()
    assert same(critic.generator_ema, load_network(export_weights(critic, tmp_path / "g.safetensors")))


def test_layers_that_were_replaced_are_replaced_again(tmp_path):
    from lightning_advreg.networks.changes import note_changes

    network = ResNet18(num_classes=3, width=4) if "width" in ResNet18._signature.parameters else conv(norm="batch")
    replace_norms_(network, kind="group")
    note_changes(network, {"NormAblation('group')": {"kind": "group"}})
    again = load_network(export_weights(network, tmp_path / "a.safetensors"))
    assert same(network, again)
    x = torch.rand(2, *((1, 8, 8) if isinstance(network, MNISTConvNet) else (3, 32, 32)))
    assert torch.equal(network.eval()(x), again(x))


def test_what_cannot_be_exported_is_said(tmp_path):
    with pytest.raises(ValueError, match="ReLU has no weights to export"):
        export_weights(nn.ReLU(), tmp_path / "a.safetensors")
    sparse = nn.Module()
    sparse.register_buffer("w", torch.eye(3).to_sparse())
    with pytest.raises(ValueError, match=r"w is a tensor of layout torch.sparse_coo"):
        export_weights(sparse, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())

"""Networks come from the package alone: offline, without Lightning, checked, and as good as their cards say."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_advreg.files import RefusedFile
from lightning_advreg.networks import DCGANGenerator, MNISTConvNet
from lightning_advreg.zoo import cards, load_model, model_card, models, weights_path
from lightning_advreg.zoo.measuring import attack_of, clean_rate, images_to_test, robust_rate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CLASSIFIERS = [name for name in models() if model_card(name).is_classifier]
real_mnist = pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="the real MNIST is not beside the repository")

FRESH = """
import json, socket, sys, time

def no_network(*args, **kwargs):
    raise OSError("the network was asked for")

socket.socket.connect = socket.getaddrinfo = no_network
import torch
from lightning_advreg.zoo import load_model, models
brought = {}
for name in models():
    started = time.process_time()
    network = load_model(name)
    brought[name] = [time.process_time() - started, network.training, type(network).__name__]
heavy = {"lightning", "pytorch_lightning", "torchmetrics", "torchvision", "wandb", "matplotlib", "timm"}
print(json.dumps([brought, sorted(heavy & set(sys.modules))]))
"""


def test_a_fresh_process_needs_no_network_and_no_lightning(tmp_path):
    import json

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    brought, heavy = json.loads(done.stdout.splitlines()[-1])
    assert set(brought) == set(models()) and heavy == []
    assert all(seconds < 1 and not training for seconds, training, _ in brought.values())
    assert {kind for *_, kind in brought.values()} == {"MNISTConvNet", "DCGANGenerator"}


@pytest.mark.parametrize("name", models())
def test_networks_give_what_their_kind_gives(name):
    network, facts = load_model(name), model_card(name).facts
    assert not network.training and sum(p.numel() for p in network.parameters()) == facts["parameters"]
    with torch.no_grad():
        if facts["kind"] == "classifier":
            assert isinstance(network, MNISTConvNet) and network(torch.rand(3, 1, 28, 28)).shape == (3, 10)
        else:
            assert isinstance(network, DCGANGenerator)
            images = network(torch.randn(3, network.latent_dim), torch.tensor([0, 5, 9]))
            assert images.shape == (3, 1, 28, 28) and images.min() >= 0 and images.max() <= 1


def test_loading_draws_nothing_and_shares_nothing():
    state = torch.get_rng_state()
    one, other = load_model("mnist_trades"), load_model("mnist_trades")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A zoo of one network, to damage."""
    for part, file in (("cards", "mnist_trades.md"), ("weights", "mnist_trades.safetensors")):
        (tmp_path / part).mkdir()
        shutil.copy(cards.FOLDER / part / file, tmp_path / part / file)
    monkeypatch.setattr(cards, "FOLDER", tmp_path)
    return tmp_path / "weights" / "mnist_trades.safetensors"


def test_damaged_and_missing_weights_are_refused(copied):
    assert models() == ("mnist_trades",)
    assert weights_path("mnist_trades") == copied
    whole = copied.read_bytes()
    for damaged in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        copied.write_bytes(damaged)
        with pytest.raises(
            RefusedFile, match=r"damaged or not the published file: its SHA-256 is .* card of mnist_trades"
        ):
            load_model("mnist_trades")
    copied.unlink()
    with pytest.raises(FileNotFoundError, match=r"there are no weights .*; install lightning_advreg again"):
        load_model("mnist_trades")


def test_a_card_leads_nowhere_else(copied):
    card = copied.parents[1] / "cards" / "mnist_trades.md"
    outside = copied.parents[2] / "outside.safetensors"
    outside.write_bytes(b"other")
    digest = hashlib.sha256(copied.read_bytes()).hexdigest()
    text = card.read_text(encoding="utf-8").replace("file: mnist_trades.safetensors", "file: ../../outside.safetensors")
    card.write_text(text.replace(digest, hashlib.sha256(b"other").hexdigest()), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"there are no weights"):
        load_model("mnist_trades")


@real_mnist
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_real_images_give_the_figures_of_the_card(name):
    figures, network = model_card(name).figures, load_model(name)
    x, y = images_to_test("MNISTDataModule", SHARED)
    assert clean_rate(network, x, y).accuracy == pytest.approx(figures["clean"].accuracy, abs=2e-4)
    assert clean_rate(network, x[:1000], y[:1000]).accuracy == pytest.approx(figures["clean_same"].accuracy, abs=1e-3)
    # from everywhere, as the figure is: the first 200 alone may be easier or harder than the rest
    x, y = x[::50], y[::50]
    rate, _ = robust_rate(network, x, y, attack_of(figures["pgd40"].attack))
    low, high = rate.interval
    assert rate.images == 200 and low <= figures["pgd40"].accuracy <= high

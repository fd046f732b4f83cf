import errno
import io
import re

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks.mutations import Hostile, rebuilt
from lightning_advreg import GAN, RegularizedClassifier, __version__
from lightning_advreg.callbacks.weight_average import load_average_
from lightning_advreg.files import RefusedFile, SafeCheckpointIO, UnfitWeights, read_checkpoint, read_tensors
from lightning_advreg.metrics import ClassifierFeatures
from lightning_advreg.modules.loading import load_module

from ..modules.parts import conv, digits, regularized, trainer
from .parts import edited, trained


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "last.ckpt"
    trained(path)
    return path


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def spoiled(kind, good, path, canary):
    content = good.read_bytes()
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
        return path
    if kind == "hostile":
        return edited(good, path, lambda stored: stored.update(callbacks={"x": Hostile(canary)}))
    if kind == "bit":
        spot = content.index(
            torch.load(good, weights_only=True)["state_dict"]["network.features.0.weight"].numpy().tobytes()
        )
        content = content[:spot] + bytes([content[spot] ^ 1]) + content[spot + 1 :]
    path.write_bytes(
        {"empty": b"", "text": b"epoch,step\n0,1\n", "cut": content[:-100], "half": content[: len(content) // 2]}.get(
            kind, content
        )
    )
    return path


SPOILED = {
    "missing": r"there is no checkpoint .*bad.ckpt; the folder has",
    "folder": r"bad.ckpt is a folder, not a checkpoint; give the path of a file",
    "empty": r"bad.ckpt is an empty file, no checkpoint: writing it was cut off; take an earlier one",
    "text": r"bad.ckpt is no checkpoint: it begins with b'epoch,step",
    "cut": r"bad.ckpt is a truncated checkpoint: its end is missing; take an earlier one",
    "half": r"bad.ckpt is a truncated checkpoint: its end is missing",
    "bit": r"bad.ckpt is a damaged checkpoint: Bad CRC-32",
    "hostile": r"bad.ckpt is not read as a checkpoint: it asks for (io|_io).open, .* Nothing of it was run",
}


@pytest.mark.parametrize("kind", SPOILED)
def test_what_is_no_whole_checkpoint_is_refused_everywhere(good, tmp_path, canary, kind):
    path = spoiled(kind, good, tmp_path / "bad.ckpt", canary)
    model = regularized(network=conv(norm="batch"))
    before = model.network.features[0].weight.clone()
    for load in (
        read_checkpoint,
        RegularizedClassifier.load_from_checkpoint,
        lambda path: trainer(plugins=[SafeCheckpointIO()]).fit(model, datamodule=digits(), ckpt_path=path),
    ):
        with pytest.raises((RefusedFile, FileNotFoundError), match=SPOILED[kind]) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert torch.equal(before, model.network.features[0].weight)


@pytest.mark.parametrize("load", [load_module, ClassifierFeatures, lambda path: load_average_(conv(), path)])
def test_other_readers_of_checkpoints_refuse_the_same(good, tmp_path, canary, load):
    for kind in ("hostile", "cut"):
        path = tmp_path / f"{kind}.ckpt"
        with pytest.raises(RefusedFile, match=SPOILED[kind].replace("bad", kind)):
            load(spoiled(kind, good, path, canary))


def test_an_open_file_is_checked_too(good, tmp_path, canary):
    with (
        open(spoiled("hostile", good, tmp_path / "bad.ckpt", canary), "rb") as file,
        pytest.raises(RefusedFile, match="asks for"),
    ):
        RegularizedClassifier.load_from_checkpoint(file)
    with pytest.raises(RefusedFile, match="the file 'given' is a truncated checkpoint"):
        read_checkpoint(io.BytesIO(good.read_bytes()[:-30]))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda stored: stored["lightning_advreg"].update(version="99.0"), r"written by lightning_advreg 99.0, and"),
        (lambda stored: stored["lightning_advreg"].update(version="new"), "its version of lightning_advreg is 'new'"),
        (lambda stored: stored.update({"pytorch-lightning_version": None}), "its version of Lightning is None"),
        (lambda stored: stored.pop("state_dict") and None, "no checkpoint of Lightning: it lacks state_dict"),
        (lambda stored: stored["state_dict"], "it lacks state_dict and pytorch-lightning_version.*load_state_dict"),
        (lambda stored: [1], "no checkpoint of Lightning: it holds a list"),
        (lambda stored: stored.update(loops=3), "its 'loops' is a int instead of a Mapping"),
        (lambda stored: stored.update(epoch=True), "its 'epoch' is a bool instead of a int"),
        (lambda stored: stored.update(state_dict={1: 2}), "its state_dict holds no weights by name"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_what_it_says(good, tmp_path, change, message):
    path = edited(good, tmp_path / "bad.ckpt", change)
    with pytest.raises(RefusedFile, match=message):
        read_checkpoint(path)


def test_one_without_a_version_loads(good, tmp_path):
    path = edited(good, tmp_path / "old.ckpt", lambda stored: stored["lightning_advreg"].pop("version") and None)
    assert RegularizedClassifier.load_from_checkpoint(path).hparams["label_smoothing"] == 0.1
    assert torch.load(good, weights_only=True)["lightning_advreg"]["version"] == __version__


def test_values_without_an_end_are_refused_quickly(good, tmp_path):
    nested = [1]
    for _ in range(60):
        nested = [nested, nested]
    own = []
    own.append(own)
    deep = []
    for _ in range(300):
        deep = [deep]
    keys = ()
    for _ in range(60):
        keys = (keys, keys)
    for value, message in ((nested, "more than 1000000"), (own, "list in it holds itself"), (deep, "levels deep")):
        torch.save({"x": value}, tmp_path / "bomb.pt")
        with pytest.raises(RefusedFile, match=message):
            read_tensors(tmp_path / "bomb.pt")
    # as a key, which its reader would have to hash
    torch.save({"x": {"key": keys}}, tmp_path / "bomb.pt")
    with pytest.raises(RefusedFile, match="its tuples hold more than 1000000 items"):
        read_tensors(tmp_path / "bomb.pt")


def test_a_pickle_that_is_none_is_refused(good, tmp_path):
    for change in (lambda data: data[:50], lambda data: b"", lambda data: data[:2] + b"s" + data[2:]):
        (tmp_path / "bad.ckpt").write_bytes(rebuilt(good.read_bytes(), change))
        with pytest.raises(RefusedFile, match=r"bad.ckpt is a damaged"):
            read_tensors(tmp_path / "bad.ckpt")


def test_classes_from_elsewhere_are_not_imported(good, tmp_path, monkeypatch, canary):
    (tmp_path / "stranger.py").write_text(f"open({str(canary)!r}, 'w')\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = {"class_path": "stranger.Net"}
    for values, message in (
        ({"network": network}, r"names stranger.Net, and stranger is not imported here.* import stranger first"),
        ({"penalties": ["os.system"]}, r"names os.system, which is a part of Python"),
        ({"penalties": [{"class_path": "torch.os.system"}]}, r"names torch.os.system, which is posix.system"),
        ({"_instantiator": "os.system"}, r"asks to be rebuilt by 'os.system'"),
    ):
        path = edited(
            good, tmp_path / "bad.ckpt", lambda stored, values=values: stored["hyper_parameters"].update(values)
        )
        with pytest.raises(RefusedFile, match=message):
            RegularizedClassifier.load_from_checkpoint(path)
    path = edited(good, tmp_path / "bad.ckpt", lambda stored: stored["hyper_parameters"].update(network=network))
    assert (
        RegularizedClassifier.load_from_checkpoint(path, network=conv(norm="batch")).hparams["label_smoothing"] == 0.1
    )


def test_the_environment_lists_what_a_checkpoint_may_name(good, monkeypatch):
    monkeypatch.setenv("LIGHTNING_ADVREG_ALLOW_PACKAGES", "lightning_advreg,lightning")
    with pytest.raises(RefusedFile, match=r"names torch.optim.lr_scheduler.StepLR, which is outside of LIGHTNING_"):
        RegularizedClassifier.load_from_checkpoint(good)
    monkeypatch.setenv("LIGHTNING_ADVREG_ALLOW_PACKAGES", "lightning_advreg lightning torch")
    assert RegularizedClassifier.load_from_checkpoint(good)


def test_weights_that_do_not_fit_are_named_with_the_nearest(good, tmp_path):
    def change(stored):
        weights = stored["state_dict"]
        weights["network.feature.0.weight"] = weights.pop("network.features.0.weight")
        weights["network.features.1.bias"] = torch.ones(9)

    path = edited(good, tmp_path / "other.ckpt", change)
    message = (
        r"do not fit RegularizedClassifier: it lacks network.features.0.weight \(nearest: network.feature.0.weight\); "
        r"it has network.feature.0.weight \(nearest: network.features.0.weight\), "
        r"which the module has not; network.features.1.bias is \(9,\) instead of \(4,\)"
    )
    with pytest.raises(UnfitWeights, match=message):
        RegularizedClassifier.load_from_checkpoint(path)
    with pytest.raises(UnfitWeights, match=message):
        trainer().validate(
            regularized(network=conv(norm="batch")), datamodule=digits(), ckpt_path=path, weights_only=True
        )
    with pytest.raises(ValueError, match=r"saved by .*RegularizedClassifier, not by .*GAN"):
        GAN.load_from_checkpoint(good)


class Disk:
    """A file system that fails from now on, and works again."""

    def __init__(self, monkeypatch, number):
        self.number, self.full = number, False
        real = SafeCheckpointIO.save_checkpoint.__globals__["_DeferringFile"].write

        def write(file, content):
            if self.full and file._error is None:
                file._error = OSError(self.number, errno.errorcode[self.number])
            return real(file, content)

        monkeypatch.setattr("lightning_advreg.files.checkpoint_io._DeferringFile.write", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_disk_costs_no_checkpoint_and_no_run(tmp_path, monkeypatch, number, recwarn):
    disk = Disk(monkeypatch, number)
    plugin = SafeCheckpointIO()
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_last=True)
    seen = []

    class Fill(type(saving).__mro__[1]):
        def on_train_epoch_start(self, trainer, module):
            disk.full = trainer.current_epoch in (1, 2)
            seen.append(sorted(path.name for path in tmp_path.iterdir()))

    fitting = trainer(max_epochs=5, limit_train_batches=1, limit_val_batches=0, enable_checkpointing=True,
                      callbacks=[Fill(), saving], plugins=[plugin])  # fmt: skip
    fitting.fit(regularized(network=conv()), datamodule=digits())
    assert seen[1:4] == [["epoch=0.ckpt", "last.ckpt"]] * 3
    assert seen[4] == ["epoch=3.ckpt", "last.ckpt"] == sorted(path.name for path in tmp_path.iterdir())[:0] + seen[4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=4.ckpt", "last.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 4
    said = [str(warning.message) for warning in recwarn if "could not be written" in str(warning.message)]
    assert len(said) == 1 and re.search(r"epoch=1.ckpt could not be written .*Free space on the disk", said[0])
    assert plugin.failed is None


def test_a_path_that_can_never_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        SafeCheckpointIO().save_checkpoint({"state_dict": {}}, tmp_path / "file" / "last.ckpt")


def test_what_could_not_be_loaded_again_is_said_when_it_is_saved(tmp_path):
    with pytest.warns(UserWarning, match=r"holds .*Plain.*, and only tensors and plain values are loaded again"):
        SafeCheckpointIO().save_checkpoint(
            {"state_dict": {}, "x": torch.nn.Identity, "y": Plain()}, tmp_path / "a.ckpt"
        )


class Plain:
    """A class of the user's own."""


Plain.__qualname__ = Plain.__name__ = "Plain"

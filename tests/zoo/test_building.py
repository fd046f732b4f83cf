"""From a run to weights and a card: what is taken, what is measured once alone, and what is refused."""

import dataclasses
import json
from types import MappingProxyType

import pytest
import torch
import yaml

from benchmarks.zoo import building
from benchmarks.zoo.building import Settings, build, render_again
from benchmarks.zoo.entries import ENTRIES, Entry
from benchmarks.zoo.rendering import render
from benchmarks.zoo.runs import portable, training_facts
from lightning_advreg import RegularizedClassifier
from lightning_advreg.attacks import FGSM, AutoAttack
from lightning_advreg.callbacks import WeightAverage
from lightning_advreg.callbacks.weight_average import load_average_
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.environment import record_end, record_start
from lightning_advreg.files import load_network
from lightning_advreg.modules.loading import load_module
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.zoo import cards, load_model
from lightning_advreg.zoo.measuring import clean_rate, images_to_test

from ..data.sources import TEST, write_idx
from ..modules.parts import trainer

COMMAND = [
    "fit",
    "--config",
    "/somewhere/configs/mnist_regularized.yaml",
    "--data.init_args.data_dir",
    "/somewhere/data",
]


class Small(Entry):
    """An entry that is measured with weak attacks."""

    def measured(self):
        suite, fgsm = AutoAttack(eps=0.3, version="fast", seed=0, steps=3), ("FGSM, Linf 0.3", FGSM(eps=0.3, seed=0))
        return {"clean": ("clean", None), "pgd40": fgsm, "pgd40_same": fgsm, "autoattack": ("fast, Linf 0.3", suite)}


ENTRY = Small(
    name="small", run="run", summary="for a test", what="It reads {clean}; {pgd40} and {autoattack} are left.",
    weights="average",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run of two steps on a few images of noise, and the images."""
    folder = tmp_path_factory.mktemp("built")
    write_idx(folder, "MNIST")
    torch.manual_seed(0)
    average = WeightAverage(decay=0.5, validate=False)
    fitting = trainer(max_steps=2, callbacks=[average])
    model = RegularizedClassifier(MNISTConvNet(width=4, hidden=8))
    fitting.fit(model, datamodule=MNISTDataModule(folder, batch_size=8, val_size=4))
    fitting.save_checkpoint(folder / "run" / "checkpoints" / "last.ckpt")
    settings = {"seed_everything": 3, "trainer": {"max_epochs": 1}, "data": {"init_args": {"train_size": 20}}}
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    record_start(folder / "run", command=COMMAND, device=torch.device("cpu"), processes=1, seed=3)
    record_end(folder / "run")
    return folder


@pytest.fixture
def settings(run, tmp_path):
    return Settings(
        data_dir=run, out=tmp_path / "zoo", work=tmp_path / "work", progress=False,
        images=MappingProxyType({"pgd40": 6, "autoattack": 4}), samples=10,
    )  # fmt: skip


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_becomes_weights_and_a_card(run, settings, monkeypatch):
    path = build(ENTRY, run, settings)
    monkeypatch.setattr(cards, "FOLDER", settings.out)
    facts = cards.read_card(path).facts
    module = load_module(run / "run" / "checkpoints" / "last.ckpt")
    raw = state(module.network)
    load_average_(module, run / "run" / "checkpoints" / "last.ckpt")
    averaged = state(module.network)
    assert not same(raw, averaged) and same(state(load_model("small")), averaged)
    assert (
        facts["training"]["command"] == "lightning-advreg fit --config mnist_regularized --data.init_args.data_dir data"
    )
    assert (facts["training"]["seed"], facts["training"]["weights"]) == (3, "average")
    assert facts["data"]["train_images"] == 20
    assert facts["evaluation"]["command"].endswith("--only small --pgd-images 6 --autoattack-images 4")
    figures = cards.read_card(path).figures
    assert [figure.images for figure in figures.values()] == [TEST, 6, 4, 4]
    x, y = images_to_test("MNISTDataModule", run)
    assert figures["clean"].accuracy == clean_rate(load_model("small"), x, y).accuracy
    x_adv = FGSM(eps=0.3, seed=0)(load_model("small"), x[:6], y[:6])
    assert figures["pgd40"].accuracy == clean_rate(load_model("small"), x_adv, y[:6]).accuracy
    assert figures["autoattack"].attack["version"] == "fast" and figures["pgd40"].attack["attack"] == "FGSM"
    assert list(facts["results"]["autoattack"]["stages"]) == ["apgd-ce", "apgd-t"]
    assert render(ENTRY, dict(facts)) == path.read_text(encoding="utf-8")


def test_what_was_measured_is_not_measured_again(run, settings, monkeypatch):
    first = build(ENTRY, run, settings).read_text(encoding="utf-8")
    for name in ("clean_rate", "robust_rate"):
        monkeypatch.setattr(building, name, lambda *args, **kwargs: pytest.fail("measured again"))
    assert build(ENTRY, run, settings).read_text(encoding="utf-8") == first
    # another count of images is another figure
    other = dataclasses.replace(settings, images={"pgd40": 5, "autoattack": 4})
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        build(ENTRY, run, other)


def test_the_choice_of_weights_is_recorded(run, settings):
    facts = cards.read_card(build(ENTRY, run, settings, which="raw")).facts
    assert facts["training"]["weights"] == "raw" and " --weights raw" in facts["evaluation"]["command"]
    module = load_module(run / "run" / "checkpoints" / "last.ckpt")
    assert same(state(load_network(settings.out / "weights" / "small.safetensors")), state(module.network))


def test_other_words_need_no_other_figures(run, settings):
    path = build(ENTRY, run, settings)
    before = cards.read_card(path).facts
    render_again(dataclasses.replace(ENTRY, what="Now {clean}.", summary="other words"), settings.out)
    card = cards.read_card(path)
    assert "\nNow " in card.text and card.facts == {**before, "summary": "other words"}
    # one that is not there is left alone
    render_again(dataclasses.replace(ENTRY, name="none"), settings.out)
    assert not (settings.out / "cards" / "none.md").exists()


def test_a_generator_needs_its_judge(run, settings):
    network = load_module(run / "run" / "checkpoints" / "last.ckpt").network
    with pytest.raises(ValueError, match=r"small is judged by mnist_plain, which is not in .*; make it first"):
        building._samples(dataclasses.replace(ENTRY, extractor="mnist_plain"), network, settings)


def test_a_run_that_has_not_ended_is_refused(run, tmp_path):
    starts = json.loads((run / "run" / "environment.json").read_text())["starts"]
    del starts[-1]["ended"]
    (tmp_path / "environment.json").write_text(json.dumps({"starts": starts}))
    (tmp_path / "config.yaml").write_text((run / "run" / "config.yaml").read_text())
    with pytest.raises(ValueError, match=r"has not come to its end; continue it: lightning-advreg fit --resume"):
        training_facts(tmp_path, "raw")


def test_commands_lose_what_belongs_to_the_machine():
    words = ["--trainer.default_root_dir", "/a/runs/mine", "--trainer.enable_progress_bar", "false", "--x", "1"]
    assert portable(["fit", *words]) == ["fit", "--trainer.default_root_dir", "runs/mine", "--x", "1"]
    with pytest.raises(ValueError, match=r"names /a/b\.npz, a path of the machine"):
        portable(["fit", "--data.init_args.extra_path", "/a/b.npz"])


def test_entries_name_configurations_and_judges_before_those_they_judge():
    names = list(ENTRIES)
    for entry in ENTRIES.values():
        assert entry.extractor is None or names.index(entry.extractor) < names.index(entry.name)
        assert len(entry.limits) >= 4 and len(entry.summary) <= 50

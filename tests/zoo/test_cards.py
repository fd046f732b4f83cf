"""What every card says, and that it says so of the weights beside it."""

import hashlib
import re

import pytest
import yaml

from benchmarks.zoo.entries import ENTRIES
from benchmarks.zoo.rendering import render
from lightning_advreg.config_files import shipped_configs
from lightning_advreg.files import RefusedFile
from lightning_advreg.metrics import wilson_interval
from lightning_advreg.zoo import cards, model_card, models

NAMES = models()


def test_the_zoo_holds_what_its_builder_knows():
    assert set(NAMES) == set(ENTRIES)
    assert {path.stem for path in (cards.FOLDER / "weights").iterdir()} == set(NAMES)


def test_all_weights_together_have_less_than_ten_megabytes():
    assert sum(path.stat().st_size for path in (cards.FOLDER / "weights").iterdir()) <= 10_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_complete(name):
    facts = model_card(name).facts
    weights, training = facts["weights"], facts["training"]
    content = (cards.FOLDER / "weights" / weights["file"]).read_bytes()
    assert weights["sha256"] == hashlib.sha256(content).hexdigest()
    assert weights["bytes"] == len(content)
    assert training["config"] in shipped_configs() and f"--config {training['config']} " in training["command"]
    assert isinstance(training["seed"], int) and re.fullmatch(r"\d{4}-\d\d-\d\d", training["date"])
    assert training["hardware"] and {"torch", "lightning", "lightning_advreg", "python"} <= set(training["versions"])
    assert {"torch", "lightning_advreg"} <= set(facts["evaluation"]["versions"])
    assert facts["data"]["name"] == "MNIST" and facts["licence"] == "Apache-2.0" and facts["parameters"] > 1000
    assert not re.search(r"(?<![\w.])/(tmp|home|work|root|mnt)/", (cards.FOLDER / "cards" / f"{name}.md").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_figures_come_with_interval_images_and_attack(name):
    card = model_card(name)
    if not card.is_classifier:
        results = card.facts["results"]
        assert results["extractor"]["zoo"] in NAMES and results["samples"] >= 10_000 and results["real"] == 10_000
        assert {"frechet", "precision", "recall", "modes", "class_accuracy"} <= set(results["figures"])
        return
    assert list(card.figures) == ["clean", "pgd40", "clean_same", "pgd40_same", "autoattack"]
    for key, figure in card.figures.items():
        correct = round(figure.accuracy * figure.images)
        assert figure.accuracy == correct / figure.images
        assert figure.interval == pytest.approx(wilson_interval(correct, figure.images), abs=1e-5)
        assert bool(figure.attack) == (not key.startswith("clean"))
    assert card.figures["clean"].images == 10_000 and card.figures["pgd40"].images >= 1000
    autoattack = card.figures["autoattack"]
    for key in ("clean", "pgd40"):
        same = card.figures[f"{key}_same"]
        assert same.images == autoattack.images and same.attack == card.figures[key].attack
    assert card.figures["clean_same"].accuracy >= card.figures["pgd40_same"].accuracy >= autoattack.accuracy
    assert autoattack.images >= 1000 and autoattack.attack["version"] == "standard"
    assert (autoattack.attack["steps"], autoattack.attack["queries"], autoattack.attack["eps"]) == (100, 5000, 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_the_words_follow_from_the_front_matter(name):
    card = model_card(name)
    whole = (cards.FOLDER / "cards" / f"{name}.md").read_text(encoding="utf-8")
    assert render(ENTRIES[name], dict(card.facts)) == whole
    assert max(map(len, (line for line in card.text.splitlines() if not line.startswith(("|", "$", "    "))))) <= 120
    for heading in ("Figures", "Intended use", "Limits", "How to load it", "How it was made"):
        assert f"\n## {heading}\n" in card.text


@pytest.mark.parametrize("name", NAMES)
def test_the_python_of_a_card_runs(name, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", model_card(name).text, re.DOTALL)
    exec(compile(block, name, "exec"), {})
    assert bool(capsys.readouterr().out) == model_card(name).is_classifier


def test_what_cards_say_of_each_other_is_so():
    robust = {name: model_card(name).figures.get("autoattack") for name in NAMES}
    accuracy = {name: figure.accuracy for name, figure in robust.items() if figure}
    assert max(accuracy, key=accuracy.get) == "mnist_trades"
    assert accuracy["mnist_plain"] == accuracy["mnist_max_norm"] == 0
    epochs = {name: model_card(name).facts["training"]["epochs"] for name in NAMES}
    assert epochs["mnist_max_norm"] > epochs["mnist_plain"]


def test_unknown_names_lead_to_the_nearest():
    with pytest.raises(
        ValueError, match=r"^there is no network 'mnist_trade' in the zoo; nearest: mnist_trades, .*zoo"
    ):
        model_card("mnist_trade")
    with pytest.raises(ValueError, match=r"no network 'x' in the zoo; there are mnist_dcgan_conditional, mnist_max"):
        model_card("x")
    with pytest.raises(ValueError, match=r"^there is no network '../cards/mnist_plain' in the zoo"):
        model_card("../cards/mnist_plain")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("---\n", "", 1), "has no front matter between two lines of ---"),
        (lambda text: text.replace("kind: classifier", "kind: ["), "is damaged: "),
        (lambda text: text.replace("parameters:", "parametres:"), "is damaged: it lacks parameters"),
        (
            lambda text: text.replace("name: mnist_plain\n", "name: other\n", 1),
            "is the card of other, not of mnist_plain",
        ),
        (lambda text: text.replace("interval: [", "intervals: [", 1), "is damaged: KeyError 'interval'"),
        (lambda text: "", "has no front matter"),
        (lambda text: "---\n- 1\n---\n\ntext\n", "it lacks name, summary, kind"),
        (
            lambda text: text.replace("kind: classifier", "kind: !!python/object/apply:os.getcwd []"),
            "is damaged: could",
        ),
    ],
)
def test_damaged_cards_are_refused(change, message, tmp_path):
    text = (cards.FOLDER / "cards" / "mnist_plain.md").read_text(encoding="utf-8")
    path = tmp_path / "mnist_plain.md"
    path.write_text(change(text), encoding="utf-8")
    with pytest.raises(RefusedFile, match=re.escape(message)):
        cards.read_card(path)


def test_a_card_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mnist_plain.md"
    path.write_bytes(b"---\n\xff\xfe")
    with pytest.raises(RefusedFile, match=r"is damaged: it is no text"):
        cards.read_card(path)


def test_front_matter_is_plain_yaml():
    for name in NAMES:
        front = (cards.FOLDER / "cards" / f"{name}.md").read_text(encoding="utf-8").split("---\n")[1]
        assert "&id" not in front and yaml.safe_load(front)["name"] == name

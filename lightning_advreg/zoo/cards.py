"""Model cards: a Markdown file for each network of the zoo, with its figures as data in front."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_advreg.files.refused import RefusedFile, first_line

FOLDER = Path(__file__).parent
"""Where ``cards`` and ``weights`` lie."""

_RULE = "---\n"
_REMEDY = "install lightning_advreg again, or write it again with python -m benchmarks.zoo"
_NEEDED = {
    "name": str, "summary": str, "kind": str, "data": dict, "licence": str, "parameters": int, "weights": dict,
    "training": dict, "evaluation": dict, "results": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """An accuracy that was measured.

    Attributes:
        title: What it is, such as ``PGD-40, Linf 0.3``.
        accuracy: A fraction in [0, 1].
        interval: Its 95 % score interval (Wilson 1927).
        images: The images it stands on, the first of the test set.
        attack: Class and settings of the attack, as plain values; empty without one.
    """

    title: str
    accuracy: float
    interval: tuple[float, float]
    images: int
    attack: Mapping[str, Any]


@dataclass(frozen=True)
class ModelCard:
    """What is known of a network of the zoo.

    Attributes:
        name: What :func:`~lightning_advreg.zoo.load_model` takes.
        facts: Everything in the front of the card: how the network was trained and measured, as plain values.
        text: The card, in Markdown.

    Example:
        >>> from lightning_advreg.zoo import model_card
        >>> card = model_card("mnist_trades")
        >>> card.facts["kind"], card.figures["clean"].images
        ('classifier', 10000)
    """

    name: str
    facts: Mapping[str, Any]
    text: str

    @property
    def summary(self) -> str:
        """What the network is, in one line."""
        return str(self.facts["summary"])

    @property
    def is_classifier(self) -> bool:
        """Whether it maps images to logits; else noise to images."""
        return bool(self.facts["kind"] == "classifier")

    @property
    def figures(self) -> dict[str, Figure]:
        """Accuracies by name: ``clean``, ``pgd40``, ``autoattack``, and the first two on the images of the third.

        Those are ``clean_same`` and ``pgd40_same``. There are none of a generator; see ``facts["results"]``.
        """
        if not self.is_classifier:
            return {}
        return {
            name: Figure(
                title=str(found["title"]),
                accuracy=float(found["accuracy"]),
                interval=(float(found["interval"][0]), float(found["interval"][1])),
                images=int(found["images"]),
                attack=dict(found.get("attack") or {}),
            )
            for name, found in self.facts["results"].items()
        }


def models() -> tuple[str, ...]:
    """Give the names of the networks that come along, in alphabetical order.

    Example:
        >>> "mnist_trades" in models()
        True
    """
    return tuple(sorted(path.stem for path in (FOLDER / "cards").glob("*.md")))


def model_card(name: str) -> ModelCard:
    """Read the card of a network.

    Args:
        name: One of :func:`models`.

    Raises:
        ValueError: If there is no such network; the message names the nearest ones.
        RefusedFile: If the card is damaged.

    Example:
        >>> model_card("mnist_trades").facts["weights"]["file"]
        'mnist_trades.safetensors'
    """
    known = models()
    if name not in known:
        near = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.4)
        listed = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(known) or 'none'}"
        raise ValueError(f"there is no network {name!r} in the zoo; {listed}. `lightning-advreg zoo` shows them.")
    return read_card(FOLDER / "cards" / f"{name}.md")


def read_card(path: Path) -> ModelCard:
    """Read a card from a file.

    Args:
        path: The file, whose name is that of the network.

    Raises:
        OSError: If it cannot be read.
        RefusedFile: If it is no card of a network of this name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RefusedFile(f"{path} is damaged: it is no text; {_REMEDY}.") from error
    begin, front, body = (*text.split(_RULE, 2), "", "")[:3]
    if begin or not body:
        raise RefusedFile(f"{path} is no model card: it has no front matter between two lines of ---; {_REMEDY}.")
    try:
        facts = yaml.safe_load(front)
    except (yaml.YAMLError, RecursionError) as error:
        raise RefusedFile(f"{path} is damaged: {first_line(error)}; {_REMEDY}.") from error
    wrong = [
        key for key, kind in _NEEDED.items() if not isinstance(facts, dict) or not isinstance(facts.get(key), kind)
    ]
    if wrong:
        raise RefusedFile(f"{path} is damaged: it lacks {', '.join(wrong)}; {_REMEDY}.")
    card = ModelCard(path.stem, facts, body.lstrip("\n"))
    if facts["name"] != card.name:
        raise RefusedFile(f"{path} is the card of {facts['name']}, not of {card.name}; {_REMEDY}.")
    try:
        _ = card.figures, str(facts["weights"]["file"]), str(facts["weights"]["sha256"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise RefusedFile(f"{path} is damaged: {type(error).__name__} {first_line(error)}; {_REMEDY}.") from error
    return card

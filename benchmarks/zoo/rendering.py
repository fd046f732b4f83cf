"""Cards as Markdown: the front matter holds the facts, and all else follows from them and from the entry."""

import re
import textwrap
from typing import Any

import yaml

from benchmarks.zoo.entries import Entry
from lightning_advreg.reporting import markdown_table

_CLASSIFIER = """```python
import torch
from lightning_advreg.zoo import load_model

network = load_model("{name}")  # eval mode, offline
images = torch.rand(2, 1, 28, 28)  # float32 in [0, 1]; normalisation is part of the network
print(network(images).argmax(1))
```
"""
_GENERATOR = """```python
import torch
from lightning_advreg.zoo import load_model

generator = load_model("{name}")  # eval mode, offline
digits = torch.arange(10)
with torch.no_grad():
    images = generator(torch.randn(10, generator.latent_dim), digits)  # (10, 1, 28, 28) in [0, 1]
```
"""


_TITLES = {
    "frechet": ("Fréchet distance", "lower"),
    "kernel": ("kernel distance, mean over subsets", "lower"),
    "kernel_std": ("its standard deviation over subsets", "-"),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "density": ("density", "higher"),
    "coverage": ("coverage", "higher"),
    "modes": ("classes that occur, of 10", "higher"),
    "mode_kl": ("divergence from equal shares of classes, nats", "lower"),
    "class_accuracy": ("share read as the class that was asked for", "higher"),
}


def render(entry: Entry, facts: dict[str, Any]) -> str:
    """Write a card.

    Args:
        entry: What it says in words.
        facts: What it says in figures; the front matter.

    Returns:
        The whole file.
    """
    front = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    results = facts["results"]
    what = entry.what.format(**_said(results, entry))
    load = _CLASSIFIER if entry.extractor is None else _GENERATOR
    figures = _accuracies(results) if entry.extractor is None else _samples(results)
    evaluation = facts["evaluation"]
    parts = [
        f"---\n{front}---\n",
        f"# {entry.name}\n",
        _wrapped(what),
        "## Figures\n",
        figures,
        _wrapped(
            f"Measured on {evaluation['date']} with lightning_advreg {evaluation['versions']['lightning_advreg']} and "
            f"torch {evaluation['versions']['torch']} ({evaluation['hardware']}). Again, on your machine:"
        ),
        f"```console\n$ lightning-advreg zoo {entry.name} --evaluate --data_dir data --images 1000\n```\n",
        "## Intended use\n",
        _wrapped(entry.use),
        "## Limits\n",
        "".join(_wrapped(limit, "- ") for limit in entry.limits),
        "## How to load it\n",
        load.format(name=entry.name),
        "## How it was made\n",
        _made(facts),
        f"```console\n{_command(facts['training']['command'])}{_command(evaluation['command'])}```\n",
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts).replace("---\n\n# ", "---\n\n# ")


def percent(accuracy: float) -> str:
    """Write an accuracy.

    Example:
        >>> percent(0.98764)
        '98.76 %'
    """
    return f"{100 * accuracy:.2f} %"


def _said(results: dict[str, Any], entry: Entry) -> dict[str, str]:
    if entry.extractor is None:
        return {key: percent(found["accuracy"]) for key, found in results.items()}
    return {
        "samples": f"{results['samples']:,}",
        "class_accuracy": percent(results["figures"]["class_accuracy"]["value"]),
    }


def _accuracies(results: dict[str, Any]) -> str:
    rows: list[dict[str, str]] = []
    for found in results.values():
        rows.append(_row(found["title"], found))
        stages = found.get("stages") or {}
        rows += [_row(f"… after {name}", stage) for name, stage in stages.items()] if len(stages) > 1 else []
    attacks = [
        f"{found['title']}: {', '.join(f'{key} {value}' for key, value in found['attack'].items() if key != 'attack')}."
        for key, found in results.items()
        if found.get("attack") and not key.endswith("_same")
    ]
    told = (
        "Official test images of MNIST, under attack the first of them; the interval is Wilson's. Settings of attacks:"
    )
    return markdown_table(rows) + "\n" + _wrapped(told) + "\n" + "".join(_wrapped(line, "- ") for line in attacks)


def _row(title: str, found: dict[str, Any]) -> dict[str, str]:
    low, high = found["interval"]
    return {
        "measured": title,
        "accuracy": percent(found["accuracy"]),
        "95 % interval": f"{100 * low:.1f} to {100 * high:.1f}",
        "images": f"{found['images']:,}",
    }


def _samples(results: dict[str, Any]) -> str:
    rows: list[dict[str, str]] = []
    for name, found in results["figures"].items():
        interval = found.get("interval")
        shown = f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %" if interval else "-"
        title, better = _TITLES[name]
        rows.append({"figure": title, "value": f"{found['value']:.4g}", "95 % interval": shown, "better": better})
    extractor = results["extractor"]
    told = (
        f"{results['samples']:,} samples (noise of seed {results['seed']}, classes in turn) against the "
        f"{results['real']:,} test images, in the features of {extractor['name']}, the network `{extractor['zoo']}` of "
        "this zoo. No interval was computed where none is given."
    )
    return markdown_table(rows) + "\n" + _wrapped(told)


def _made(facts: dict[str, Any]) -> str:
    training, weights, data = facts["training"], facts["weights"], facts["data"]
    versions = ", ".join(f"{name} {number}" for name, number in training["versions"].items())
    rows = [
        {"what": "configuration", "value": f"`{training['config']}`, with the changes in the command below"},
        {"what": "seed, epochs", "value": f"{training['seed']}, {training['epochs']}"},
        {
            "what": "weights",
            "value": {"raw": "as training ended", "average": "their moving average"}[training["weights"]],
        },
        {"what": "parameters", "value": f"{facts['parameters']:,}"},
        {"what": "data", "value": f"{data['name']}, {data['train_images']:,} training images ({data['source']})"},
        {"what": "trained", "value": f"{training['date']}, {training['minutes']} minutes beside other work"},
        {"what": "hardware", "value": training["hardware"]},
        {"what": "versions", "value": versions},
        {"what": "licence", "value": f"weights {facts['licence']}; data {data['licence']}"},
        {"what": "file", "value": f"`{weights['file']}`, {weights['bytes']:,} bytes"},
        {"what": "SHA-256", "value": f"`{weights['sha256']}`"},
    ]
    return markdown_table(rows)


def _command(text: str) -> str:
    # a line that went on within quotes would hold the backslash
    kept = re.sub("'[^']*'", lambda quoted: quoted[0].replace(" ", "\N{NO-BREAK SPACE}"), f"$ {text}")
    lines = textwrap.wrap(kept, 112, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines).replace("\N{NO-BREAK SPACE}", " ") + "\n"


def _wrapped(text: str, begin: str = "") -> str:
    lines = textwrap.wrap(
        text,
        118,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines) + "\n"

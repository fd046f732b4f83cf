"""The page that holds all tables, and says how they were measured."""

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.each_method.study import Study
from lightning_advreg.reporting import markdown_table

_HEAD = """# Each method in a small setting

Written by `python -m benchmarks.each_method --table` from the files in `{folder}/`, which
`python -m benchmarks.each_method` leaves: one file for a method, with a value for each seed. Pages about methods show
the same files.

The settings are small, so that every method could be run: a few hundred test images, so that an accuracy near 50 %
has a 95 % interval of about ±5 points from the choice of images alone, and few seeds ({seeds} each). Differences
smaller than that say nothing. Hyper-parameters and strengths were chosen before looking, from papers and docstrings,
and not tuned; a method that does badly here may do well when tuned, or with a larger network. The baseline is the
first row of each table.

- A seed decides initial weights, the order of batches, and the random starts of attacks.
- The time of training is processor time of the epochs, over that of the baseline, which is trained for a few epochs
  before and after each run for this purpose. Other work ran on the machine, so that it is good to about a fifth: some
  methods that add work to the baseline's come out below 1.
- {hardware}; {versions}.
- Mean ± standard deviation over seeds; a method without ± was run with one.
"""

_ABOUT = {
    "Adversarial training": """All methods train under PGD of 7 steps of 0.05 unless the row names another attack; the
single-step methods use FGSM of the full eps. Eps grows over the first epochs. The last accuracy counts images that
withstand PGD-50, APGD on the cross-entropy and targeted APGD alike: where it is much lower than PGD-50 alone, gradients
mislead PGD (gradient masking), and the PGD figure is not to be quoted.""",
    "Adversarial training against two norms": """The same with attacks in L2 as well.""",
    "Few training images": """Plain training of the same network on few images, where regularisation could matter. The
gap is accuracy on training images less that on test images.""",
    "Generative adversarial networks": """The MLP pair of `digits_gan` without its regularisers but dropout. The Fréchet
distance is measured in the features of a classifier that the benchmark trains first, with a seed of its own; its name
holds a hash of its weights. It is no FID, and compares with no other table.""",
    "Attacks in Linf": """All attacks on one network. Times are of one thread.""",
    "Attacks in L2": """The same network in another norm than that of its training.""",
}


def text(folder: Path, studies: Sequence[Study]) -> str:
    """Write the page from the files of a folder.

    Args:
        folder: Holds the files; those of studies that are no more are left out.
        studies: In the order of the page.

    Raises:
        FileNotFoundError: If the folder holds no file of a study.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for study in studies:
        path = folder / f"{study.name}.json"
        if path.exists():
            files.setdefault(study.setting.title, []).append(json.loads(path.read_text()))
    if not files:
        raise FileNotFoundError(f"{folder} holds no measurements; run python -m benchmarks.each_method first.")
    everything = [found for group in files.values() for found in group]
    counts = sorted({len(found["seeds"]) for found in everything})
    head = _HEAD.format(
        folder=folder.name,
        seeds=" or ".join(map(str, counts)),
        hardware=", ".join(dict.fromkeys(found["hardware"] for found in everything)),
        versions="; ".join(dict.fromkeys(_versions(found["versions"]) for found in everything)),
    )
    return "\n".join([head, *(_section(title, group) for title, group in files.items())])


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _section(title: str, files: list[dict[str, Any]]) -> str:
    tasks = "\n\n".join(_wrapped(f"Task: {task}.") for task in dict.fromkeys(found["task"] for found in files))
    parts = [f"## {title}", _ABOUT[title], tasks]
    for found in files:
        rows = [
            {"": row["name"], **{_title(column): cell(row["values"][column["key"]]) for column in found["columns"]}}
            for row in found["rows"]
        ]
        notes = [_wrapped(found["note"])] if found.get("note") else []
        parts += [f"### {found['method']}", markdown_table(rows).rstrip(), *notes]
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _title(column: Mapping[str, str]) -> str:
    return f"{column['title']}, {column['unit']}" if column["unit"] else column["title"]


def cell(values: Sequence[float | None]) -> str:
    """Give mean and standard deviation of what is there, or a dash."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"  # noqa: RUF001
    mean = statistics.mean(known)
    digits = 1 if abs(mean) >= 10 else 2
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{mean:.{digits}f}{spread}"

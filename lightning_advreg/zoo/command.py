"""The command ``lightning-advreg zoo``: the trained networks that come along, shown, copied or measured again."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning_advreg.zoo.cards import Figure, ModelCard, model_card, models
from lightning_advreg.zoo.loading import load_model, weights_path

_COLUMNS = ("name", "what", "clean", "PGD-40", "AutoAttack", "images", "kB")
_RIGHT = {"clean", "PGD-40", "AutoAttack", "images", "kB"}


def main(args: Sequence[str]) -> int:
    """List, show, copy or measure networks from the command line.

    Args:
        args: The arguments behind ``zoo``.

    Returns:
        The exit status: 0, or 2 if something is wrong with the arguments or a file.
    """
    parser = _parser()
    options = parser.parse_args(args)
    asked = [options.copy is not None, options.evaluate]
    if options.name is None and any(asked):
        parser.error("--copy and --evaluate are of one network; give its NAME in front.")
    if all(asked):
        parser.error("--copy and --evaluate are two commands; give one of them.")
    try:
        if options.name is None:
            sys.stdout.write(listing())
        elif options.copy is not None:
            sys.stdout.write(_copied(options.name, options.copy))
        elif options.evaluate:
            _evaluate(options, sys.stdout.write)
        else:
            card = model_card(options.name)
            weights = card.facts["weights"]
            sys.stdout.write(f"{card.text}\nWeights: {weights_path(card.name)}, {weights['bytes']:,} bytes\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0


def listing() -> str:
    """Give the table of all networks, with the images that figures under AutoAttack stand on.

    Example:
        >>> print(listing().splitlines()[0].split()[:3])
        ['name', 'what', 'clean']
    """
    cards = [model_card(name) for name in models()]
    table = aligned([dict(zip(_COLUMNS, _cells(card), strict=True)) for card in cards], _RIGHT)
    notes = ["Accuracy on test images, under attack on the first of them; AutoAttack is the standard version."]
    notes += sorted({f"{_threat(card)}: {', '.join(_with(cards, _threat(card)))}" for card in cards if card.figures})
    return "\n".join([table, "", *notes, "lightning-advreg zoo NAME shows the card of one.", ""])


def aligned(rows: Sequence[dict[str, str]], right: set[str]) -> str:
    """Lay a table out in plain text.

    Args:
        rows: Cells by column, the same columns in each; at least one.
        right: The columns whose cells end together.

    Example:
        >>> print(aligned([{"name": "a", "kB": "1"}, {"name": "bcd", "kB": "12"}], {"kB"}))
        name  kB
        a      1
        bcd   12
    """
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [{name: name for name in widths}, *rows]
    return "\n".join(
        "  ".join(f"{line[name]:{'>' if name in right else '<'}{width}}" for name, width in widths.items()).rstrip()
        for line in lines
    )


def _cells(card: ModelCard) -> list[str]:
    size = f"{card.facts['weights']['bytes'] / 1000:.0f}"
    found = card.figures
    percent = [
        f"{100 * found[key].accuracy:.2f} %" if key in found else "-" for key in ("clean", "pgd40", "autoattack")
    ]
    images = f"{found['autoattack'].images:,}" if "autoattack" in found else "-"
    return [card.name, card.summary, *percent, images, size]


def _threat(card: ModelCard) -> str:
    attack = next((figure.attack for figure in card.figures.values() if figure.attack), {})
    return f"Attacks are {str(attack.get('norm', '?')).capitalize()}, eps {attack.get('eps', '?')}"


def _with(cards: Sequence[ModelCard], threat: str) -> list[str]:
    return [card.name for card in cards if card.figures and _threat(card) == threat]


def _copied(name: str, target: Path) -> str:
    from lightning_advreg.files.atomic import write_bytes

    source = weights_path(name)
    path = target / source.name if target.is_dir() else target
    if path.exists():
        raise FileExistsError(f"{path} exists, and is not overwritten; give another file.")
    write_bytes(path, source.read_bytes())
    return (
        f"The weights of {name} are in {path}; lightning_advreg.files.load_network({str(path)!r}) builds the network.\n"
    )


def _evaluate(options: argparse.Namespace, write: Callable[[str], Any]) -> None:
    """Measure again, and say how it compares with the card."""
    card = model_card(options.name)
    weights_path(options.name)
    if options.images < 1:
        raise ValueError(f"--images must be at least 1, got {options.images}.")
    # seconds of imports, for this alone
    from lightning_advreg.zoo import measuring

    shown = sys.stderr.isatty() if options.progress is None else options.progress
    x, y = measuring.images_to_test(card.facts["data"]["module"], options.data_dir, download=options.download)
    network = load_model(card.name)
    if not card.is_classifier:
        write(_generator_rows(card, network, x, y, options.images, shown))
        return
    x, y = x[: options.images], y[: options.images]
    rows = []
    # a card may have a figure twice, of more images and of fewer
    known: dict[str, Any] = {}
    for key, figure in card.figures.items():
        if not figure.attack:
            known["clean"] = known.get("clean") or measuring.clean_rate(network, x, y)
            rows.append(_row(figure, figure.title, known["clean"]))
            continue
        attack = measuring.attack_of(figure.attack)
        title = figure.title
        if figure.attack["attack"] == "AutoAttack":
            if options.autoattack is None:
                continue
            attack = measuring.quicker(attack, options.autoattack)
            if options.autoattack != figure.attack["version"]:
                title += f" ({options.autoattack}: an upper bound)"
        folder = None if options.checkpoint is None else options.checkpoint / card.name / key
        told = repr(attack)
        if told not in known:
            known[told], _ = measuring.robust_rate(network, x, y, attack, progress=shown, checkpoint=folder, name=key)
        rows.append(_row(figure, title, known[told]))
    write(f"{card.name}, the first {len(x):,} test images, beside its card\n\n")
    write(aligned(rows, {"measured", "card", "images"}) + "\n\n")
    apart = [row["what"] for row in rows if row["agree"] == "no"]
    write(f"Intervals do not meet: {', '.join(apart)}.\n" if apart else "All 95 % intervals meet those of the card.\n")


def _row(figure: Figure, title: str, rate: Any) -> dict[str, str]:  # noqa: ANN401
    low, high = rate.interval
    meets = low <= figure.interval[1] and figure.interval[0] <= high
    return {
        "what": title,
        "measured": f"{100 * rate.accuracy:.2f} %",
        "95 %": f"{100 * low:.1f} to {100 * high:.1f}",
        "card": f"{100 * figure.accuracy:.2f} %",
        "card's 95 %": f"{100 * figure.interval[0]:.1f} to {100 * figure.interval[1]:.1f}",
        "images": f"{figure.images:,}",
        "agree": "yes" if meets else "no",
    }


def _generator_rows(card: ModelCard, network: Any, x: Any, y: Any, count: int, shown: bool) -> str:  # noqa: ANN401
    from lightning_advreg.metrics import ClassifierFeatures
    from lightning_advreg.zoo import measuring

    told = card.facts["results"]
    extractor = ClassifierFeatures(load_model(told["extractor"]["zoo"]))
    found = measuring.sample_figures(
        network, extractor, x[:count], y[:count], num_samples=count, seed=told["seed"], progress=shown
    )
    rows = [
        {"what": name, "measured": f"{value:.4g}", "card": f"{told['figures'][name]['value']:.4g}"}
        for name, value in found.items()
    ]
    head = f"{card.name}, {count:,} samples and {len(x[:count]):,} test images in the features of {extractor.name}"
    note = f"The card's figures are of {told['samples']:,} and {told['real']:,}; distances shrink with more images."
    return f"{head}\n\n{aligned(rows, {'measured', 'card'})}\n\n{note}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-advreg zoo", allow_abbrev=False,
        description="Show the trained networks that come along, one of them with its card, copy its weights, or "
        "measure it again.",
        epilog="example: lightning-advreg zoo mnist_trades --evaluate --data_dir data --images 1000",
    )  # fmt: skip
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the card of this one, such as mnist_trades")
    parser.add_argument("--copy", type=Path, metavar="FILE", help="copy its weights to a file or into a folder")
    parser.add_argument("--evaluate", action="store_true", help="measure it, and show the figures beside the card's")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the data set (data)")
    parser.add_argument("--download", action="store_true", help="fetch the data set where it is missing")
    parser.add_argument("--images", type=int, default=1000, help="test images to measure with, the first ones (1000)")
    parser.add_argument(
        "--autoattack", choices=["fast", "standard"], help="also measure under AutoAttack, which takes minutes to hours"
    )
    parser.add_argument("--checkpoint", type=Path, help="folder where progress is saved, to continue from after a kill")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, help="bars (where a terminal shows them)")
    return parser

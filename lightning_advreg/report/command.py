"""The command ``lightning-advreg report``."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from lightning_advreg.files import write_text
from lightning_advreg.report.ablations import is_ablation, read_ablation
from lightning_advreg.report.page import report_page
from lightning_advreg.report.runs import is_run, read_run, short_names

_MOST_NAMED = 3


def main(args: Sequence[str]) -> int:
    """Write a report from the command line.

    Args:
        args: The arguments behind ``report``.

    Returns:
        The exit status: 0, or 2 if a folder is missing or none is that of a run.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-advreg report", allow_abbrev=False,
        description="Show runs and ablations in one HTML file that needs no network.",
        epilog="example: lightning-advreg report runs/* --out report.html",
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run or an ablation")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (report.html)")
    parser.add_argument("--title", default="", help="what stands above (the number of runs)")
    options = parser.parse_args(args)
    try:
        folders, skipped = _sorted_out(options.runs)
        ablations = [folder for folder in folders if is_ablation(folder)]
        runs = [folder for folder in folders if not is_ablation(folder)]
        page = report_page(
            [read_run(folder, name) for folder, name in _shown("runs", runs)],
            [read_ablation(folder, name) for folder, name in _shown("ablations", ablations)],
            title=options.title,
            left_out=[f"Left out: {reason}" for reason in skipped],
        )
        write_text(options.out, page)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    for reason in skipped:
        sys.stderr.write(f"Left out: {reason}\n")
    sys.stdout.write(f"{len(runs)} runs and {len(ablations)} ablations are in {options.out}\n")
    return 0


def _shown(what: str, folders: Sequence[Path]) -> Iterable[tuple[Path, str]]:
    """Give folders with short names, and show a bar while they are read."""
    pairs = zip(folders, short_names(folders), strict=True)
    return tqdm(pairs, desc=what, total=len(folders), disable=not folders, leave=False, dynamic_ncols=True)


def _sorted_out(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Give the folders that can be shown, each once, and why others cannot."""
    folders: dict[Path, Path] = {}
    skipped = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no folder {path}; give folders of runs, such as runs/*.")
        if is_ablation(path) or is_run(path):
            folders.setdefault(path.resolve(), path)
        elif path.is_dir():
            skipped.append(_why_not(path))
    if not folders:
        reasons = " ".join(skipped) or f"{paths[0]} is a file."
        raise ValueError(f"there is nothing to show. {reasons}")
    return list(folders.values()), skipped


def _why_not(path: Path) -> str:
    inside = [child for child in sorted(path.iterdir()) if is_ablation(child) or is_run(child)]
    if inside:
        named = ", ".join(child.name for child in inside[:_MOST_NAMED])
        return f"{path} is no run, but holds some ({named}{', ...' if inside[_MOST_NAMED:] else ''}); give {path}/*."
    return f"{path} is no run: it has neither config.yaml nor metrics.csv, as `lightning-advreg fit` leaves them."

"""Measure what is not there yet, study by study and seed by seed; see ``benchmarks.each_method``."""

import argparse
import logging
import sys
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import each_method
from benchmarks.each_method import adversarial, attacks, gans, page, regularisers
from benchmarks.each_method.study import Record, Row, Study, Values


def main() -> None:
    """Measure, print a line a run, and write the files; or write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.each_method",
        description=each_method.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="studies by name; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/results/methods"))
    parser.add_argument("--list", action="store_true", help="print the names of studies and their rows")
    parser.add_argument("--table", action="store_true", help="write OUT.md from the files in OUT")
    parser.add_argument("--weights", type=Path, help="safetensors file of an MNIST network, for attacks_*")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="folder that holds MNIST/raw, for attacks_*"
    )
    parser.add_argument("--images", type=int, default=attacks.IMAGES, help="how many of its test images, for attacks_*")
    options = parser.parse_args()
    if options.table:
        options.out.with_suffix(".md").write_text(page.text(options.out, [*everything(None, Path("data"))]))
        return
    studies = {study.name: study for study in everything(options.weights, options.data_dir, options.images)}
    chosen = options.only or list(studies)
    unknown = [name for name in chosen if name not in studies]
    if unknown:
        parser.error(f"--only has no study {unknown[0]!r}; --list names them")
    if options.list:
        for name in chosen:
            print(f"{name}: {'; '.join(row.name for row in studies[name].rows)}")
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.weights is None:
        if options.only and any(name in attacks.NAMES for name in chosen):
            parser.error("attacks_* need a network; give --weights FILE and --data-dir DIR")
        chosen = [name for name in chosen if name not in attacks.NAMES]
    failed = 0
    for seed in options.seeds:
        for name in chosen:
            try:
                record(studies[name], seed, options.out)
            except Exception:
                # the others are worth having
                traceback.print_exc()
                failed += 1
    if failed:
        sys.exit(f"{failed} studies failed; what they said is above.")


def everything(weights: Path | None, data_dir: Path, images: int = attacks.IMAGES) -> list[Study]:
    """Give all studies, in the order in which they are run."""
    training = [*adversarial.studies(), *regularisers.studies(), *gans.studies()]
    return [*training, *attacks.studies(weights, data_dir, images)]


def record(study: Study, seed: int, folder: Path) -> None:
    """Measure a study for a seed, unless the file has it, and add it to the file.

    Raises:
        ValueError: If the file holds other rows, or another setting.
    """
    file = Record(study, folder)
    if seed in file.seeds:
        # words may be mended without measuring again
        file.note_()
        return
    file.check()
    baseline = study.rows[0]
    figures = {row.name: known(study, row, seed, folder) or run(study, row, baseline, seed) for row in study.rows}
    file.add(seed, figures)
    print(f"{file.path}: seeds {', '.join(map(str, file.seeds))}", flush=True)


def known(study: Study, row: Row, seed: int, folder: Path) -> Values | None:
    """Give the figures of a row that another study of the same setting has with the same baseline, or None."""
    if row is not study.rows[0]:
        return None
    for path in sorted(folder.glob("*.json")):
        other = Record(replace(study, name=path.stem), folder)
        same = not other.differences() and other.found["rows"][0]["name"] == row.name
        if same and (values := other.values(row.name, seed)) is not None:
            return values
    return None


def run(study: Study, row: Row, baseline: Row, seed: int) -> Values:
    """Measure a row, with its cost, and print a line."""
    started = time.perf_counter()
    study.setting.prepare(baseline)
    values = study.setting.measure(row, seed)
    if any(column.key == "cost" for column in study.setting.columns):
        values["cost"] = 1.0 if row is baseline else study.setting.cost(baseline)
    figures = ", ".join(f"{key} {value}" for key, value in values.items())
    print(f"{study.name} | {row.name} | seed {seed} | {figures} | {time.perf_counter() - started:.0f} s", flush=True)
    return values


if __name__ == "__main__":
    main()

"""What a run has left in its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_advreg.report.files import Points, metrics_files, read_curves, read_json, read_yaml

_STAGES = ("test", "validate")
_MARKS = ("config.yaml", "hparams.yaml", "metrics.csv", "environment.json", "run.yaml")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as its folder tells it.

    Args:
        folder: Its folder.
        name: What the report calls it.
        config: Every value of its ``fit``; of a run without ``config.yaml``, the hyper-parameters of its module.
        curves: For each logged metric, epochs trained and values.
        starts: When and with what it was started, as in ``environment.json``.
        alarms: What the convergence monitor found; None if there was no monitor.
        tested: Metrics of ``test``, or else of ``validate``.
        evaluations: Content of the files of robust evaluations, by file name.
        pictures: Its pictures, in ``images/`` and ``test/images/``.
        error: The error it ended with, where that is known.
        notes: What could not be read.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    curves: Mapping[str, Points]
    starts: Sequence[Mapping[str, Any]]
    alarms: Sequence[Mapping[str, Any]] | None
    tested: Mapping[str, float]
    evaluations: Mapping[str, Mapping[str, Any]]
    pictures: Sequence[Path]
    error: str
    notes: Sequence[str]

    @property
    def epochs(self) -> float:
        """How many epochs of training were logged."""
        return max((points[-1][0] for points in self.curves.values() if points), default=0.0)

    @property
    def state(self) -> str:
        """Say how far it came."""
        planned = (self.config.get("trainer") or {}).get("max_epochs")
        done = f"{self.epochs:.4g}"
        epochs = f"{done} of {planned} epochs" if isinstance(planned, int) and planned > 0 else f"{done} epochs"
        if self.error:
            return f"failed, {epochs}"
        if not self.starts:
            return epochs
        return epochs if self.starts[-1].get("ended") else f"not ended, {epochs}"

    @property
    def signs(self) -> list[Mapping[str, Any]]:
        """Give the signs of gradient masking that evaluations found."""
        return [sign for content in self.evaluations.values() for sign in content.get("gradient_masking") or ()]


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run: it has a configuration or logged metrics."""
    return folder.is_dir() and any((folder / mark).is_file() for mark in _MARKS)


def read_run(folder: Path, name: str = "") -> RunRecord:
    r"""Read the folder of a run, however much of it there is.

    Args:
        folder: The folder.
        name: What the report calls it; the folder's name if empty.

    Returns:
        What it says. Broken files are named in ``notes``.

    Raises:
        ValueError: If the folder is not that of a run.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "metrics.csv").write_text("epoch,step,val/acc\n0,9,0.5\n1,19,0.75\n")
        >>> read_run(folder).curves
        {'val/acc': [(1.0, 0.5), (2.0, 0.75)]}
    """
    if not is_run(folder):
        raise ValueError(f"{folder} is no run: it has none of {', '.join(_MARKS)}; give the folder of a run.")
    notes: list[str] = []
    starts = _mappings(read_json(folder / "environment.json", notes).get("starts"))
    again = read_json(folder / "starts", notes).get("starts", 1)
    attempts = max(len(starts), again if isinstance(again, int) else 1)
    alarms = read_json(folder / "alarms.json", notes)
    stages = [folder / stage for stage in _STAGES if _is_of_this_run(folder / stage, starts, notes)]
    tested: dict[str, float] = {}
    evaluations: dict[str, Mapping[str, Any]] = {}
    for stage in reversed(stages):
        tested |= _numbers(read_json(stage / "results.json", notes).get("metrics"))
    for stage in stages:
        for path in sorted(stage.glob("robust_evaluation*.json")):
            if not path.stem.endswith("_timings") and (content := read_json(path, notes)):
                evaluations[f"{stage.name}/{path.name}"] = content
    since = _time(starts[0].get("started")) if starts else None
    return RunRecord(
        folder=folder,
        name=name or folder.resolve().name,
        config=_config(folder, notes),
        curves=read_curves(metrics_files(folder, attempts), notes),
        starts=starts,
        alarms=_mappings(alarms.get("alarms")) if alarms else None,
        tested=tested,
        evaluations=evaluations,
        pictures=[
            picture
            for place in (folder, *stages)
            for picture in sorted((place / "images").glob("*.png"))
            if since is None or picture.stat().st_mtime >= since.timestamp()
        ],
        error=str(read_json(folder / "error.json", notes).get("error", "")),
        notes=notes,
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """Name folders by as few of their last parts as tell them apart.

    Args:
        folders: The folders.

    Returns:
        A name for each.

    Example:
        >>> short_names([Path("/runs/a/0"), Path("/runs/b/0"), Path("/runs/quickstart")])
        ['a/0', 'b/0', 'quickstart']
    """
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        names.append("/".join(own[-depth:]))
    return names


def _config(folder: Path, notes: list[str]) -> dict[str, Any]:
    for name in ("config.yaml", "run.yaml"):
        if config := read_yaml(folder / name, notes):
            return config
    parameters = read_yaml(folder / "hparams.yaml", notes)
    given = {key: value for key, value in parameters.items() if not key.startswith("_")}
    module = parameters.get("_class_path")
    return {"model": {"class_path": module, "init_args": given} if module else given} if parameters else {}


def _is_of_this_run(stage: Path, starts: Sequence[Mapping[str, Any]], notes: list[str]) -> bool:
    """Tell whether a test belongs to this run, rather than to an earlier one in the same folder."""
    if not stage.is_dir():
        return False
    tests = _mappings(read_json(stage / "environment.json", notes).get("starts"))
    begun = _time(starts[0].get("started")) if starts else None
    tested = _time(tests[-1].get("started")) if tests else None
    if begun is None or tested is None or tested >= begun:
        return True
    notes.append(f"{stage.name}/ is older than this training, and is left out; test again")
    return False


def _mappings(values: object) -> list[Mapping[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _numbers(values: object) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {str(name): float(value) for name, value in values.items() if isinstance(value, int | float)}


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None

"""Running an ablation: skip what is finished, start what is left, keep the results up to date."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lightning_advreg.ablation.folders import changes, failure, prepare, set_aside
from lightning_advreg.ablation.launchers import Ended, Launcher, Started
from lightning_advreg.ablation.local import Local
from lightning_advreg.ablation.plan import Plan
from lightning_advreg.ablation.plots import draw_plots
from lightning_advreg.ablation.progress import Board
from lightning_advreg.ablation.results import FINISHED, Outcome, read_outcomes, shown_metrics, write_csv
from lightning_advreg.ablation.runs import Run
from lightning_advreg.ablation.summary import summary_markdown, summary_rows, summary_text
from lightning_advreg.files import write_text
from lightning_advreg.reporting import results_table

_MOST_CHANGES = 4


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Trains and tests every run of a plan, and compares.

    Args:
        plan: What to run.
        runs: Its runs, from ``make_runs``.
        out: The folder for ``results.csv``, ``table.md`` and ``plots/``; runs lie in folders of their own inside.
        launcher: Who starts the runs; None for one after the other on this machine.
        metrics: What to show, such as ``test/acc``, or the end of a name; None for the accuracies of the test, at most
            four.
        replace: Run again where the configuration has changed since, and keep the old folder under another name.

    Example:
        >>> from tempfile import mkdtemp
        >>> from lightning_advreg.ablation import Axis, make_runs
        >>> plan = Plan(arguments=("--config", "quickstart"), axes=(Axis.parse("hidden=50,100"),), seeds=(0, 1, 2))
        >>> out = Path(mkdtemp())
        >>> ablation = Ablation(plan=plan, runs=make_runs(plan, out), out=out)
        >>> len(ablation.runs)  # ablation.conduct() trains and tests them
        6
    """

    plan: Plan
    runs: Sequence[Run]
    out: Path
    launcher: Launcher | None = None
    metrics: Sequence[str] | None = None
    replace: bool = False

    def conduct(self, console: Console | None = None) -> list[Outcome]:
        """Run what is left, and write the results, also after Ctrl+C.

        Args:
            console: Where progress is shown; None for standard output.

        Returns:
            What became of each run.

        Raises:
            ValueError: If a run's configuration is not the one its folder was made with, or another process works in
                this folder.
            KeyboardInterrupt: After Ctrl+C, with results of what is finished written.
        """
        console = console or Console()
        self.out.mkdir(parents=True, exist_ok=True)
        with _alone_in(self.out):
            self._make_way()
            errors: dict[Path, str] = {}
            try:
                self._run(errors, console)
            finally:
                outcomes = read_outcomes(self.runs, errors)
                self._write(outcomes)
            self._show(outcomes, console)
        return outcomes

    def _make_way(self) -> None:
        changed = {run.folder: found for run in self.runs if (found := changes(run.folder, run.config))}
        if changed and not self.replace:
            folder, found = next(iter(changed.items()))
            more = f" and {len(found) - _MOST_CHANGES} more" if len(found) > _MOST_CHANGES else ""
            others = f", and so were {len(changed) - 1} other runs" if len(changed) > 1 else ""
            raise ValueError(
                f"{folder} was made with another configuration ({'; '.join(found[:_MOST_CHANGES])}{more}){others}; "
                "give another --out, or --replace to run again what has changed."
            )
        for folder in changed:
            set_aside(folder)

    def _run(self, errors: dict[Path, str], console: Console) -> None:
        board = Board(self.runs, console, self.metrics)
        left: list[Path] = []
        for run, outcome in zip(self.runs, read_outcomes(self.runs), strict=True):
            if outcome.state == FINISHED:
                board.skip(outcome)
            else:
                prepare(run.folder, run.config)
                left.append(run.folder)
        by_folder = {run.folder: run for run in self.runs}
        launcher = Local() if self.launcher is None else self.launcher
        with board.shown(), contextlib.closing(launcher.launch(left)) as events:
            for event in events:
                if isinstance(event, Started):
                    board.start(event.folder)
                elif isinstance(event, Ended):
                    (outcome,) = read_outcomes([by_folder[event.folder]])
                    if outcome.state != FINISHED:
                        errors[event.folder] = failure(event.folder, event.exit_code)
                        (outcome,) = read_outcomes([by_folder[event.folder]], errors)
                    board.end(outcome)

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        metrics = shown_metrics(outcomes, self.metrics)
        write_csv(outcomes, self.out / "results.csv", self.plan.baseline_cell.name)
        write_text(self.out / "table.md", summary_markdown(self.plan, outcomes, metrics))
        draw_plots(self.plan, outcomes, metrics, self.out / "plots")

    def _show(self, outcomes: Sequence[Outcome], console: Console) -> None:
        metrics = shown_metrics(outcomes, self.metrics)
        console.print(results_table(summary_rows(self.plan, outcomes, metrics), "Ablation"))
        for text in summary_text(self.plan, outcomes, metrics):
            console.print(text, markup=False, highlight=False)
        console.print(f"Everything is in {self.out}: results.csv, table.md, plots/", markup=False, highlight=False)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, where the system has locks; it falls with the process, however that ends."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another ablation works in {folder}; wait for its end, or give another --out.") from error
        yield

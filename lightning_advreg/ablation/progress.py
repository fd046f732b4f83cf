"""What is seen while an ablation runs: one table on a terminal, a line for each event elsewhere."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lightning_advreg.ablation.results import FAILED, FINISHED, Outcome, mean_and_sd, shown_metrics
from lightning_advreg.ablation.runs import Run
from lightning_advreg.ablation.summary import heading

_WAITING, _RUNNING = "waiting", "running"
_SIGNS = {_WAITING: "·", _RUNNING: "▶", FINISHED: "✓", FAILED: "✗"}
_CHROME = 8


class Board:
    """The state of all runs, as a table that keeps up with them.

    Args:
        runs: All runs.
        console: Where to show it.
        metrics: What to show; None for the accuracies of the test.
    """

    def __init__(self, runs: Sequence[Run], console: Console, metrics: Sequence[str] | None) -> None:
        self._runs = {run.folder: run for run in runs}
        self._console = console
        self._metrics = metrics
        self._states = dict.fromkeys(self._runs, _WAITING)
        self._outcomes: dict[Path, Outcome] = {}
        self._since: dict[Path, float] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on the terminal, if there is one."""
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=self.table, console=self._console, refresh_per_second=2):
            yield

    def skip(self, outcome: Outcome) -> None:
        """A run was finished before."""
        self._states[outcome.run.folder] = FINISHED
        self._outcomes[outcome.run.folder] = outcome

    def start(self, folder: Path) -> None:
        """A run has started."""
        self._states[folder], self._since[folder] = _RUNNING, time.monotonic()
        self._line(f"{self._number(folder)} {self._runs[folder].name}: started")

    def end(self, outcome: Outcome) -> None:
        """A run has ended."""
        folder = outcome.run.folder
        self._states[folder], self._outcomes[folder] = outcome.state, outcome
        seconds = time.monotonic() - self._since.get(folder, time.monotonic())
        what = ", ".join(_shown([outcome], metric) for metric in shown_metrics([outcome], self._metrics))
        said = f"finished in {seconds:.0f} s: {what}" if outcome.state == FINISHED else f"failed: {outcome.error}"
        self._line(f"{self._number(folder)} {outcome.run.name}: {said}")

    def table(self) -> Table:
        """Lay out one row a cell: its runs, seconds, and main metrics so far."""
        metrics = shown_metrics(list(self._outcomes.values()), self._metrics)
        done = sum(state == FINISHED for state in self._states.values())
        failed = sum(state == FAILED for state in self._states.values())
        title = f"Ablation: {done} of {len(self._states)} runs finished" + (f", {failed} failed" if failed else "")
        table = Table(title=title, box=box.SIMPLE_HEAD)
        table.add_column("cell", overflow="fold")
        table.add_column("runs")
        for name in ("seconds", *map(heading, metrics)):
            table.add_column(name, justify="right", no_wrap=True)
        cells: dict[str, list[Path]] = {}
        for folder, run in self._runs.items():
            cells.setdefault(run.cell.name, []).append(folder)
        for name, folders in self._within_reach(cells).items():
            outcomes = [self._outcomes[folder] for folder in folders if folder in self._outcomes]
            signs = " ".join(_SIGNS[self._states[folder]] for folder in folders)
            values = (_shown(outcomes, metric, named=False) for metric in metrics)
            table.add_row(name, signs, self._seconds(folders, outcomes), *values)
        for outcome in self._outcomes.values():
            if outcome.state == FAILED:
                table.caption = f"{outcome.run.name}: {outcome.error}"
        return table

    def _within_reach(self, cells: Mapping[str, list[Path]]) -> Mapping[str, list[Path]]:
        room = max(1, self._console.height - _CHROME)
        if not self._console.is_terminal or len(cells) <= room:
            return cells
        names = list(cells)
        busy = [
            index for index, folders in enumerate(cells.values()) if any(self._states[f] == _RUNNING for f in folders)
        ]
        first = min(max(0, (busy[0] if busy else 0) - room // 2), len(names) - room)
        return {name: cells[name] for name in names[first : first + room]}

    def _seconds(self, folders: Sequence[Path], outcomes: Sequence[Outcome]) -> str:
        running = [time.monotonic() - self._since[folder] for folder in folders if self._states[folder] == _RUNNING]
        results = [outcome.result for outcome in outcomes if outcome.result]
        spent = [result["fit_seconds"] + result["test_seconds"] for result in results]
        return f"{sum(running) + sum(spent):.0f}" if running or spent else "-"

    def _number(self, folder: Path) -> str:
        return f"[{list(self._runs).index(folder) + 1}/{len(self._runs)}]"

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _shown(outcomes: Sequence[Outcome], metric: str, *, named: bool = True) -> str:
    values = [outcome.metrics[metric] for outcome in outcomes if metric in outcome.metrics]
    if not values:
        return "-"
    mean, sd = mean_and_sd(values)
    accuracy = "acc" in metric
    text = f"{100 * mean:.2f}" if accuracy else f"{mean:.4g}"
    if len(values) > 1:
        text += f" ± {100 * sd:.2f}" if accuracy else f" ± {sd:.2g}"
    text += " %" if accuracy else ""
    return f"{heading(metric)} {text}" if named else text

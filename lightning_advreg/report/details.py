"""Sections on what runs are made of: differences of configurations, warnings, environment, whole configurations."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml

from lightning_advreg.report.configs import differences
from lightning_advreg.report.identity import named
from lightning_advreg.report.markup import Markup, element, folded, joined, section, table
from lightning_advreg.report.runs import RunRecord

_PACKAGES = ("lightning_advreg", "python", "torch", "lightning")
_LONG = 120
_BREAKS = re.compile(r"([.(=,])(?=\S)")


def differences_section(runs: Sequence[RunRecord]) -> Markup:
    """Show the values in which configurations differ, side by side.

    Args:
        runs: The runs.

    Returns:
        The section; empty for a single run.
    """
    shown = [index for index, run in enumerate(runs) if run.config]
    if len(shown) < 2:
        return Markup()
    rows = differences([runs[index].config for index in shown])
    if not rows:
        return section("differences", "Differences", element("p", "All runs have the same configuration."))
    head = ["value", *(named(runs, index) for index in shown)]
    body = [[element("code", _breakable(path)), *map(_value, cells)] for path, cells in rows.items()]
    listed = table(f"{len(rows)} values that are not the same in all runs", head, body)
    note = element("p", "A dash: the run's classes have no such argument.", class_="note")
    return section("differences", "Differences", listed, note)


def warnings_section(runs: Sequence[RunRecord]) -> Markup:
    """Show what the convergence monitor, evaluations and the runs themselves complained of.

    Args:
        runs: The runs.

    Returns:
        The section; it says so where there is nothing.
    """
    items = [
        element("li", named(runs, index), " ", element("strong", kind), ": ", text)
        for index, run in enumerate(runs)
        for kind, text in _complaints(run)
    ]
    parts = [element("ul", *items, class_="warnings")] if items else [element("p", "No warnings.")]
    watched = [index for index, run in enumerate(runs) if run.alarms is not None]
    if len(watched) < len(runs):
        number = "none of the runs" if not watched else f"{len(watched)} of {len(runs)} runs"
        text = f"ConvergenceMonitor watched {number}; the others would not have said that training goes wrong."
        if not watched:
            text = "ConvergenceMonitor watched none of the runs, so nothing would have said that training goes wrong."
        parts.append(element("p", text, class_="note"))
    return section("warnings", "Warnings", *parts)


def environment_section(runs: Sequence[RunRecord]) -> Markup:
    """Show when, on what and with which versions runs were made, and their command lines.

    Args:
        runs: The runs.

    Returns:
        The section.
    """
    head = ["run", "started", "took", "devices", "processor", "threads", "seed", *_PACKAGES]
    rows, commands = [], []
    for index, run in enumerate(runs):
        if not run.starts:
            continue
        start = run.starts[-1]
        versions = start.get("versions") or {}
        cells = [str(start.get(key, "-")) for key in ("devices", "processor", "threads")]
        seed = start.get("seed")
        cells.append("-" if seed is None else str(seed))
        cells += [str(versions.get(package, "-")) for package in _PACKAGES]
        began = str(run.starts[0].get("started", "-")).replace("T", " ").replace("+00:00", " UTC")
        again = f", continued {len(run.starts) - 1} x" if len(run.starts) > 1 else ""
        rows.append([named(runs, index), began + again, _took(run.starts), *cells])
        written = " ".join(["lightning-advreg", *map(str, start.get("command") or ())])
        commands.append(element("li", named(runs, index), " ", element("code", written)))
    parts = []
    if rows:
        parts.append(table("Where and with what", head, rows))
        parts.append(folded("Command lines", element("ul", *commands, class_="commands")))
    without = [index for index, run in enumerate(runs) if not run.starts]
    if without:
        who = "These runs have" if len(without) > 1 else "This run has"
        text = f"{who} no environment.json, which the command line writes when a training starts: "
        listed = joined(*(joined(", " * bool(place), named(runs, index)) for place, index in enumerate(without)))
        parts.append(element("p", text, listed, class_="note"))
    return section("environment", "Environment", *parts)


def configs_section(runs: Sequence[RunRecord]) -> Markup:
    """Show whole configurations, folded.

    Args:
        runs: The runs.

    Returns:
        The section; empty if no run has one.
    """
    blocks = [
        folded(f"{index + 1} {run.name}", element("pre", yaml.safe_dump(_plain(run.config), sort_keys=False)))
        for index, run in enumerate(runs)
        if run.config
    ]
    return section("configs", "Configurations", *blocks) if blocks else Markup()


def _value(text: str) -> Markup:
    lines = text.split("\n") if text else ["-"]
    inner = [element("div", _breakable(line) if len(line) < _LONG else _long(line)) for line in lines]
    return element("div", *inner, class_="value")


def _long(line: str) -> Markup:
    name, bracket, _ = line.partition("(")
    return folded(f"{name}(...)" if bracket else f"{line[: _LONG // 4]}...", _breakable(line))


def _breakable(text: str) -> Markup:
    """Let long names and lists break where a reader would."""
    return Markup(_BREAKS.sub(r"\1<wbr>", joined(text)))


def _complaints(run: RunRecord) -> Iterator[tuple[str, str]]:
    if run.error:
        yield "failed", run.error
    for alarm in run.alarms or ():
        yield str(alarm.get("name", "alarm")).replace("_", " "), str(alarm.get("message", ""))
    for sign in run.signs:
        yield f"gradient masking, {str(sign.get('name', 'sign')).replace('_', ' ')}", str(sign.get("message", ""))
    for note in run.notes:
        yield "incomplete", note


def _took(starts: Sequence[Mapping[str, Any]]) -> str:
    """Add up the times from start to end; a start that has no end is named."""
    seconds, open_ends = 0.0, 0
    for start in starts:
        try:
            ended, started = (datetime.fromisoformat(str(start[key])) for key in ("ended", "started"))
            seconds += (ended - started).total_seconds()
        except (KeyError, ValueError, TypeError):
            open_ends += 1
    if open_ends == len(starts):
        return "not ended"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    written = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{written}, and {open_ends} unfinished" if open_ends else written


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Leave plain values alone, so that YAML can write them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | None) else str(value)

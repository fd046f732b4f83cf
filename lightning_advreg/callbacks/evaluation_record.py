"""What an evaluation found, for machines: rates to log, and files."""

from pathlib import Path

from lightning_advreg.evaluation import Rate, RobustnessReport
from lightning_advreg.files import write_json
from lightning_advreg.files.outlasting import outlasting
from lightning_advreg.metrics.worst_case import WORST_CASE


def rates_to_log(report: RobustnessReport) -> dict[str, Rate]:
    """Give the rates that are logged, by name: of each attack, of its stages if it has several, and the worst case."""
    rates: dict[str, Rate] = {}
    for name, result in report.attacks.items():
        rates[name] = result.robust
        if len(result.stages) > 1:
            rates |= {f"{name}/{stage}": rate for stage, rate in result.stages.items()}
    return {**rates, WORST_CASE: report.worst_case}


def write_report(folder: Path, name: str, report: RobustnessReport) -> None:
    """Write a report, and its timings beside it.

    Args:
        folder: Where to.
        name: The name of the file, without its ending.
        report: What was found.
    """
    for path, content in ((f"{name}.json", report.as_dict()), (f"{name}_timings.json", report.timings())):
        with outlasting(folder / path):
            write_json(folder / path, content, allow_nan=False)

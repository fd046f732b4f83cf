"""The whole page."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from pathlib import Path

from lightning_advreg import __version__
from lightning_advreg.report.ablations import AblationRecord
from lightning_advreg.report.curves import curves_section
from lightning_advreg.report.details import (
    configs_section,
    differences_section,
    environment_section,
    warnings_section,
)
from lightning_advreg.report.gallery import ablations_section, chosen_pictures, pictures_section
from lightning_advreg.report.markup import Markup, element
from lightning_advreg.report.overview import overview_section
from lightning_advreg.report.pictures import Shown, fit_pictures
from lightning_advreg.report.robustness import robustness_section
from lightning_advreg.report.runs import RunRecord

LARGEST = 4_800_000
"""The most bytes of a page, unless its text alone has more."""

_SECTIONS = {
    "runs": "Runs", "ablations": "Ablations", "differences": "Differences", "curves": "Learning curves",
    "robustness": "Robustness", "pictures": "Pictures", "warnings": "Warnings", "environment": "Environment",
    "configs": "Configurations",
}  # fmt: skip
# whatever a file says, the page fetches nothing and runs nothing
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_page(
    runs: Sequence[RunRecord],
    ablations: Sequence[AblationRecord] = (),
    *,
    title: str = "",
    left_out: Sequence[str] = (),
) -> str:
    r"""Write a page that shows runs and ablations.

    It is one HTML file without scripts, with its pictures inside, for light and dark screens, wide and narrow ones.
    Pictures are reduced until the page has at most :data:`LARGEST` bytes.

    Args:
        runs: The runs, in the order of their numbers.
        ablations: The ablations.
        title: What stands above; the number of runs if empty.
        left_out: What is said to be missing, a sentence each.

    Returns:
        The HTML.

    Raises:
        ValueError: If there is neither a run nor an ablation.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from lightning_advreg.report import read_run
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "metrics.csv").write_text("epoch,step,val/acc\n0,9,0.5\n1,19,0.75\n")
        >>> page = report_page([read_run(folder, "first")], title="a < b")
        >>> "<h1>a &lt; b</h1>" in page, "<script" in page
        (True, False)
    """
    if not runs and not ablations:
        raise ValueError("a report needs at least one run or ablation.")
    # what the text leaves of the page is for pictures
    draft = _page(runs, ablations, title, left_out, {})
    wanted = [path for run in runs for _, path in chosen_pictures(run)]
    wanted += [path for ablation in ablations for path in ablation.plots]
    room = LARGEST - len(draft.encode())
    # what an <img> needs beside its data
    shown, missing = fit_pictures(wanted, max(0, room - 400 * len(wanted)))
    said = [*left_out]
    if missing:
        named = ", ".join(str(path) for path in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        said.append(f"Pictures that could not be read or had no room: {named}{more}.")
    return _page(runs, ablations, title, said, shown)


def _page(
    runs: Sequence[RunRecord],
    ablations: Sequence[AblationRecord],
    title: str,
    left_out: Sequence[str],
    shown: Mapping[Path, Shown],
) -> str:
    bodies = {
        "runs": overview_section(runs) if runs else "",
        "ablations": ablations_section(ablations, shown),
        "differences": differences_section(runs),
        "curves": curves_section(runs),
        "robustness": robustness_section(runs),
        "pictures": pictures_section(runs, shown),
        "warnings": warnings_section(runs) if runs else "",
        "environment": environment_section(runs) if runs else "",
        "configs": configs_section(runs),
    }
    there = [key for key, body in bodies.items() if body]
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    heading = title or _counted(runs, ablations)
    links = element("nav", *(element("a", _SECTIONS[key], href=f"#{key}") for key in there), aria_label="Sections")
    notes = [element("p", sentence, class_="note") for sentence in left_out]
    style = files("lightning_advreg.report").joinpath("style.css").read_text(encoding="utf-8")
    byline = element("p", f"{made}, lightning_advreg {__version__}", class_="note")
    main = element("main", *(Markup(bodies[key]) for key in there))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{element('header', element('h1', heading), byline, *notes, links)}\n{main}\n</body>\n</html>\n"
    )


def _counted(runs: Sequence[RunRecord], ablations: Sequence[AblationRecord]) -> str:
    parts = []
    for number, name in ((len(runs), "run"), (len(ablations), "ablation")):
        if number:
            parts.append(f"{number} {name}{'s' if number > 1 else ''}")
    return "Report on " + " and ".join(parts)

"""The sections with pictures: those of runs, and ablations with their plots and tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_advreg.report.ablations import AblationRecord
from lightning_advreg.report.identity import named
from lightning_advreg.report.markup import Markup, element, folded, section, table
from lightning_advreg.report.pictures import Shown, latest
from lightning_advreg.report.runs import RunRecord

# the report draws its own of these
_DRAWN = "test_accuracy_curve"


def chosen_pictures(run: RunRecord) -> list[tuple[str, Path]]:
    """Choose the pictures of a run to show, with their captions."""
    drawn = any(content.get("curve") for content in run.evaluations.values())
    return latest([path for path in run.pictures if not (drawn and path.name.startswith(_DRAWN))])


def pictures_section(runs: Sequence[RunRecord], shown: Mapping[Path, Shown]) -> Markup:
    """Show adversarial examples, samples and other pictures of each run.

    Args:
        runs: The runs.
        shown: The pictures that have room in the page, by file.

    Returns:
        The section; empty if there are none.
    """
    parts = []
    for index, run in enumerate(runs):
        figures = [
            _figure(shown[path], caption, f"{run.name}: {caption}")
            for caption, path in chosen_pictures(run)
            if path in shown
        ]
        if figures:
            parts += [element("h3", named(runs, index)), element("div", *figures, class_="pictures")]
    return section("pictures", "Pictures", *parts) if parts else Markup()


def ablations_section(ablations: Sequence[AblationRecord], shown: Mapping[Path, Shown]) -> Markup:
    """Show tables and plots of ablations, and their runs folded.

    Args:
        ablations: The ablations.
        shown: The pictures that have room in the page, by file.

    Returns:
        The section; empty if there are none.
    """
    if not ablations:
        return Markup()
    parts: list[Markup] = []
    for ablation in ablations:
        parts.append(element("h3", ablation.name))
        for place, (head, *rows) in enumerate(ablation.tables):
            caption = f"Cells of {ablation.name}" if place == 0 else f"{ablation.name}, table {place + 1}"
            parts.append(table(caption, head, rows))
        parts += [element("p", text) for text in (*ablation.text, *ablation.notes)]
        figures = [
            _figure(shown[path], "", f"{ablation.name}: {path.stem.replace('_', ' ')}")
            for path in ablation.plots
            if path in shown
        ]
        if figures:
            parts.append(element("div", *figures, class_="pictures"))
        if len(ablation.runs) > 1:
            head, *rows = ablation.runs
            listed = table(f"results.csv of {ablation.name}", head, rows)
            parts.append(folded(f"All {len(rows)} runs", listed))
    return section("ablations", "Ablations", *parts)


def _figure(picture: Shown, caption: str, alt: str) -> Markup:
    image = element("img", src=picture.source, alt=alt, width=str(picture.width), height=str(picture.height))
    # an element without an end tag
    image = Markup(image.removesuffix("</img>"))
    return element("figure", image, *([element("figcaption", caption)] if caption else []))

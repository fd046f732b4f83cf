"""The model zoo: the card of each network, and a table of them."""

from pathlib import Path
from typing import Any

from measured import front_matter


def pages(folder: Path) -> dict[str, str]:
    """Give pages by their paths in the site; none where there is no card."""
    cards = {path.stem: front_matter(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.md"))}
    if not cards:
        return {}
    rows = [
        f"| [{name}]({name}.md) | {_cell(facts.get('summary'))} | {_figures(facts)} |"
        for name, (facts, _) in cards.items()
    ]
    index = [
        "# Model zoo",
        "",
        "Small networks that come along with the package, each with a card that says how it was trained, what was",
        "measured and what it must not be used for. `lightning-advreg zoo` lists them.",
        "",
        "| name | what | measured |",
        "|---|---|---|",
        *rows,
        "",
    ]
    return {"zoo/index.md": "\n".join(index), **{f"zoo/{name}.md": text for name, (_, text) in cards.items()}}


def _figures(facts: dict[str, Any]) -> str:
    results = facts.get("results")
    shown = []
    for one in results.values() if isinstance(results, dict) else []:
        if isinstance(one, dict) and "accuracy" in one:
            shown.append(f"{one.get('title', '')} {100 * one['accuracy']:.1f} % of {one.get('images')}")
    return _cell("; ".join(shown)) or "see the card"


def _cell(text: object) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")

"""Notebooks as pages: their cells and the outputs that are stored in them."""

import base64
import json
import re
from pathlib import Path
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def pages(folder: Path) -> dict[str, str | bytes]:
    """Give pages and pictures by their paths in the site."""
    found: dict[str, str | bytes] = {}
    listed = []
    for path in sorted(folder.glob("*.ipynb")):
        text, pictures = converted(json.loads(path.read_text(encoding="utf-8")), path.stem)
        found[f"notebooks/{path.stem}.md"] = text
        found.update(pictures)
        listed.append(f"- [{_title(text, path.stem)}]({path.stem}.md)")
    if listed:
        found["notebooks/index.md"] = "\n".join(
            [
                "# Notebooks",
                "",
                "Shown with the outputs that are stored in the files of `notebooks/`; each runs in a",
                "minute or two on two processor cores, with the digits that are embedded.",
                "",
                *listed,
                "",
            ]
        )
    return found


def converted(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """Give a notebook as Markdown, and its pictures by their paths in the site."""
    blocks, pictures = [], {}
    for cell in notebook["cells"]:
        source = _text(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            blocks.append(source)
        elif cell["cell_type"] == "code" and source:
            blocks.append(_fenced(source, "python"))
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if "image/png" in data:
                    name = f"{stem}_{len(pictures) + 1}.png"
                    pictures[f"notebooks/{name}"] = base64.b64decode(_text(data["image/png"]))
                    blocks.append(f"![Output of the cell above]({name})")
                elif text := _ANSI.sub("", _text(output.get("text") or data.get("text/plain") or "")).strip("\n"):
                    blocks.append(_fenced(text, "text"))
    note = f"The file is `notebooks/{stem}.ipynb`."
    head, _, rest = "\n\n".join(blocks).partition("\n\n")
    first, _, below = head.partition("\n")
    return "\n\n".join(part for part in (first, note, below.strip("\n"), rest) if part) + "\n", pictures


def _fenced(text: str, language: str) -> str:
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _title(text: str, stem: str) -> str:
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1] if heading else stem

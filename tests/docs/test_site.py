"""What the site makes of files: tables of figures, notebooks, the API, and the check of a site that is built."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_advreg.attacks
import lightning_advreg.files

from .pages import REPOSITORY, site

FIGURES = {
    "method": "TRADES",
    "task": "8x8 digits",
    "command": "python -m benchmarks.each_method --only TRADES",
    "seeds": [0, 1],
    "hardware": "CPU, 1 thread",
    "versions": {"torch": "2.6"},
    "columns": [
        {"key": "clean", "title": "clean", "unit": "%"},
        {"key": "cost", "title": "time", "unit": "x"},
        {"key": "kl", "title": "KL"},
    ],
    "rows": [
        {"name": "PGDAT", "values": {"clean": [97.0, 98.0], "cost": 1.0, "kl": [0.01234, 0.01236]}},
        {"name": "TRADES, beta 6", "values": {"clean": [96.0, 96.0], "cost": [1.5, 1.7], "kl": None}},
    ],
    "note": "Chosen before.",
}


def written(folder, name="TRADES", **changed):
    path = folder / "results" / "methods" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**FIGURES, **changed}))
    return path


def test_figures_become_a_table(tmp_path):
    measured = site("measured")
    assert measured.table(measured.read(written(tmp_path))).splitlines() == [
        "8x8 digits.",
        "",
        "|  | clean, % | time, x | KL |",
        "|---|--:|--:|--:|",
        "| PGDAT | 97.5 ± 0.7 | 1.00 | 0.0123 ± 0.0000 |",
        "| TRADES, beta 6 | 96.0 ± 0.0 | 1.60 ± 0.14 | - |",
        "",
        "Mean ± standard deviation over 2 seeds. `python -m benchmarks.each_method --only TRADES`, CPU, 1 thread, "
        "torch 2.6.",
        "",
        "Chosen before.",
    ]


def test_figures_that_are_incomplete_are_refused(tmp_path):
    rows = [{"name": "PGDAT", "values": {"clean": [97.0], "cost": 1.0, "kl": 1}}]
    with pytest.raises(ValueError, match="1 values of 'clean' for 2 seeds"):
        site("measured").read(written(tmp_path, rows=rows))
    with pytest.raises(ValueError, match="has no 'kl'; the columns are clean, cost, kl"):
        site("measured").read(written(tmp_path, rows=[{"name": "PGDAT", "values": {"clean": [1, 2], "cost": 1}}]))


def test_methods_side_by_side_share_a_baseline_and_lead_to_their_pages(tmp_path):
    written(tmp_path)
    rows = [FIGURES["rows"][0], {"name": "MART", "values": {"clean": [95, 95], "cost": [2, 2], "kl": 0}}]
    written(tmp_path, "MART", rows=rows)
    page = tmp_path / "methods" / "training" / "trades.md"
    page.parent.mkdir(parents=True)
    page.write_text("---\nmethod: TRADES\nmodule: m\nmeasured: [TRADES, MART]\n---\n# TRADES\n")
    text = site("measured").side_by_side(tmp_path)
    assert text.startswith("## Adversarial training\n")
    assert text.count("| PGDAT |") == 1
    assert "| [TRADES, beta 6](training/trades.md) | 96.0 ± 0.0 |" in text
    assert "| [MART](training/trades.md) | 95.0 ± 0.0 |" in text


def test_figures_of_mnist_are_side_by_side_as_well():
    assert "| trades | 95.8 ± 0.3 | 87.5 ± 1.3 | 89.0 ± 2.6 |" in site("measured").side_by_side(REPOSITORY / "docs")


def test_a_notebook_becomes_a_page():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Words."]},
        {
            "cell_type": "code",
            "source": "print('`' * 3)",
            "outputs": [
                {"output_type": "stream", "text": ["\x1b[31m```\x1b[0m\n"]},
                {"output_type": "display_data", "data": {"image/png": base64.b64encode(b"png").decode()}},
            ],
        },
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    text, pictures = site("notebook_pages").converted({"cells": cells}, "mine")
    assert text == (
        "# Title\n\nThe file is `notebooks/mine.ipynb`.\n\nWords.\n\n```python\nprint('`' * 3)\n```\n\n"
        "````text\n```\n````\n\n![Output of the cell above](mine_1.png)\n"
    )
    assert pictures == {"notebooks/mine_1.png": b"png"}


def test_cards_of_the_zoo_become_pages(tmp_path):
    zoo = site("zoo_pages")
    assert zoo.pages(tmp_path / "none") == {}
    figures = {"clean": {"title": "clean", "accuracy": 0.99, "images": 1000}}
    front = json.dumps({"name": "net", "summary": "A net.", "results": figures})
    (tmp_path / "net.md").write_text(f"---\n{front}\n---\n# net\n\nText.\n")
    pages = zoo.pages(tmp_path)
    assert "| [net](net.md) | A net. | clean 99.0 % of 1000 |" in pages["zoo/index.md"]
    assert pages["zoo/net.md"] == "# net\n\nText.\n"


def test_the_reference_has_every_public_name():
    rooms = {room.name: room for room in site("repository").rooms()}
    pages = site("api_pages").pages(list(rooms.values()))
    for module in (lightning_advreg.attacks, lightning_advreg.files):
        room = rooms[module.__name__]
        assert [one.name for one in room.names] == list(module.__all__)
        page = pages[f"api/{room.title}.md"]
        assert all(f"::: {module.__name__}.{one}\n" in page for one in module.__all__)
    without = [(room.name, one.name) for room in rooms.values() for one in room.names if not one.summary]
    assert not without


@pytest.fixture
def checker():
    spec = importlib.util.spec_from_file_location("check_links", REPOSITORY / ".ci" / "check_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_site(folder, index, **others):
    (folder / "search").mkdir()
    (folder / "search" / "search_index.json").write_text(json.dumps({"docs": [{"location": "index.html#a"}]}))
    (folder / "index.html").write_text(index)
    for name, text in others.items():
        (folder / f"{name}.html").write_text(text)
    return folder


def test_a_sound_site_has_no_problems(tmp_path, checker, capsys):
    index = '<h1 id="a">A</h1><a href="b.html#c">b</a><a href="https://example.org">out</a><a href="#a">a</a>'
    small_site(tmp_path, index, b='<p id="c">C</p><a href="index.html">home</a>')
    assert checker.main([str(tmp_path)]) == 0
    assert "2 pages" in capsys.readouterr().out


def test_dead_links_lost_pages_and_foreign_assets_are_found(tmp_path, checker):
    index = (
        '<a href="b.html#d">b</a><a href="gone.html">g</a><script src="https://cdn.example.org/a.js"></script>'
        '<link rel="stylesheet" href="//fonts.example.org/f.css"><p style="background: url(http://example.org/p.png)">'
    )
    small_site(tmp_path, index, b='<p id="c">C</p>', lost="<p>")
    (tmp_path / "a.css").write_text("@import 'https://example.org/b.css'; p { background: url('data:x') }")
    assert sorted(checker.problems(tmp_path)) == [
        "a.css loads https://example.org/b.css from elsewhere",
        "index.html links to b.html#d, which has no such anchor",
        "index.html links to gone.html, which is not there",
        "index.html loads //fonts.example.org/f.css from elsewhere",
        "index.html loads http://example.org/p.png from elsewhere",
        "index.html loads https://cdn.example.org/a.js from elsewhere",
        "no link leads to lost.html",
        "the search finds index.html#a, which is not there",
    ]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    own = REPOSITORY / "build" / "docs-env" / "bin" / "python"
    python = str(own) if own.is_file() else sys.executable
    if subprocess.run([python, "-c", "import material, mkdocstrings, latex2mathml"], capture_output=True).returncode:
        pytest.skip("no MkDocs; `make docs` installs it into build/docs-env")
    command = [
        python,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        ".ci/mkdocs.yml",
        "--site-dir",
        str(tmp_path),
    ]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-4000:]
    reference = (tmp_path / "api" / "attacks.html").read_text()
    assert "Examples:" in reference
    assert not [path.name for path in (tmp_path / "api").glob("*.html") if ":class:" in path.read_text()]
    checked = [sys.executable, str(Path(".ci", "check_links.py")), str(tmp_path)]
    assert subprocess.run(checked, cwd=REPOSITORY).returncode == 0

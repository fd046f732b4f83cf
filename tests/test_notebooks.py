"""The notebooks run from top to bottom, and keep what they printed and the pictures they made.

The first code cell of a notebook is tagged ``parameters`` and holds its constants. In the metadata of that cell,
``test_source`` is a shorter version: the same names with smaller values. The fast test runs the notebook with that one
in place of the cell, since it asks whether the cells run; the slow test runs it as it is.
"""

import ast
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LARGEST = 600_000
"""Bytes of a notebook with its pictures."""
SECONDS = 120
"""Of processor time that a notebook may take, with that of the processes it starts."""
# what stored text must not show: paths of the machine it ran on, warnings, the times of cells
MACHINE = re.compile(r"(?<![\w.])/(?:tmp|home|root|usr|opt|work|private|Users)/|site-packages|\b\w*Warning\b")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def assigned(source):
    """Give the names that a cell of constants assigns, and no other statement may be in it."""
    statements = ast.parse(source).body
    assert all(isinstance(statement, ast.Assign) for statement in statements), "assignments alone"
    targets = [target for statement in statements for target in statement.targets]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def test_there_are_notebooks():
    assert "first_robust_classifier" in [path.stem for path in NOTEBOOKS]


@each_notebook
def test_constants_come_first_and_their_shorter_version_has_the_same_names(path):
    first, *others = code_cells(path)
    assert first["metadata"].get("tags") == ["parameters"]
    assert not [cell for cell in others if "parameters" in cell["metadata"].get("tags", [])]
    source, shorter = "".join(first["source"]), first["metadata"]["test_source"]
    assert assigned(shorter) == assigned(source)
    assert shorter != source


@each_notebook
def test_the_stored_outputs_hold_pictures_and_no_errors(path):
    cells = code_cells(path)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # one run from top to bottom, without a cell that was run twice or later
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@each_notebook
def test_the_file_is_small_and_names_no_machine(path):
    assert path.stat().st_size < LARGEST
    notebook = read(path)
    assert not [cell["id"] for cell in notebook["cells"] if "execution" in cell["metadata"]]
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for output in (output for cell in code_cells(path) for output in cell["outputs"]):
        data = output.get("data", {})
        texts += [
            "".join(output.get("text", "")),
            *("".join(data.get(f"text/{kind}", "")) for kind in ("plain", "html")),
        ]
    assert not [found.group() for text in texts for found in MACHINE.finditer(text)]


RUN = """
import json, sys

for source in json.load(sys.stdin):
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    exec(compile("\\n".join(lines), "a cell", "exec"), globals())
"""


@each_notebook
def test_the_cells_run_from_top_to_bottom(path, tmp_path):
    first, *others = code_cells(path)
    sources = [first["metadata"]["test_source"], *("".join(cell["source"]) for cell in others)]
    # a process of its own, as in Jupyter: loggers, W&B and environment variables are those of no other test
    paths = os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(sources), cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    stored = [output for cell in others for output in cell["outputs"] if output.get("name") == "stdout"]
    assert bool(done.stdout.strip()) == bool(stored)
    assert not [*tmp_path.iterdir()], "notebooks write to temporary folders of their own"


@pytest.mark.slow
@each_notebook
def test_as_it_stands_it_runs_in_jupyter_in_time(path, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    # one thread, so that processor time does not count threads that wait for each other
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    client = nbclient.NotebookClient(
        nbformat.read(path, as_version=4),
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # a kernel that imports torch takes longer than this: less would mean that its time was not counted
    assert 1 < taken < SECONDS

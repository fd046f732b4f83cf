"""Every page of a method is complete, its configurations are taken by the command line, and its programs run."""

import importlib
import re
import shlex

import pytest
import torch
import yaml

from lightning_advreg import cli
from lightning_advreg.config_files import find_configs

from .pages import DOCS, blocks_of, front_matter, methods, name_of

SECTIONS = ("Formula", "Source", "When to use it", "Cost", "Configuration", "Measured")
WHOLE = {"model", "trainer", "data"}
PAGES = methods()
BLOCKS = [block for path in PAGES for block in blocks_of(path.read_text(), name_of(path))]
OTHERS = [
    block
    for path in [DOCS / "index.md", *sorted((DOCS / "concepts").glob("*.md")), *sorted((DOCS / "how_to").glob("*.md"))]
    for block in blocks_of(path.read_text(), name_of(path))
]


def problems(text):
    """What a page of a method lacks."""
    front, body = front_matter(text)
    titles = re.findall(r"^## (.+)$", body, re.M)
    yield from (f"no section {one}" for one in SECTIONS if one not in titles)
    yield from (f"no {one} in the front matter" for one in ("method", "module", "measured") if one not in front)
    if {"method", "module"} <= set(front) and not hasattr(importlib.import_module(front["module"]), front["method"]):
        yield f"no {front['method']} in {front['module']}"
    measured = front.get("measured") or []
    if bool(measured) != ("<!-- measured -->" in body):
        yield "a marker <!-- measured --> without names in `measured`, or names without a marker"
    if not measured and "not measured" not in body.lower():
        yield "neither figures nor the words `not measured`"
    for one in measured:
        if not (DOCS / "results" / "methods" / f"{one}.json").is_file():
            yield f"no docs/results/methods/{one}.json"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_is_complete(path):
    assert not list(problems(path.read_text()))


def test_what_is_missing_is_noticed():
    page = "---\nmethod: PGF\nmodule: lightning_advreg.attacks\nmeasured: [nowhere]\n---\n# PGF\n## Formula\n"
    assert list(problems(page)) == [
        *(f"no section {one}" for one in SECTIONS[1:]),
        "no PGF in lightning_advreg.attacks",
        "a marker <!-- measured --> without names in `measured`, or names without a marker",
        "no docs/results/methods/nowhere.json",
    ]


class Parser(cli.RunFolderCLI):
    """The parser of the command line, which takes a while to build, and nothing run."""

    def parse_arguments(self, parser, args):
        raise StopIteration

    def __init__(self, *args, **kwargs):
        with pytest.raises(StopIteration):
            super().__init__(*args, **kwargs)


@pytest.fixture(scope="module")
def parser():
    return cli.command_line(Parser, find_configs(["fit", "--config", "quickstart"]), exit_on_error=False).parser


def taken(parser, tmp_path, text, base="quickstart"):
    file = tmp_path / "block.yaml"
    file.write_text(text)
    config = parser.parse_args(find_configs(["fit", "--config", base, "--config", str(file)]))
    config["fit"]["trainer"]["logger"] = None
    try:
        with torch.random.fork_rng():
            return parser.instantiate_classes(config)["fit"]
    except ValueError as error:
        # files of a run that a page supposes, such as the helper of HAT
        if "there is no file 'runs/" not in str(error):
            raise
        return config["fit"]


YAML = [block for block in BLOCKS if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_configuration_is_taken(block, parser, tmp_path):
    front, _ = front_matter((DOCS.parent / block.page).read_text())
    assert set(yaml.safe_load(block.text)) <= WHOLE
    taken(parser, tmp_path, block.text, front.get("base", "quickstart"))


@pytest.mark.parametrize("block", [one for one in OTHERS if one.text.startswith("model:")], ids=str)
def test_a_configuration_of_other_pages_is_taken(block, parser, tmp_path):
    assert taken(parser, tmp_path, block.text).model is not None


def commands():
    """The runs that pages begin, in one line each, but for those that need a run that is there."""
    for block in OTHERS:
        for line in block.text.replace("\\\n", " ").splitlines() if block.language == "console" else []:
            words = shlex.split(line.partition(" #")[0])
            begins = words[:2] == ["$", "lightning-advreg"] and words[2] in ("fit", "test")
            if begins and not {"--resume", "runs/mine/config.yaml"} & set(words):
                yield " ".join(words[2:])


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_is_understood(line, parser):
    assert parser.parse_args(find_configs(line.split())).subcommand == line.split()[0]


def test_an_argument_that_does_not_exist_is_noticed(parser, tmp_path):
    taken(parser, tmp_path, "model: {init_args: {attack: {class_path: PGD, init_args: {eps: 0.1}}}}")
    with pytest.raises(Exception, match="epsilon"):
        taken(parser, tmp_path, "model: {init_args: {attack: {class_path: PGD, init_args: {epsilon: 0.1}}}}")
    with pytest.raises(Exception, match="beta"):
        taken(parser, tmp_path, "model: {init_args: {objective: {class_path: TRADES, init_args: {beta: -1}}}}")


# together they take minutes: every third of the methods' each time, all of them with `-m slow` besides
PYTHON = [one for one in BLOCKS if one.language == "python"]
PROGRAMS = [pytest.param(one, marks=pytest.mark.slow if i % 3 else [], id=str(one)) for i, one in enumerate(PYTHON)]
PROGRAMS += [pytest.param(one, id=str(one)) for one in OTHERS if one.language == "python"]


@pytest.mark.parametrize("block", PROGRAMS)
@pytest.mark.filterwarnings("ignore")
def test_a_program_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        exec(compile("\n" * block.line + block.text, block.page, "exec"), {"__name__": "__main__"})
    finally:
        torch.set_num_threads(threads)

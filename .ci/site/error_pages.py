"""Every message that the library raises, warns with or refuses with, read from its source."""

import ast
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from repository import PACKAGE, ROOT, Room, module_name, parsed

MARKER = "<!-- messages -->"
HOLE = "…"
_WARN = {"warn", "rank_zero_warn", "_warn"}
_ALARM = {"Alarm": "alarm", "Flag": "sign of gradient masking"}
# told to Python or to this library, and to no user
_INNER = {"AssertionError", "AttributeError", "NotImplementedError", "Unbounded", "Undescribable", "StopIteration"}
# its functions give the lines that explain what jsonargparse refuses
_EXPLAINS = f"{PACKAGE}.parsing"
_TITLES = {"": "Command line and single modules"}


@dataclass(frozen=True)
class Message:
    """What may be said, and where.

    Args:
        room: The room, such as ``attacks``; empty for modules beside the rooms.
        module: The module that says it.
        owner: The class or function, such as ``PGD``.
        kind: The class of the error, ``warning``, ``alarm``, ``error`` of the command line, ...
        text: The words, with ``…`` for what depends on the case.
    """

    room: str
    module: str
    owner: str
    kind: str
    text: str


def messages(root: Path = ROOT) -> list[Message]:
    """Read all messages of the package, in the order of the source."""
    trees = {module_name(root, path): parsed(path) for path in sorted((root / PACKAGE).rglob("*.py"))}
    packages = {name.split(".")[1] for name in trees if name.count(".") > 1}
    found: dict[Message, None] = {}
    for module, tree in trees.items():
        parts = module.split(".")
        room = parts[1] if len(parts) > 1 and parts[1] in packages else ""
        for owner, kind, text in _Reader(module, tree, trees).said():
            if re.search(r"\w{2}", text.replace(HOLE, "")):
                found[Message(room, module, owner, kind, text)] = None
    return list(found)


def section(found: list[Message], rooms: Sequence[Room]) -> str:
    """Give the messages as Markdown, by room and by class or function."""
    public = {(one.module, one.name): f"{room.name}.{one.name}" for room in reversed(rooms) for one in room.names}
    texts = {room.title: room.text.partition("\n")[0] for room in rooms}
    lines: list[str] = []
    for room in sorted({one.room for one in found}, key=lambda one: (one == "", one)):
        lines += [f"### {room or _TITLES['']} {{#room-{room or 'others'}}}", "", texts.get(room, ""), ""]
        here = [one for one in found if one.room == room]
        for module, owner in dict.fromkeys((one.module, one.owner) for one in here):
            target = public.get((module, owner))
            where = f"[`{target}`][{target}]" if target else f"in `{module}`"
            lines += [f"#### {owner or module.rpartition('.')[2]} {{#{_anchor(module, owner)}}}", "", where, ""]
            said = [one for one in here if (one.module, one.owner) == (module, owner)]
            lines += [_list(said), ""]
    return "\n".join(lines)


def _list(said: list[Message]) -> str:
    items = (f"<li><span>{html.escape(one.kind)}</span> {html.escape(one.text)}</li>" for one in said)
    return f'<ul class="messages">{"".join(items)}</ul>'


def _anchor(module: str, owner: str) -> str:
    return re.sub(r"[^\w]+", "-", f"{module.removeprefix(PACKAGE)} {owner}").strip("-").lower()


class _Reader:
    """The messages of one module."""

    def __init__(self, module: str, tree: ast.Module, trees: dict[str, ast.Module]) -> None:
        self.module, self.tree, self.trees = module, tree, trees
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self.imported = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    def said(self) -> Iterator[tuple[str, str, str]]:
        """Give owner, kind and words of each message."""
        for node in self.tree.body:
            owner = node.name if isinstance(node, ast.ClassDef | ast.FunctionDef) else ""
            shown = "" if owner.startswith("_") else owner
            for function, one in sorted(_inside(node, node), key=lambda pair: getattr(pair[1], "lineno", 0)):
                if spoken := self._spoken(one):
                    for text in self._templates(spoken[1], function, 0):
                        yield shown, spoken[0], re.sub(f"{HOLE}+", HOLE, " ".join(text.split()))

    def _spoken(self, node: ast.AST) -> tuple[str, ast.expr] | None:
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = _called(node.exc)
            return None if kind in _INNER or not kind[:1].isupper() else (kind, node.exc.args[0])
        if isinstance(node, ast.Return) and self.module == _EXPLAINS:
            return ("command line", node.value) if isinstance(node.value, ast.JoinedStr) else None
        if not isinstance(node, ast.Call) or not node.args:
            return None
        name = _called(node)
        if name in _WARN:
            return "warning", node.args[0]
        if name in _ALARM:
            return _ALARM[name], node.args[-1]
        if name == "error" and isinstance(node.func, ast.Attribute) and "parser" in ast.unparse(node.func.value):
            return "command line", node.args[0]
        if name == "exit":
            return "command line", node.args[0]
        return None

    def _templates(self, node: ast.expr | None, function: ast.AST, depth: int) -> list[str]:
        """Give the words that an expression may stand for; a hole for what is known at run time alone."""
        if depth > 6 or node is None:
            return [HOLE]
        below = depth + 1
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.JoinedStr):
            parts = [self._templates(one, function, depth) for one in node.values]
            return _joined(parts)
        if isinstance(node, ast.FormattedValue):
            # names of constants are words; all else depends on the case
            known = isinstance(node.value, ast.Name) and node.value.id.isupper()
            return self._templates(node.value, function, below)[:1] if known and node.format_spec is None else [HOLE]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return _joined([self._templates(one, function, below) for one in (node.left, node.right)])
        if isinstance(node, ast.IfExp):
            return [t for one in (node.body, node.orelse) for t in self._templates(one, function, below)]
        if isinstance(node, ast.Name):
            return self._named(node.id, function, below)
        if isinstance(node, ast.Call) and _called(node) in self.functions:
            callee = self.functions[_called(node)]
            given = [one for one in ast.walk(callee) if isinstance(one, ast.Return)]
            given.sort(key=lambda one: one.lineno)
            return [t for one in given for t in self._templates(one.value, callee, below)] or [HOLE]
        return [HOLE]

    def _named(self, name: str, function: ast.AST, depth: int) -> list[str]:
        for scope, tree in ((function, self.tree), (self.tree, self.tree)):
            nodes = ast.walk(scope) if scope is not tree else iter(self.tree.body)
            values = [
                one.value for one in nodes if isinstance(one, ast.Assign | ast.AnnAssign) and name in _targets(one)
            ]
            if values:
                return [t for one in values for t in self._templates(one, function, depth)]
        module, original = self.imported.get(name, ("", ""))
        if module in self.trees and module != self.module:
            there = _Reader(module, self.trees[module], self.trees)
            return there._named(original, there.tree, depth)
        return [HOLE]


def _inside(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Give everything in a statement, each with the innermost function around it."""
    yield function, node
    inner = node if isinstance(node, ast.FunctionDef) else function
    for one in ast.iter_child_nodes(node):
        yield from _inside(one, inner)


def _joined(parts: list[list[str]]) -> list[str]:
    if sum(len(one) > 1 for one in parts) > 2:
        parts = [one[:1] if len(one) == 1 else [HOLE] for one in parts]
    return ["".join(one) for one in product(*parts)]


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {one.id for one in targets if isinstance(one, ast.Name)}

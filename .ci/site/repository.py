"""Where things are in the repository, and what its rooms hold, read from the source without importing it."""

import ast
import functools
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "lightning_advreg"


@dataclass(frozen=True)
class Name:
    """A public name of a room.

    Args:
        name: The name.
        module: The module that defines it.
        kind: ``class``, ``function`` or ``value``.
        summary: The first paragraph of its docstring, in one line; empty without one.
    """

    name: str
    module: str
    kind: str
    summary: str


@dataclass(frozen=True)
class Room:
    """A package with public names.

    Args:
        name: Its dotted name.
        title: The short name, such as ``attacks``.
        text: The docstring of the package.
        names: The names of ``__all__``, in its order.
    """

    name: str
    title: str
    text: str
    names: tuple[Name, ...]


@functools.cache
def rooms(root: Path = ROOT) -> tuple[Room, ...]:
    """Give the packages and the modules beside them that have ``__all__``, the top one first, then by name."""
    package = root / PACKAGE
    modules = (path for path in package.glob("*.py") if path.stem not in ("__init__", "__main__"))
    found = [_room(root, path) for path in sorted([*package.glob("*/__init__.py"), *modules])]
    return tuple(one for one in (_room(root, root / PACKAGE / "__init__.py"), *found) if one is not None)


def parsed(path: Path) -> ast.Module:
    """Read a file of Python."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def summary(docstring: str | None) -> str:
    """Give the first paragraph in one line."""
    return " ".join((docstring or "").strip().partition("\n\n")[0].split())


def module_name(root: Path, path: Path) -> str:
    """Give the dotted name of a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room(root: Path, path: Path) -> Room | None:
    tree = parsed(path)
    public = _public(tree)
    if public is None:
        return None
    room = module_name(root, path)
    # imports below TYPE_CHECKING count too: that is how names are given on first use
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 0
        for alias in node.names
    }
    names = tuple(_name(root, one, *imported.get(one, (room, one))) for one in public)
    text = re.sub(r":(?:class|func|meth|mod):`~?([^`]+)`", r"`\1`", ast.get_docstring(tree) or "")
    return Room(room, room.rpartition(".")[2], text, tuple(one for one in names if not one.name.startswith("_")))


def _public(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


def _name(root: Path, name: str, module: str, original: str) -> Name:
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    tree = parsed(package if package.is_file() else path.with_suffix(".py"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == original:
            return Name(name, module, "class", summary(ast.get_docstring(node)))
        if isinstance(node, ast.FunctionDef) and node.name == original:
            return Name(name, module, "function", summary(ast.get_docstring(node)))
    for before, node in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and original in _targets(before):
            return Name(name, module, "value", summary(str(node.value.value)))
    for node in tree.body:
        # the room hands on what another room has
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == original:
                    return _name(root, name, node.module or "", alias.name)
    return Name(name, module, "value", "")


def _targets(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {one.id for one in targets if isinstance(one, ast.Name)}

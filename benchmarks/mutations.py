"""Checkpoints and configurations that were tampered with, from a seed."""

import io
import itertools
import pickle
import pickletools
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml


class Hostile:
    """Pickled, it writes a file when it is loaded by ``pickle``."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def rebuilt(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Give an archive of torch.save with right checksums whose pickle went through ``change``."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for record in source.infolist():
            data = source.read(record)
            archive.writestr(record.filename, change(data) if record.filename.endswith("/data.pkl") else data)
    return target.getvalue()


def mutated_checkpoint(content: bytes, seed: int, canary: Path) -> tuple[bytes, str]:
    """Give a checkpoint that differs from ``content``, and what was done to it."""
    chance = random.Random(seed)
    kinds = {
        "bytes flipped": lambda: _flipped(content, chance),
        "cut short": lambda: content[: chance.randrange(len(content))],
        "a piece doubled or lost": lambda: _moved(content, chance),
        "pickle with bytes flipped": lambda: rebuilt(content, lambda data: _flipped(data, chance)),
        "pickle with an instruction changed": lambda: rebuilt(content, lambda data: _instruction(data, chance)),
        "pickle that calls": lambda: rebuilt(content, lambda data: _calling(data, chance, canary)),
        "values of another type": lambda: rebuilt(content, lambda data: _retyped(data, chance)),
    }
    kind = chance.choice(sorted(kinds))
    return kinds[kind](), kind


def mutated_config(config: dict[str, Any], seed: int, module: str) -> tuple[str, str]:
    """Give the text of a configuration that differs from ``config``, and what was done to it."""
    chance = random.Random(seed)
    text = yaml.safe_dump(config)
    kinds = {
        "letters changed": lambda: "".join(_letters(text, chance)),
        "lines lost or doubled": lambda: "\n".join(_lines(text.splitlines(), chance)),
        "a value of another type": lambda: yaml.safe_dump(_replaced(config, chance, _value(chance))),
        "a class from elsewhere": lambda: yaml.safe_dump(_replaced(config, chance, _foreign(chance, module))),
        "a tag of Python": lambda: text.replace(
            chance.choice(text.splitlines()), f"x: !!python/object/apply:{module}.run []"
        ),
        "references": lambda: _bomb(chance) + text,
        "nested": lambda: "x: " + "[" * chance.randrange(10, 5000) + text,
        "no text": lambda: text + chance.choice(["\0", "\x1b", "\ufeff", "\t- a", "%YAML 9.9\n---", "--- a\n--- b"]),
    }
    kind = chance.choice(sorted(kinds))
    return kinds[kind](), kind


def _flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _moved(content: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(content))
    piece = content[begin : begin + chance.randrange(1, 2000)]
    return content[:begin] + chance.choice([b"", piece + piece]) + content[begin + len(piece) :]


def _instruction(data: bytes, chance: random.Random) -> bytes:
    places = [place for _, _, place in pickletools.genops(data)][2:-1]
    codes = [code.code.encode("latin1") for code in pickletools.opcodes]
    place = chance.choice(places)
    return data[:place] + chance.choice(codes) + data[place + chance.choice([0, 1]) :]


def _calling(data: bytes, chance: random.Random, canary: Path) -> bytes:
    calls = [
        pickle.dumps(Hostile(canary), 2)[2:-1],
        b"cposix\nsystem\nX" + _text(f"touch {canary}") + b"\x85R",
        b"cbuiltins\nexec\nX" + _text(f"open({str(canary)!r}, 'w')") + b"\x85R",
        b"ctorch.serialization\nload\nX" + _text(str(canary)) + b"\x85R",
        b"cbuiltins\ngetattr\ncbuiltins\nopen\nX" + _text("__call__") + b"\x86R",
        b"(X" + _text(str(canary)) + b"iposix\nsystem\n",
    ]
    # in place of a whole value, right after the marker of protocol 2
    return data[:2] + chance.choice(calls) + chance.choice([b"0" + data[2:], b"."])


def _text(text: str) -> bytes:
    return len(text).to_bytes(4, "little") + text.encode()


def _retyped(data: bytes, chance: random.Random) -> bytes:
    numbers = [(b"K\x01", b"J\xff\xff\xff\xff"), (b"K\x00", b"N"), (b"\x88", b"]"), (b"}", b"]"), (b"N", b"}")]
    old, new = chance.choice(numbers)
    places = [place for place in range(len(data)) if data.startswith(old, place)]
    place = chance.choice(places) if places else 0
    return data[:place] + new + data[place + len(old) :]


def _letters(text: str, chance: random.Random) -> list[str]:
    letters = list(text)
    for _ in range(chance.choice([1, 2, 5])):
        letters[chance.randrange(len(letters))] = chance.choice("aZ0:-[]{}&*!|>'\"%@`#\n \t,?é")
    return letters


def _lines(lines: list[str], chance: random.Random) -> list[str]:
    place = chance.randrange(len(lines))
    return lines[:place] + chance.choice([[], [lines[place]] * 2, lines[place:] + lines[:place]]) + lines[place + 1 :]


def _places(value: object, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*at, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, (*at, index))
    if at:
        yield at


def _replaced(config: dict[str, Any], chance: random.Random, new: object) -> Any:  # noqa: ANN401
    changed = yaml.safe_load(yaml.safe_dump(config))
    *path, last = chance.choice(list(_places(changed)))
    inside = changed
    for key in path:
        inside = inside[key]
    inside[last] = new
    return changed


def _value(chance: random.Random) -> object:
    numbers = [None, True, -1, 0, 10**30, float("nan"), float("inf")]
    text = ["", "x" * 2000, "8/0", "1e999", "../../etc/passwd", "configs", "é\u202e", "2026-01-01"]
    others: list[object] = [[], {}, [[]], {"a": {}}, ["a", 1], {"class_path": 3}, {"class_path": "Nothing"}]
    return chance.choice([*numbers, *text, *others])


def _foreign(chance: random.Random, module: str) -> object:
    return chance.choice(
        [
            f"{module}.Net",
            f"{module}.run",
            {"class_path": f"{module}.Net"},
            {"class_path": f"{module}.run", "init_args": {}},
            {"class_path": "subprocess.Popen", "init_args": {"args": "true"}},
            "os.system",
            {"class_path": "builtins.exec"},
            {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a/b", "model": "c"}},
            [f"{module}.Net"],
            {"class_path": f"{module}.inner.Net"},
            {"class_path": f"torch.{module}.Net"},
            f" {module}.Net",
        ]
    )


def _bomb(chance: random.Random) -> str:
    letters = "abcdefgh"[: chance.randrange(2, 8)]
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in itertools.pairwise(letters)]
    return "\n".join(lines) + "\n"

"""What a pickle is made of, found out without running it."""

import pickletools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST = 1_000_000
_DEEPEST = 200
_MARK = -1


class Unbounded(ValueError):
    """Plain values that are few bytes in a file, and would take for ever to walk through."""


def check_keys(content: bytes) -> None:
    """Check that no tuple of a pickle is too large to be a key.

    A tuple of two equal tuples, forty times over, is a hundred bytes in a pickle and a trillion tuples to whoever
    computes its hash, as a dict does. So tuples are counted from the instructions, before any is built.

    Args:
        content: The pickle.

    Raises:
        Unbounded: If there is such a tuple.
        ValueError: If it is no pickle.

    Example:
        >>> import pickle
        >>> check_keys(pickle.dumps({("a", 1): 2}))
        >>> bomb = ()
        >>> for _ in range(40):
        ...     bomb = (bomb, bomb)
        >>> check_keys(pickle.dumps(bomb))
        Traceback (most recent call last):
        ...
        lightning_advreg.files.pickles.Unbounded: its tuples hold more than 1000000 items when they are written out
    """
    sizes: list[int] = []
    memo: dict[int, int] = {}
    try:
        for code, argument, _ in pickletools.genops(content):
            _follow(code, argument, sizes, memo)
    except IndexError as error:
        raise ValueError("its pickle takes more values than it makes") from error


def check_extent(value: object) -> None:
    """Check that plain values are a finite tree of moderate size when they are written out.

    Args:
        value: Containers, numbers, text, and anything else, which counts as one.

    Raises:
        Unbounded: If a container holds itself, is nested too deeply, or refers to the same others again and again.

    Example:
        >>> check_extent({"layers": [1, 2, 3]})
        >>> own = []
        >>> own.append(own)
        >>> check_extent(own)
        Traceback (most recent call last):
        ...
        lightning_advreg.files.pickles.Unbounded: a list in it holds itself
    """
    _extent(value, {}, 0)


def _extent(value: object, known: dict[int, int | None], depth: int) -> int:
    if isinstance(value, Mapping):
        items: Iterable[object] = [part for pair in value.items() for part in pair]
    elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes | bytearray):
        items = value
    else:
        return 1
    if id(value) in known:
        size = known[id(value)]
        if size is None:
            raise Unbounded(f"a {type(value).__name__} in it holds itself")
        return size
    if depth > _DEEPEST:
        raise Unbounded(f"it is nested more than {_DEEPEST} levels deep")
    known[id(value)] = None
    size = 1 + sum(_extent(item, known, depth + 1) for item in items)
    if size > _MOST:
        raise Unbounded(f"it holds more than {_MOST} items when references are written out")
    known[id(value)] = size
    return size


def _follow(code: Any, argument: Any, sizes: list[int], memo: dict[int, int]) -> None:  # noqa: ANN401
    name = code.name
    if name == "MARK":
        sizes.append(_MARK)
        return
    if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if name == "MEMOIZE" else argument] = sizes[-1]
        return
    if name in ("GET", "BINGET", "LONG_BINGET"):
        sizes.append(memo.get(argument, 1))
        return
    if name == "DUP":
        sizes.append(sizes[-1])
        return
    taken = 0
    for item in reversed(code.stack_before):
        if item is pickletools.markobject:
            while (size := sizes.pop()) != _MARK:
                taken += size
        elif item is not pickletools.stackslice:
            taken += sizes.pop()
    # lists and dicts are no keys, but what is made of a tuple of arguments may be
    counts = name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "BUILD", "FROZENSET")
    size = taken + 1 if counts else 1
    if size > _MOST:
        raise Unbounded(f"its tuples hold more than {_MOST} items when they are written out")
    sizes += [size] * len(code.stack_after)

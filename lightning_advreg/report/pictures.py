"""Pictures inside a page: chosen, reduced until all of them fit, and written into it."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# width in pixels and number of colours: from the finest to what can just be made out
_LEVELS = ((1100, 128), (900, 64), (700, 48), (520, 32), (400, 16))
_BASE64 = 4 / 3
_NAMED = re.compile(r"(?P<name>.+)_(?P<step>\d{6,})")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A picture as the page shows it.

    Args:
        source: Its ``data:`` address.
        width: In pixels, as the page stores it.
        height: In pixels.
    """

    source: str
    width: int
    height: int


def latest(pictures: Sequence[Path]) -> list[tuple[str, Path]]:
    """Choose the pictures of a run to show: the last of each kind, and the first and the last samples.

    Args:
        pictures: Files such as ``images/val_adversarial_examples_000400.png``, the number being the step.

    Returns:
        A caption and the file of each, attacked images first.

    Example:
        >>> chosen = latest([Path("samples_000020.png"), Path("samples_000200.png"), Path("x_000001.png")])
        >>> [caption for caption, _ in chosen]
        ['samples, step 20', 'samples, step 200', 'x, step 1']
    """
    kinds: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for path in pictures:
        match = _NAMED.fullmatch(path.stem)
        name, step = (match["name"], int(match["step"])) if match else (path.stem, -1)
        kinds.setdefault((str(path.parent), name), []).append((step, path))
    chosen = []
    for (_, name), found in kinds.items():
        found.sort()
        ends = [found[0], found[-1]] if len(found) > 1 and name.startswith("samples") else [found[-1]]
        for step, path in ends:
            words = re.sub(r"^(test|val)_", lambda stage: f"{stage[1]}: ", name).replace("_", " ")
            chosen.append((words if step < 0 else f"{words}, step {step}", path))
    return sorted(chosen, key=lambda each: _rank(each[0]))


def fit_pictures(paths: Sequence[Path], budget: int) -> tuple[dict[Path, Shown], list[Path]]:
    """Bring pictures below a size together: all of them reduced alike, as little as need be.

    Args:
        paths: Their files.
        budget: The most bytes that they may add to the page.

    Returns:
        The pictures by file, and the files that could not be read or had no room even so.
    """
    broken: list[Path] = []
    encoded: dict[Path, tuple[bytes, int, int]] = {}
    for width, colours in _LEVELS:
        encoded, broken, room = {}, [], float(budget)
        for path in dict.fromkeys(paths):
            try:
                encoded[path] = _reduced(path, width, colours)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                broken.append(path)
                continue
            room -= _BASE64 * len(encoded[path][0])
            if room < 0 and (width, colours) != _LEVELS[-1]:
                break
        if room >= 0:
            break
    return _within(encoded, budget, broken)


def _within(
    encoded: Mapping[Path, tuple[bytes, int, int]], budget: int, broken: list[Path]
) -> tuple[dict[Path, Shown], list[Path]]:
    shown: dict[Path, Shown] = {}
    room = float(budget)
    for path, (data, width, height) in encoded.items():
        room -= _BASE64 * len(data) + 4
        if room < 0:
            broken.append(path)
            continue
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        shown[path] = Shown(source=source, width=width, height=height)
    return shown, broken


def _reduced(path: Path, width: int, colours: int) -> tuple[bytes, int, int]:
    original = path.read_bytes()
    with Image.open(io.BytesIO(original)) as opened:
        image = Image.new("RGB", opened.size, "white")
        rgba = opened.convert("RGBA")
        image.paste(rgba, mask=rgba.getchannel("A"))
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    # median cut keeps the colours of a figure, and takes long where there are tens of thousands, as in photographs
    few = image.getcolors(maxcolors=10_000) is not None
    method = Image.Quantize.MEDIANCUT if few else Image.Quantize.FASTOCTREE
    image.quantize(colours, method, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue(), image.width, image.height


def _rank(caption: str) -> int:
    order = ("test: robust evaluation examples", "test: adversarial examples", "val: adversarial examples", "samples")
    return next((place for place, start in enumerate(order) if caption.startswith(start)), len(order))

"""What an earlier run left, kept under another name."""

import itertools
from pathlib import Path


def set_aside(path: Path) -> Path | None:
    """Rename a file or folder to the first free name with a number, ``resume.ckpt`` to ``resume_1.ckpt``.

    Args:
        path: What an earlier run left, if it did.

    Returns:
        Its new name, or None where there was nothing.

    Raises:
        OSError: If it cannot be renamed.
    """
    if not path.exists():
        return None
    names = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))

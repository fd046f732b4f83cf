"""What starts runs, and what it tells of them."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run has started.

    Args:
        folder: Its folder.
    """

    folder: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run has ended.

    Args:
        folder: Its folder.
        exit_code: The exit status of its process, minus the signal where it was killed.
    """

    folder: Path
    exit_code: int


Events: TypeAlias = Generator[Started | Ended | None, None, None]
"""What happens to runs, and None from time to time, while nothing does; closing it stops what runs."""


class Launcher(Protocol):
    """Starts runs, and tells of them."""

    def launch(self, folders: Sequence[Path]) -> Events:
        """Run them all.

        Args:
            folders: The prepared folders of the runs.

        Yields:
            What happened, or None.
        """
        ...


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads under 1.

    Args:
        threads: CPU threads of a run; None for a default.

    Raises:
        ValueError: If it is under 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}.")

"""Runs on this machine, one after the other or a few at once."""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_advreg.ablation.launchers import Ended, Events, Started, check_threads
from lightning_advreg.ablation.process import RunProcess

_WAIT = 0.2


@dataclass(frozen=True, kw_only=True)
class Local:
    """Runs on this machine, each in a process of its own: one after the other, or ``jobs`` at once.

    Args:
        jobs: How many runs at once. They share the accelerators that the configuration asks for.
        threads: CPU threads of a run. None leaves a single run at a time to PyTorch, and deals the processors of this
            machine evenly to several, unless ``OMP_NUM_THREADS`` says how many.

    Raises:
        ValueError: If ``jobs`` or ``threads`` is under 1.

    Example:
        >>> Local(jobs=2, threads=1).threads_of_a_run
        1
        >>> list(Local().launch([]))
        []
    """

    jobs: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}.")
        check_threads(self.threads)

    @property
    def threads_of_a_run(self) -> int | None:
        """CPU threads that each run is given; None for what PyTorch takes by itself."""
        if self.threads is not None or self.jobs == 1 or "OMP_NUM_THREADS" in os.environ:
            return self.threads
        return max(1, _processors() // self.jobs)

    def launch(self, folders: Sequence[Path]) -> Events:
        """Run them all; see :class:`Launcher`."""
        waiting, running = deque(folders), dict[Path, RunProcess]()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    folder = waiting.popleft()
                    running[folder] = RunProcess(folder, self.threads_of_a_run, Path.cwd())
                    yield Started(folder=folder)
                for folder, process in list(running.items()):
                    exit_code = process.wait(_WAIT / len(running))
                    if exit_code is not None:
                        running.pop(folder).close()
                        yield Ended(folder=folder, exit_code=exit_code)
                yield None
        finally:
            # all are asked before any is waited for
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.close()


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1

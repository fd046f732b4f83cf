"""Runs spread over a Ray cluster."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_advreg.ablation.launchers import Ended, Events, Started, check_threads
from lightning_advreg.ablation.process import RunProcess

_WAIT = 0.2
_MARK = "running"


@dataclass(frozen=True, kw_only=True)
class Ray:
    """As many runs at once as a Ray cluster has room for.

    The folders of runs and data, and the code, must lie at the same paths on every node, such as on a shared disk.
    Results are those of :class:`Local` with the same number of threads and the same kind of hardware.

    Args:
        threads: CPUs that a run reserves, and its number of threads.
        gpus: GPUs that a run reserves; a fraction lets runs share one.
        address: The cluster's address; ``"auto"`` for one that runs on this machine, empty to start one here.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a number is out of its range.
        TimeoutError: In ``launch``, if Ray does not start here in its own 15 seconds, on a busy machine.
    """

    threads: int = 1
    gpus: float = 0
    address: str = ""

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if self.gpus < 0:
            raise ValueError(f"gpus must be at least 0, got {self.gpus}.")
        if importlib.util.find_spec("ray") is None:
            raise ImportError("launching with Ray needs the package ray; install lightning-advreg[ray].")

    def launch(self, folders: Sequence[Path]) -> Events:
        """Run them all; see :class:`Launcher`."""
        if not folders:
            return
        import ray

        with connected(self.address):
            # a run that fails is shown, not repeated
            task = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(execute_run)
            for folder in folders:
                (folder / _MARK).unlink(missing_ok=True)
            waiting = {task.remote(str(folder.absolute()), self.threads, str(Path.cwd())): folder for folder in folders}
            try:
                yield from _follow(waiting)
            finally:
                for reference in waiting:
                    ray.cancel(reference, force=True)


@contextmanager
def connected(address: str = "") -> Iterator[None]:
    """Connect this process to a Ray cluster, and leave it at the end, unless it is connected already.

    Args:
        address: As that of :class:`Ray`; a cluster that is started here is stopped at the end.

    Yields:
        Nothing.

    Raises:
        ConnectionError: If there is no cluster at the address.
        TimeoutError: If Ray does not start in the time that it gives itself.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    # workers import this package, installed or not
    environment = {"env_vars": {"PYTHONPATH": _python_path()}}
    try:
        ray.init(address=address or "local", runtime_env=environment, log_to_driver=False, include_dashboard=False)
    except Exception as error:
        # Ray has no class for this one, and the waiting time is no setting
        if "timed out during startup" not in str(error):
            raise
        raise TimeoutError(
            "Ray did not start on this machine: its helper processes must be there within 15 seconds, which a busy or "
            "slow machine does not make. Try again when less runs on it, give --ray-address of a cluster that runs "
            "(Ray(address=...)), or do without Ray: --launcher local --jobs 2 (Local(jobs=2))."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def execute_run(folder: str, threads: int | None, directory: str) -> int:
    """Execute one run in a process of its own, and wait for it.

    Args:
        folder: The run's folder.
        threads: Its CPU threads.
        directory: Its working directory.

    Returns:
        Its exit status.
    """
    with RunProcess(Path(folder), threads, Path(directory)) as process:
        mark = Path(folder, _MARK)
        mark.touch()
        exit_code = process.wait()
    mark.unlink(missing_ok=True)
    assert exit_code is not None
    return exit_code


def _follow(waiting: dict[Any, Path]) -> Events:
    import ray

    started: set[Path] = set()
    while waiting:
        ready, _ = ray.wait(list(waiting), timeout=_WAIT)
        for folder in waiting.values():
            if folder not in started and (folder / _MARK).exists():
                started.add(folder)
                yield Started(folder=folder)
        for reference in ready:
            folder = waiting.pop(reference)
            if folder not in started:
                yield Started(folder=folder)
            try:
                exit_code = int(ray.get(reference))
            except ray.exceptions.RayError as error:
                # the node is gone, or has no memory left
                with (folder / "log.txt").open("a") as log:
                    log.write(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}\n")
                exit_code = 1
            yield Ended(folder=folder, exit_code=exit_code)
        if not ready:
            yield None


def _python_path() -> str:
    return os.pathsep.join(path for path in (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")) if path)

"""One run in a process of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from lightning_advreg.ablation.folders import LOG

_PATIENCE = 10.0
# whoever reads one of these decides how many threads a process starts
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class RunProcess:
    """The process that trains and tests one run; its output goes to ``log.txt`` in the run's folder.

    It ends when this process does, however that happens, since it watches a pipe that only this process holds. Used in
    a ``with`` statement, it is closed at the end.

    Args:
        folder: The run's folder, prepared.
        threads: CPU threads of the process; None for what PyTorch takes by itself.
        directory: The working directory that relative paths of the configuration start from.
    """

    def __init__(self, folder: Path, threads: int | None, directory: Path) -> None:
        environment = dict(os.environ)
        if threads is not None:
            environment |= dict.fromkeys(_THREADS, str(threads))
        # the folder the package lies in, whether or not it is installed
        paths = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lightning_advreg.ablation.worker", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=environment,
                # Ctrl+C is for the launcher, which then ends this one
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def terminate(self) -> None:
        """Ask it to end, and do not wait for that."""
        if self._process.poll() is None:
            self._process.terminate()

    def close(self) -> None:
        """End it and whatever it has started; it gets some seconds to end by itself."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if hasattr(os, "killpg"):
            # data loaders and further devices of the run
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end.

        Args:
            seconds: For how long at most.

        Returns:
            Its exit status, minus the signal where it was killed; None if it goes on.
        """
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

"""Signals that ask a run to stop, kept until the step that is under way is done."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NAMES = tuple(name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""What a cluster sends before it takes the machine away."""

Handler = Callable[[int, FrameType | None], Any] | int | None


class NoticedSignals:
    """Handlers that note a signal and do nothing else, in place of those that would act in the middle of a step.

    Signals reach the main thread alone; elsewhere nothing is noticed.

    Attributes:
        received: The number of the first signal that came, or None.

    Example:
        >>> noticed = NoticedSignals()
        >>> noticed.listen()
        >>> signal.raise_signal(signal.SIGTERM)
        >>> signal.Signals(noticed.received).name
        'SIGTERM'
        >>> noticed.stop()
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Handler] = {}
        self._replaced: dict[int, Handler] = {}

    def look_before(self) -> None:
        """Note the handlers that are there before Lightning puts its own in their place."""
        self._before = {number: signal.getsignal(number) for number in _numbers()}

    def listen(self) -> None:
        """Put the handlers in place."""
        self.received = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _numbers():
            self._replaced[number] = signal.signal(number, self._note)

    def stop(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._replaced.items():
            if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == self._note:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._replaced = {}

    def postponed(self, number: int) -> Callable[[], None] | None:
        """Give what was to happen at a signal, and can happen now; None where it is for us to stop the run.

        For SIGUSR1 it is whatever was there: the handler with which Lightning saves and queues a SLURM job again, or
        one of the user's. For SIGTERM it is a handler of the user's: Lightning's own ends the run.
        """
        handler = (self._before if number == signal.SIGTERM else self._replaced).get(number)
        return (lambda: handler(number, None)) if callable(handler) else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number


def _numbers() -> list[int]:
    return [int(getattr(signal, name)) for name in NAMES]

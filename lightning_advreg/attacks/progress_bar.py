"""A bar for one attack: images left, and the accuracy so far."""

import time

from tqdm.auto import tqdm

_SECONDS_BETWEEN = 0.25


class ProgressBar:
    """Show how many images an attack has decided, and the accuracy that is left.

    Args:
        name: The attack's name.
        images: How many images this process attacks.
        standing: How many images of all were correct when the attack began.
        total: How many images there are.
        shown: Whether to show anything.
    """

    def __init__(self, name: str, images: int, standing: int, total: int, *, shown: bool) -> None:
        self._bar = tqdm(total=images, desc=name, unit="img", disable=not shown, dynamic_ncols=True)
        self._standing, self._total = standing, total
        self._last = 0.0
        self._batch = 0
        self._show()

    def fall(self, count: int) -> None:
        """Count images of the batch that have fallen; 0 shows that the attack is alive."""
        self._standing -= count
        self._batch -= count
        self._bar.n += count
        if time.monotonic() - self._last > _SECONDS_BETWEEN:
            self._show()

    def begin(self, images: int) -> None:
        """Begin a batch."""
        self._batch = images

    def end(self, fallen: int, reported: int) -> None:
        """End a batch, in which ``fallen`` images fell in all, and ``reported`` of them were counted already."""
        self._standing -= fallen - reported
        self._bar.n += self._batch
        self._batch = 0
        self._show()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._show()
        self._bar.close()

    def _show(self) -> None:
        self._last = time.monotonic()
        if not self._bar.disable:
            left = int(self._bar.total) - self._bar.n
            accuracy = 100 * self._standing / self._total
            self._bar.set_postfix_str(f"{left} left, robust acc {accuracy:.2f} %", refresh=True)

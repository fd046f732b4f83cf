"""Are the images that a robust accuracy was measured on of all classes?"""

import math

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

_MOST = 1024
_UNLIKELY = 0.01


class ClassTally:
    """Which classes came among the images that count, and which only among those after them.

    Data sets in folders are sorted by class, so that the first images are of one class, and an accuracy on them says
    nothing of the others. Nothing waits for the device until :meth:`warn`.

    Args:
        owner: The callback that counts, for the message.

    Example:
        >>> tally = ClassTally("RobustAccuracy")
        >>> tally.see(torch.tensor([0, 0, 0, 1]), counted=2)
        >>> tally.classes()
        (1, 2)
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._seen: Tensor | None = None
        self._images = 0

    def see(self, y: Tensor, counted: int) -> None:
        """Look at the labels ``(N,)`` of the next batch, whose first ``counted`` images count."""
        with torch.inference_mode(False), torch.no_grad():
            if self._seen is None:
                self._seen = torch.zeros(2, _MOST, dtype=torch.bool, device=y.device)
            # classes beyond the table share its last place
            places = y.detach().clone().long().clamp(0, _MOST - 1)
            self._seen[0].index_fill_(0, places[:counted], True)
            self._seen[1].index_fill_(0, places, True)
        self._images += counted

    def classes(self) -> tuple[int, int]:
        """Give the number of classes among the images that count, and among all."""
        if self._seen is None:
            return 0, 0
        counted, present = self._seen.sum(1).tolist()
        return counted, present

    def warn(self) -> None:
        """Say so if classes are missing that would hardly be missing by chance."""
        counted, present = self.classes()
        missing = present - counted
        # of any so many classes, if images came in any order
        chance = math.comb(present, missing) * (counted / max(present, 1)) ** self._images
        if self._images and missing and chance < _UNLIKELY:
            rank_zero_warn(
                f"The {self._images} images that {self._owner} attacked are of {counted} of the {present} classes of "
                "the data, which seem to be sorted by class: their robust accuracy says nothing of the other classes. "
                "Shuffle the data once, or leave max_samples out."
            )

"""How far a loader is in its epoch, so that a run stopped in the middle goes on with the next batch."""


class EpochPosition:
    """State of a training loader: the epoch, and the batches given in it.

    Lightning saves and restores it with the checkpoint, through ``state_dict`` and ``load_state_dict`` of the loader.

    Example:
        >>> position = EpochPosition()
        >>> position.load_state_dict({"epoch": 2, "batch": 5})
        >>> position.start(epoch=2), position.start(epoch=3)
        (5, 0)
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0
        self._restored: dict[str, int] | None = None

    def start(self, epoch: int) -> int:
        """Begin an epoch, and give the number of its batches that were given before the run was stopped."""
        restored, self._restored = self._restored, None
        self.epoch = epoch
        self.batch = restored["batch"] if restored is not None and restored["epoch"] == epoch else 0
        return self.batch

    def state_dict(self) -> dict[str, int]:
        """Give the position as two integers, ``epoch`` and ``batch``."""
        return {"epoch": self.epoch, "batch": self.batch} if self._restored is None else dict(self._restored)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over a position; it counts if the next epoch to start is the one it was saved in."""
        self._restored = dict(state)

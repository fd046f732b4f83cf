"""In which epochs a callback acts."""

import lightning.pytorch as pl


def check_positive(value: int, name: str) -> int:
    """Give ``value`` back if it is an integer of at least 1.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    return value


def due(trainer: pl.Trainer, every_n_epochs: int) -> bool:
    """Say whether the epoch that is running is one of every ``every_n_epochs``, the last of each group."""
    return (trainer.current_epoch + 1) % every_n_epochs == 0

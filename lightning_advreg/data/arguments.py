"""Checks of what a DataModule is given."""


def check_arguments(
    batch_size: int,
    eval_batch_size: int | None,
    val_size: int | float,
    train_size: int | None,
    seed: int,
    loader: str,
    num_workers: int,
) -> None:
    """Check what every DataModule is given.

    Args:
        batch_size: At least 1.
        eval_batch_size: At least 1, or None.
        val_size: A count, or a fraction in [0, 1).
        train_size: At least 1, or None.
        seed: At least 0.
        loader: ``"standard"`` or ``"resident"``.
        num_workers: At least 0; 0 for the resident loader.

    Raises:
        ValueError: If one of them is something else.
    """
    least = {"batch_size": 1, "eval_batch_size": 1, "train_size": 1, "seed": 0, "num_workers": 0}
    given = (batch_size, eval_batch_size, train_size, seed, num_workers)
    for (name, minimum), value in zip(least.items(), given, strict=True):
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}.")
    if val_size < 0 or (isinstance(val_size, float) and val_size >= 1):
        raise ValueError(f"val_size must be a count of 0 or more, or a fraction in [0, 1), got {val_size!r}.")
    if loader not in ("standard", "resident"):
        raise ValueError(f"loader must be 'standard' or 'resident', got {loader!r}.")
    if loader == "resident" and num_workers > 0:
        raise ValueError(
            f"num_workers={num_workers} has no use with loader='resident', which has no worker processes; set it to 0."
        )

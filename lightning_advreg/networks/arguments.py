"""Checks of what a network is built from and fed with."""

from collections.abc import Iterable, Sequence

from torch import Tensor


def check_sizes(**sizes: int) -> None:
    """Check that sizes such as channel and class counts are whole numbers of 1 or more.

    Args:
        sizes: The values, by argument name.

    Raises:
        ValueError: If one is not an integer of at least 1.

    Example:
        >>> check_sizes(num_classes=10, width=0)
        Traceback (most recent call last):
        ...
        ValueError: width must be an integer of at least 1, got 0.
    """
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def check_dropout(**probabilities: float) -> None:
    """Check that dropout probabilities lie in [0, 1).

    Args:
        probabilities: The probabilities of setting a unit to zero, by argument name.

    Raises:
        ValueError: If one is outside [0, 1). At 1 nothing would pass.

    Example:
        >>> check_dropout(dropout=0.5, drop_path=1.0)
        Traceback (most recent call last):
        ...
        ValueError: drop_path must lie in [0, 1), got 1.0; it is the probability of dropping a unit, 0 switches it off.
    """
    for name, value in probabilities.items():
        if not 0 <= value < 1:
            raise ValueError(
                f"{name} must lie in [0, 1), got {value!r}; it is the probability of dropping a unit, 0 switches it "
                "off."
            )


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check an argument that is one of a few names.

    Args:
        name: The argument.
        value: What was given.
        choices: What may be given.

    Raises:
        ValueError: If it is none of them.

    Example:
        >>> check_choice("norm", "bach", ["batch", "none"])
        Traceback (most recent call last):
        ...
        ValueError: norm must be one of batch, none; got 'bach'.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def read_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """Check the shape of one image.

    Args:
        image_shape: Channels, height and width, each 1 or more.

    Returns:
        The shape as a tuple of three.

    Raises:
        ValueError: If there are not three values of at least 1.

    Example:
        >>> read_image_shape([1, 28, 28])
        (1, 28, 28)
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (channels, height, width), each at least 1, such as (1, 28, 28); got {image_shape!r}."
        )
    channels, height, width = image_shape
    return channels, height, width


def check_images(x: Tensor, image_shape: tuple[int, int, int], remedy: str) -> None:
    """Check that a batch has the image shape a network was built for.

    Args:
        x: Images of shape ``(N, C, H, W)``.
        image_shape: The ``(C, H, W)`` the network was built for.
        remedy: What to change, for the message.

    Raises:
        ValueError: If the shapes disagree.
    """
    if x.shape[1:] != image_shape:
        raise ValueError(
            f"images must have shape (N, {', '.join(map(str, image_shape))}), got {tuple(x.shape)}; {remedy}."
        )

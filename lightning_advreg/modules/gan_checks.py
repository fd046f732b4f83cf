"""Checks of what a GAN is given."""

from torch import Tensor, nn


def at_least(value: int, minimum: int, name: str) -> int:
    """Give an integer argument back, after a look at its range.

    Raises:
        ValueError: If it is not an integer of at least ``minimum``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
    return value


def latent_dim_of(generator: nn.Module, given: int | None) -> int:
    """Give the length of a generator's noise vectors.

    Args:
        generator: The generator, whose attribute ``latent_dim`` says so.
        given: What the user says, or None.

    Raises:
        ValueError: If neither says so.
    """
    found = getattr(generator, "latent_dim", None) if given is None else given
    if not isinstance(found, int):
        raise ValueError(
            f"latent_dim is unknown: {type(generator).__name__} has no attribute latent_dim; give GAN(latent_dim=...)."
        )
    return at_least(found, 1, "latent_dim")


def one_logit_each(logits: Tensor, images: Tensor) -> Tensor:
    """Give a discriminator's logits as ``(N,)``.

    Raises:
        ValueError: If there is not one for each of the N images.
    """
    if logits.numel() != len(images):
        raise ValueError(
            f"the discriminator gives outputs of shape {tuple(logits.shape)} for {len(images)} images; it must give "
            "one logit per image, shape (N,)."
        )
    return logits.flatten()

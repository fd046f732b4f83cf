"""Checks of what a GAN is given."""

from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_advreg.schedules import Schedule, check_schedule
from lightning_advreg.values import Number, to_float


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


def shared_classes(generator: nn.Module, discriminator: nn.Module) -> int | None:
    """Give the number of classes of a conditional GAN, or None.

    Args:
        generator: The generator, whose attribute ``num_classes`` says whether it takes labels.
        discriminator: The discriminator; one with an auxiliary classifier need not take labels.

    Raises:
        ValueError: If the two disagree.
    """
    g, d = classes_of(generator), classes_of(discriminator)
    if g == d or (d is None and hasattr(discriminator, "classify")):
        return g
    raise ValueError(
        f"generator and discriminator disagree: the generator has num_classes={g}, the discriminator num_classes={d}; "
        "build both with the num_classes of the data, or both without."
    )


def classes_of(network: nn.Module) -> int | None:
    """Give the number of classes of a network that takes labels, or None for one that takes none."""
    # a classifier with one output serves as a discriminator, and has num_classes=1
    found = getattr(network, "num_classes", None)
    return found if isinstance(found, int) and found > 1 else None


def auxiliary_weight_of(
    given: Number | None, discriminator: nn.Module, num_classes: int | None, *, on_generated: bool
) -> float:
    """Give the weight of the auxiliary classifier: 1 where there is one, unless another is given.

    Raises:
        ValueError: If it is negative, or there is no auxiliary classifier, or nothing for it to tell.
    """
    has = hasattr(discriminator, "classify")
    if (given is not None or on_generated) and not has:
        setting = "auxiliary_on_generated" if given is None else f"auxiliary_weight={given}"
        raise ValueError(
            f"{setting} needs a discriminator with an auxiliary classifier, a method classify(features), which "
            f"{type(discriminator).__name__} has not; leave it out."
        )
    if has and num_classes is None:
        raise ValueError(
            "the discriminator has an auxiliary classifier, and the generator takes no labels; build the generator "
            "with num_classes, or take a discriminator without classify."
        )
    return to_float(1.0 if given is None else given, "auxiliary_weight", minimum=0) if has else 0.0


def check_split(discriminator: nn.Module, wanted_by: str) -> None:
    """Check that a discriminator shows its features.

    Raises:
        ValueError: If it does not.
    """
    if not (hasattr(discriminator, "features") and hasattr(discriminator, "score")):
        raise ValueError(
            f"{wanted_by} needs the features of the discriminator, and {type(discriminator).__name__} does not show "
            "them; split its forward in methods features(x) -> (N, F) and score(features, y=None) -> (N,), as the "
            "discriminators of lightning_advreg.networks have them."
        )


def share_of(value: Number | Schedule, name: str) -> float | Schedule:
    """Give a share in (0, 1], or a schedule of such shares, back.

    Raises:
        ValueError: If it is out of its range.
    """
    if isinstance(value, Schedule):
        check_schedule(value, name, minimum=0)
        return value
    share = to_float(value, name, minimum=0, maximum=1)
    if share == 0:
        raise ValueError(f"{name} must be more than 0, got {value!r}; 1 keeps all images.")
    return share


def one_of(value: str, allowed: Sequence[str], name: str) -> str:
    """Give a name back.

    Raises:
        ValueError: If it is none of those allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
    return value


def positive_or_none(value: Number | None, name: str) -> float | None:
    """Give a number above 0, or None, back.

    Raises:
        ValueError: If it is 0 or less.
    """
    number = None if value is None else to_float(value, name, minimum=0)
    if number == 0:
        raise ValueError(f"{name} must be more than 0, got {value!r}; None switches it off.")
    return number


def refuse_trainer_settings(trainer: Trainer) -> None:
    """Refuse what the Trainer cannot do for two optimizers, before Lightning or PyTorch does.

    Raises:
        ValueError: If it clips or accumulates gradients; the message names the arguments of GAN. If processes wait for
            gradients of both networks in a step that has those of one.
    """
    given = {
        "gradient_clip_val": trainer.gradient_clip_val or None,
        "accumulate_grad_batches": trainer.accumulate_grad_batches if trainer.accumulate_grad_batches != 1 else None,
    }
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"Trainer({name}={value}) has no effect on two optimizers that are stepped by hand; give it to the "
                f"module, GAN({name}={value}), and leave it out of the Trainer."
            )
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise ValueError(
            "a GAN steps one network at a time, and this DDP strategy waits for gradients of both; set "
            "strategy='ddp_find_unused_parameters_true' (--trainer.strategy ddp_find_unused_parameters_true)."
        )

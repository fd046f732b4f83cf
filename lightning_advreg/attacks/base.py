"""What every attack is, and what the attacks of this library share."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.live import stand_in
from lightning_advreg.attacks.losses import LossName, check_loss
from lightning_advreg.attacks.model_state import Model, ModelMode, borrowed
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.attacks.threat import Ball, Norm, ball, check_norm, per_image, spread
from lightning_advreg.checks import check_types
from lightning_advreg.values import Number, to_float


class Attack(ABC):
    """Inner maximisation: a map from images to nearby images that the model gets wrong.

    Subclasses implement ``__call__``. The result has the shape, dtype and device of ``x``, is detached, lies in [0, 1]
    and within the attack's budget of ``x``, and the model is left as it was found.
    """

    @abstractmethod
    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Attack ``model`` at images ``x`` ``(N, C, H, W)`` in [0, 1] with labels ``y`` ``(N,)``, int64."""

    def maximising(self, loss: LossName) -> "Attack":
        """Give the same attack on another loss, for objectives that name their own.

        Raises:
            TypeError: If this attack has no loss to choose.
        """
        raise TypeError(
            f"{type(self).__name__} has no `maximising` method, which this objective needs to attack loss {loss!r}; "
            "use PGD or FGSM, or give the attack a method `maximising(loss)`."
        )

    def scaled(self, factor: float) -> Self:
        """Give the same attack with budget and step sizes multiplied by ``factor``, for warm-up schedules.

        Raises:
            TypeError: If this attack has no budget to scale.
        """
        raise TypeError(
            f"{type(self).__name__} has no `scaled` method, which a schedule of its eps needs; leave out "
            "eps_warmup_epochs and attack_schedule, or give the attack a method `scaled(factor)`."
        )

    def with_steps(self, steps: int) -> Self:
        """Give the same attack with another number of steps of the same size, for schedules.

        Raises:
            TypeError: If this attack has no number of steps.
        """
        raise TypeError(
            f"{type(self).__name__} has no number of steps to schedule; use PGD, leave `steps` out of the "
            "attack_schedule, or give the attack a method `with_steps(steps)`."
        )


@dataclass(frozen=True, kw_only=True)
class SearchAttack(Attack):
    """An attack that asks the model about images: the call that all of them share.

    Args:
        norm: The norm in which a perturbation is measured.
        targeted: Treat labels as classes to reach, rather than to leave.
        model_mode: How the network runs during the attack.
        seed: Draw random numbers from a stream of this seed, the same at each call, and leave the caller's random
            generators untouched. With None, draw from the default generators.
        check: Check pixel range and labels at each call, at the price of one device synchronisation a call.

    Raises:
        ValueError: If an argument is out of its range.
    """

    norm: Norm = "linf"
    targeted: bool = False
    model_mode: ModelMode = "eval"
    seed: int | None = None
    check: bool = True

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if self.model_mode not in ("eval", "train", "batch_stats"):
            raise ValueError(f"model_mode must be eval, train or batch_stats, got {self.model_mode!r}.")

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, eps: Tensor | None = None) -> Tensor:
        """Attack a batch.

        Args:
            model: Any callable from [0, 1] images to logits.
            x: Images in [0, 1], floating point, of shape ``(N, C, H, W)``.
            y: Labels (targets, if ``targeted``), integers of shape ``(N,)``.
            eps: A budget per image of shape ``(N,)``, in place of the attack's own; steps scale along.

        Returns:
            Attacked images with the shape, dtype and device of ``x``, detached.

        Raises:
            TypeError: If ``x`` is not floating point or ``y`` is not integer.
            ValueError: If pixels lie outside [0, 1], labels are out of range, an eps is negative, shapes disagree, or
                the loss needs more classes than the model has.
        """
        check_types(x, y)
        if self.check and eps is not None and not bool((eps >= 0).all()):
            raise ValueError(f"eps must be at least 0 for every image, got {eps.min().item():g}.")
        model = stand_in(model, self.model_mode)
        with borrowed(model, self.model_mode), seeded(self.seed, x.device):
            # clones made here are no inference tensors, which autograd could not save
            x, y = x.detach().clone(), y.to(torch.int64, copy=True)
            return round_towards(self._search(self._objective(model, x, y), working_precision(x), eps), x)

    def with_steps(self, steps: int) -> Self:
        """Give the same attack with another number of steps, at least 1, of the same size.

        Raises:
            TypeError: If this attack has no number of steps.
        """
        if not has_field(self, "steps"):
            return super().with_steps(steps)
        return dataclasses.replace(self, steps=steps)  # type: ignore[call-arg]

    def _objective(self, model: Model, x: Tensor, y: Tensor) -> InnerObjective:
        return InnerObjective(model, x, y, targeted=self.targeted, check=self.check)

    @abstractmethod
    def _search(self, objective: InnerObjective, x: Tensor, eps: Tensor | None) -> Tensor:
        """Give attacked images for images ``x`` in float32 at least."""

    def _normalise(self, name: str) -> None:
        object.__setattr__(self, name, to_float(getattr(self, name), name, minimum=0))

    def _normalise_eps(self) -> None:
        given = self.eps  # type: ignore[attr-defined]
        self._normalise("eps")
        radius = self.eps  # type: ignore[attr-defined]
        if self.norm == "linf" and radius > 1:
            written = given if isinstance(given, str) else f"{radius:g}"
            raise ValueError(
                f"eps of {type(self).__name__} is {written}, but pixels are in [0, 1] and no Linf budget above 1 means "
                f"anything; write {radius:g}/255?"
            )

    def _scaled_eps(self, radius: float, factor: float) -> float:
        # a schedule or a curve may go beyond the box, which the ball of radius 1 holds already
        return min(radius * factor, 1.0) if self.norm == "linf" else radius * factor

    def _check_counts(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class BoundedAttack(SearchAttack):
    """An attack that maximises a loss inside a ball around the image.

    Args:
        norm: The norm that bounds the perturbation.
        eps: The budget in pixel units on [0, 1]; ``8/255`` may be written as text.
        loss: What is maximised: cross-entropy, margin, DLR, or KL from the clean prediction.
        targeted: Treat labels as classes to reach, rather than to leave.
        model_mode: How the network runs during the attack.
        seed: Draw random starts from a stream of this seed, the same at each call, and leave the caller's random
            generators untouched. With None, draw from the default generators.
        check: Check pixel range and labels at each call, at the price of one device synchronisation a call.

    Attributes:
        keeps_budget: Whether every result lies in the ball. An attack for training may leave it, as ``NFGSM`` does.

    Raises:
        ValueError: If an argument is out of its range.
    """

    keeps_budget: ClassVar[bool] = True

    eps: Number = 8 / 255
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_loss(self.loss, self.targeted)
        self._normalise_eps()

    @property
    def radius(self) -> float:
        """The budget as a float, in pixel units."""
        return to_float(self.eps, "eps")

    def maximising(self, loss: LossName) -> Self:
        """Give the same attack on another loss."""
        return dataclasses.replace(self, loss=loss)

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps multiplied by ``factor`` >= 0; subclasses scale their steps along."""
        return dataclasses.replace(self, eps=self._scaled_eps(self.radius, factor))

    @abstractmethod
    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Search the ball for images with a high loss.

        Args:
            objective: Gives gradients and losses at images of shape ``(N, ...)``.
            feasible: The set to stay in.
            factor: What to multiply step sizes by, per image, or None for 1.
        """

    def _objective(self, model: Model, x: Tensor, y: Tensor) -> InnerObjective:
        return InnerObjective(model, x, y, loss=self.loss, targeted=self.targeted, check=self.check)

    def _search(self, objective: InnerObjective, x: Tensor, eps: Tensor | None) -> Tensor:
        if eps is None and self.radius == 0 and self.keeps_budget and not self.check:
            # nothing to search: a schedule of training begins here, or stays here for epochs
            return x.clamp(0, 1)
        factor = None if eps is None else per_image(eps, x) / max(self.radius, 1e-12)
        return self.perturb(objective, ball(self.norm, x, self.radius if eps is None else eps), factor)


@dataclass(frozen=True, kw_only=True)
class MinimalAttack(SearchAttack):
    """An attack that looks for the nearest image that the model gets wrong, whatever its distance.

    Args:
        norm: The norm in which the perturbation is to be small.
        eps: Give up images that need a larger perturbation than this, in pixel units: they come back clean. None
            accepts any.
        targeted: Treat labels as classes to reach, rather than to leave.
        model_mode: How the network runs during the attack.
        seed: Draw random numbers from a stream of this seed, the same at each call, and leave the caller's random
            generators untouched. With None, draw from the default generators.
        check: Check pixel range and labels at each call, at the price of one device synchronisation a call.

    Raises:
        ValueError: If an argument is out of its range.
    """

    eps: Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is not None:
            self._normalise_eps()

    @property
    def radius(self) -> float | None:
        """The largest distance accepted, in pixel units, or None for any."""
        return None if self.eps is None else to_float(self.eps, "eps")

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps multiplied by ``factor`` >= 0.

        Raises:
            TypeError: If eps is None.
        """
        if self.radius is None:
            raise TypeError(f"{type(self).__name__}(eps=None) has no budget to scale; give it an eps.")
        return dataclasses.replace(self, eps=self._scaled_eps(self.radius, factor))

    @abstractmethod
    def minimise(self, objective: InnerObjective, x: Tensor, within: Tensor | None) -> Tensor:
        """Search for the nearest images that reach the goal.

        Args:
            objective: Gives logits at images of shape ``(N, ...)``.
            x: The clean images.
            within: The largest distance that is of interest, of shape ``(N,)``, or None for any.

        Returns:
            The nearest images found, clean ones where none was.
        """

    def _search(self, objective: InnerObjective, x: Tensor, eps: Tensor | None) -> Tensor:
        budget = self.radius if eps is None else eps
        within = None if budget is None else per_image(budget, x).flatten()
        x_adv = self.minimise(objective, x, within)
        if within is None:
            return x_adv
        near = ball(self.norm, x, within)
        accepted = near.distance(x_adv) <= within + 1e-6
        return torch.where(spread(accepted, x), near.project(x_adv), x)


def has_field(attack: object, name: str) -> bool:
    """Tell whether an attack has a setting of this name, which ``dataclasses.replace`` can change."""
    return dataclasses.is_dataclass(attack) and any(field.name == name for field in dataclasses.fields(attack))

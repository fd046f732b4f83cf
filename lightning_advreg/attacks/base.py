"""What every attack is, and what gradient attacks share."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.losses import LossName, attack_loss, check_loss, needs_clean_logits
from lightning_advreg.attacks.model_state import Model, ModelMode, borrowed
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.attacks.threat import Ball, Norm, ball, check_norm, per_image
from lightning_advreg.checks import check_batch, check_types
from lightning_advreg.values import Number, to_float


class Attack(ABC):
    """Inner maximisation: a map from images to nearby images that the model gets wrong.

    Subclasses implement ``__call__``. The result has the shape, dtype and device of ``x``, is detached, lies in [0, 1]
    and within the attack's budget of ``x``, and the model is left as it was found.
    """

    @abstractmethod
    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Attack ``model`` at images ``x`` ``(N, C, H, W)`` in [0, 1] with labels ``y`` ``(N,)``, int64."""

    def scaled(self, factor: float) -> Self:
        """Give the same attack with budget and step sizes multiplied by ``factor``, for warm-up schedules.

        Raises:
            TypeError: If this attack has no budget to scale.
        """
        raise TypeError(
            f"{type(self).__name__} has no `scaled` method, which eps_warmup_epochs needs; set eps_warmup_epochs to 0 "
            "or give the attack a method `scaled(factor)`."
        )


@dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack that follows the gradient of a loss with respect to the image, inside a ball around it.

    Args:
        norm: The norm that bounds the perturbation.
        eps: The budget in pixel units on [0, 1]; ``8/255`` may be written as text.
        loss: What is maximised: cross-entropy, margin, DLR, or KL from the clean prediction.
        targeted: Treat labels as classes to reach, rather than to leave.
        model_mode: How the network runs during the attack.
        seed: Draw random starts from a stream of this seed, the same at each call, and leave the caller's random
            generators untouched. With None, draw from the default generators.
        check: Check pixel range and labels at each call, at the price of one device synchronisation a call.

    Raises:
        ValueError: If an argument is out of its range.
    """

    norm: Norm = "linf"
    eps: Number = 8 / 255
    loss: LossName = "ce"
    targeted: bool = False
    model_mode: ModelMode = "eval"
    seed: int | None = None
    check: bool = True

    def __post_init__(self) -> None:
        check_norm(self.norm)
        check_loss(self.loss, self.targeted)
        if self.model_mode not in ("eval", "train", "batch_stats"):
            raise ValueError(f"model_mode must be eval, train or batch_stats, got {self.model_mode!r}.")
        self._normalise("eps")

    def _normalise(self, name: str) -> None:
        object.__setattr__(self, name, to_float(getattr(self, name), name, minimum=0))

    @property
    def radius(self) -> float:
        """The budget as a float, in pixel units."""
        return to_float(self.eps, "eps")

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps multiplied by ``factor`` >= 0; subclasses scale their steps along."""
        return dataclasses.replace(self, eps=self.radius * factor)

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
        stream = nullcontext() if self.seed is None else seeded(self.seed, x.device)
        with borrowed(model, self.model_mode), stream:
            # clones made here are no inference tensors, which autograd could not save
            x, y = x.detach().clone(), y.to(torch.int64, copy=True)
            centre = working_precision(x)
            factor = None if eps is None else per_image(eps, centre) / max(self.radius, 1e-12)
            feasible = ball(self.norm, centre, self.radius if eps is None else eps)
            objective = InnerObjective(self, model, x, y)
            return round_towards(self.perturb(objective, feasible, factor), x)

    @abstractmethod
    def perturb(self, objective: "InnerObjective", feasible: Ball, factor: Tensor | None) -> Tensor:
        """Search the ball for images with a high loss.

        Args:
            objective: Gives gradients and losses at images of shape ``(N, ...)``.
            feasible: The set to stay in.
            factor: What to multiply step sizes by, per image, or None for 1.
        """


class InnerObjective:
    """The function of the image that an attack maximises, for one batch.

    Args:
        attack: Says which loss, targeted or not, and whether to check the batch.
        model: From images to logits; frozen already.
        x: The clean images.
        y: Their labels, or the targets.
    """

    def __init__(self, attack: GradientAttack, model: Model, x: Tensor, y: Tensor) -> None:
        self.attack, self.model, self.x, self.y = attack, model, x, y
        self._loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
        self._clean: Tensor | None = None

    def gradient(self, x_adv: Tensor) -> Tensor:
        """Give the gradient of each image's loss with respect to that image.

        Only this gradient is computed: no gradient of a parameter, and no hook of a distributed wrapper fires.
        """
        leaf = x_adv.detach().requires_grad_()
        loss = self.loss(self._logits(leaf)).sum()
        grad = torch.autograd.grad(loss, leaf, allow_unused=True)[0] if loss.requires_grad else None
        if grad is None:
            raise ValueError(
                "the model's output does not depend on its input through differentiable operations (a detach, argmax "
                "or no_grad inside?); gradient attacks need one that does."
            )
        return grad

    @torch.no_grad()
    def evaluate(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Give each image's loss, and whether it reaches the goal of the attack, both of shape ``(N,)``."""
        logits = self._logits(x_adv)
        hit = logits.argmax(1) == self.y
        return self.loss(logits), hit if self.attack.targeted else ~hit

    def loss(self, logits: Tensor) -> Tensor:
        """Give the loss of each image from its logits, in float32 at least."""
        logits = working_precision(logits)
        if self._loss is None:
            self._prepare(logits)
        assert self._loss is not None
        return self._loss(logits, self.y, logits if self._clean is None else self._clean)

    def _logits(self, x_adv: Tensor) -> Tensor:
        return self.model(x_adv.to(self.x.dtype))

    def _prepare(self, logits: Tensor) -> None:
        if logits.dim() != 2 or len(logits) != len(self.y):
            raise ValueError(
                f"the model must give logits of shape (N, K), for these images ({len(self.y)}, K), got "
                f"{tuple(logits.shape)}."
            )
        attack = self.attack
        if attack.check:
            check_batch(self.x, self.y, num_classes=logits.shape[1])
        self._loss = attack_loss(attack.loss, attack.targeted, logits.shape[1])
        if needs_clean_logits(attack.loss, attack.targeted):
            with torch.no_grad():
                self._clean = working_precision(self._logits(self.x))

"""What an attack maximises on one batch, and how it asks the model about it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.losses import AttackLoss, LossName, attack_loss, needs_clean_logits
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.passes import note_gradients
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.checks import check_batch
from lightning_advreg.networks.dual_norm import run_clean


class InnerObjective:
    """The function of the image that an attack maximises, for one batch.

    Args:
        model: From images to logits; frozen already.
        x: The clean images, of shape ``(N, ...)``.
        y: Their labels, or the targets, of shape ``(N,)``.
        loss: The name of the loss.
        targeted: Whether ``y`` are classes to reach, rather than to leave.
        check: Check pixels and labels at the first pass.
        draws: Passes to average over at every point, for models that draw random numbers (expectation over
            transformation, Athalye et al. 2018). An image is then misclassified where the mean logits are.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        loss: LossName = "ce",
        targeted: bool = False,
        check: bool = False,
        draws: int = 1,
    ) -> None:
        self.model, self.x, self.y = model, x, y
        self.targeted, self.check, self.draws = targeted, check, draws
        self.loss_name: LossName = loss
        self._loss: AttackLoss | None = None
        self._aim, self._towards = y, targeted
        self._clean: Tensor | None = None
        self._clean_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def gradient(self, x_adv: Tensor) -> Tensor:
        """Give the gradient of each image's loss with respect to that image.

        Only this gradient is computed: no gradient of a parameter, and no hook of a distributed wrapper fires.
        """
        return self._pass(x_adv)[2]

    def loss_and_gradient(self, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give losses ``(N,)``, whether the goal is reached ``(N,)`` and gradients, from one pass forward and back."""
        loss, logits, grad = self._pass(x_adv)
        return loss, self.hits(logits), grad

    @torch.no_grad()
    def evaluate(self, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """Give each image's loss, and whether it reaches the goal of the attack, both of shape ``(N,)``."""
        drawn = [self.logits(x_adv) for _ in range(self.draws)]
        loss = self.loss(drawn[0]) if self.draws == 1 else torch.stack([self.loss(z) for z in drawn]).mean(0)
        return loss, self.hits(_mean(drawn))

    def hits(self, logits: Tensor) -> Tensor:
        """Tell which logits ``(N, K)`` reach the goal: another class than the label, or the target."""
        hit = logits.argmax(1) == self.y
        return hit if self.targeted else ~hit

    def loss(self, logits: Tensor) -> Tensor:
        """Give the loss of each image from its logits, in float32 at least."""
        if self._loss is None:
            self._loss = attack_loss(self.loss_name, self._towards, logits.shape[1])
            if self._clean is None and needs_clean_logits(self.loss_name, self._towards):
                self._clean = self.clean_logits
        return self._loss(logits, self._aim, logits if self._clean is None else self._clean)

    def logits(self, x_adv: Tensor) -> Tensor:
        """Give the search model's logits ``(N, K)``, in float32 at least; the first pass checks the batch."""
        logits = self.model(x_adv.to(self.x.dtype))
        if logits.dim() != 2 or len(logits) != len(self.y):
            raise ValueError(
                f"the model must give logits of shape (N, K), for these images ({len(self.y)}, K), got "
                f"{tuple(logits.shape)}."
            )
        if self.check:
            check_batch(self.x, self.y, num_classes=logits.shape[1])
            self.check = False
        return working_precision(logits)

    @property
    def clean_logits(self) -> Tensor:
        """The logits ``(N, K)`` of the clean images, computed when they are first asked for."""
        if self._clean_logits is None:
            with torch.no_grad():
                self._clean_logits = _mean([run_clean(self.logits, self.x) for _ in range(self.draws)])
        return self._clean_logits

    def confirmed(self, x_adv: Tensor, hit: Tensor) -> Tensor:
        """Tell which successes of the search stand on the original network, of shape ``(N,)``.

        A search may run on a fast copy of the network. Where it is the network itself, ``hit`` comes back as it is.
        """
        confirm: Callable[[Tensor], Tensor] | None = getattr(self.model, "confirm", None)
        if confirm is None or getattr(self.model, "exact", False):
            return hit
        rows = hit.nonzero().squeeze(1)
        if len(rows) == 0:
            return hit
        with torch.no_grad():
            images = x_adv[rows].to(self.x.dtype)
            logits = _mean([working_precision(confirm(images)) for _ in range(self.draws)])
        return hit.index_put((rows,), self.select(rows).hits(logits))

    def select(self, rows: Tensor) -> Self:
        """Give the same objective for some of the images, by index."""
        return self._derive(
            x=self.x[rows],
            y=self.y[rows],
            _aim=self._aim[rows],
            _clean=None if self._clean is None else self._clean[rows],
            _clean_logits=None if self._clean_logits is None else self._clean_logits[rows],
        )

    def towards(self, target: Tensor) -> Self:
        """Give the objective that leaves the label for one given class.

        Its loss is the targeted one, from label to target; the goal stays any class but the label (the multi-targeted
        attack of Croce & Hein 2020, section 4).

        Args:
            target: Classes of shape ``(N,)``, int64.
        """
        # the targeted DLR leaves the class that these logits put first
        clean = F.one_hot(self.y, self.clean_logits.shape[1]).to(self.clean_logits.dtype)
        return self._derive(_aim=target, _towards=True, _loss=None, _clean=clean)

    def _derive(self, **changes: object) -> Self:
        derived = type(self).__new__(type(self))
        derived.__dict__.update(self.__dict__, **changes)
        return derived

    def _pass(self, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.draws == 1:
            return self._draw(x_adv)
        drawn = [self._draw(x_adv) for _ in range(self.draws)]
        loss, logits, grad = (_mean(list(part)) for part in zip(*drawn, strict=True))
        return loss, logits, grad

    def _draw(self, x_adv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        leaf = x_adv.detach().requires_grad_()
        logits = self.logits(leaf)
        loss = self.loss(logits)
        return loss.detach(), logits.detach(), input_gradient(loss.sum(), leaf)


def input_gradient(value: Tensor, leaf: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Give the gradient of a scalar with respect to the images it was computed from.

    Args:
        value: The scalar.
        leaf: The images, with ``requires_grad``.
        keep_graph: Whether another gradient of the same forward pass will follow.

    Raises:
        ValueError: If there is no differentiable path from the images to the value.
    """
    note_gradients(len(leaf))
    grad = None
    if value.requires_grad:
        grad = torch.autograd.grad(value, leaf, retain_graph=keep_graph, allow_unused=True)[0]
    if grad is None:
        raise ValueError(
            "the model's output does not depend on its input through differentiable operations (a detach, argmax "
            "or no_grad inside?); gradient attacks need one that does."
        )
    # a step along an undefined gradient would end in an undefined image
    return grad.nan_to_num()


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(0)

"""What methods with one attack step of their own share: the budget, the step, and a pass for attack and loss alike."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_advreg.attacks import Attack, Model, ModelMode, ball, borrowed
from lightning_advreg.attacks.model_state import underlying_module
from lightning_advreg.attacks.objective import input_gradient
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.recorded import Recorded


def budget(attack: Attack, method: str) -> tuple[float, ModelMode]:
    """Give the radius of an attack in pixel units, and how the network runs under it.

    Args:
        attack: Any attack with a ``radius`` in the norm ``linf``; its steps, loss and seed are not used.
        method: Who asks, for the message.

    Raises:
        TypeError: If the attack has no radius.
        ValueError: If its norm is another one.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> budget(PGD(eps=0.25, model_mode="batch_stats"), "NuAT")
        (0.25, 'batch_stats')
    """
    return linf_radius(attack, method), getattr(attack, "model_mode", "eval")


def linf_radius(attack: Attack, needed_by: str) -> float:
    """Give the budget of an attack in Linf, in pixel units.

    Args:
        attack: The attack.
        needed_by: The name of the objective, for the message.

    Raises:
        TypeError: If the attack has no budget.
        ValueError: If its budget is in another norm.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> linf_radius(PGD(eps=0.1), "FreeAT")
        0.1
    """
    radius = getattr(attack, "radius", None)
    if not isinstance(radius, float):
        raise TypeError(
            f"{needed_by} needs the budget of the attack, and {attack!r} has no `radius`; use an attack with an eps, "
            "such as FGSM(eps='8/255')."
        )
    norm = getattr(attack, "norm", "linf")
    if norm != "linf":
        raise ValueError(f"{needed_by} is defined for attacks in 'linf', got norm {norm!r}; use FGSM(eps='8/255').")
    return radius


def bernoulli_start(x: Tensor, size: float) -> Tensor:
    """Move every pixel up or down by ``size``, with equal chances, and clip to [0, 1].

    Example:
        >>> bernoulli_start(torch.full((1, 1, 1, 3), 0.5), 0.25).sub(0.5).abs()
        tensor([[[[0.2500, 0.2500, 0.2500]]]])
    """
    images = working_precision(x)
    signs = 2 * torch.empty_like(images).bernoulli_() - 1
    return round_towards((images + size * signs).clamp(0, 1), x)


def fgsm_step(start: Tensor, grad: Tensor, x: Tensor, eps: float) -> Tensor:
    """Give ``P(start + eps sign(grad))``, with P the projection onto the Linf ball around ``x`` and the box.

    Args:
        start: Where the gradient was taken, of the shape and dtype of ``x``.
        grad: The gradient, of that shape.
        x: The clean images ``(N, C, H, W)`` in [0, 1].
        eps: The radius and the length of the step, in pixel units.

    Example:
        >>> x = torch.tensor([[0.5, 0.9]])
        >>> fgsm_step(x + 0.1, torch.tensor([[-3.0, 2.0]]), x, eps=0.2)
        tensor([[0.4000, 1.0000]])
    """
    feasible = ball("linf", working_precision(x), eps)
    return round_towards(feasible.project(working_precision(start.detach()) + eps * grad.sign()), x)


class StartedObjective(Recorded, Objective, nn.Module):
    """A loss that compares the end of one FGSM step with its start, where the start depends on what came before.

    With a start ``s`` in the ball around ``x``, soft labels ``t`` and ``t'``, and a distance ``d`` between logits::

        x_adv = P(s + eps * sign(grad_s CE(f(s), t)))
        loss  = CE(f(x_adv), t') + strength * d(f(s), f(x_adv))

    The authors of these methods take the step in training mode, so that the pass at ``s`` serves the step and the loss:
    two forward passes for a batch. So it is here with an attack of model mode ``batch_stats`` or ``train``, unless a
    weight perturbation moves the weights between the two. In mode ``eval``, the default of attacks, the step has a pass
    of its own.

    What is carried from batch to batch is in buffers, whose shapes the first batch decides.
    """

    def __call__(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> ObjectiveOutput:
        """Give the loss of a batch, with as few passes as the attack's model mode allows."""
        eps, mode = budget(attack, type(self).__name__)
        module = underlying_module(model)
        shared = module is None or (mode != "eval" and module.training)
        if not (shared and torch.is_grad_enabled()):
            return super().__call__(model, x, y, attack)
        crafted, logits_start = self._attacked(model, x, y, eps, keep_graph=True)
        return self._output(model, crafted, logits_start)

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Give attacked images, the start of the step, and soft labels ``(N, K)`` for the loss."""
        eps, mode = budget(attack, type(self).__name__)
        with borrowed(model, mode):
            return self._attacked(model, x, y, eps, keep_graph=False)[0]

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the loss at the end of the step, and its distance from the start."""
        return self._output(model, crafted, model(crafted[1]) if self.strength > 0 else None)

    @property
    @abstractmethod
    def strength(self) -> float:
        """What the distance is multiplied by."""

    @abstractmethod
    def start(self, model: Model, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Give feasible images to start the step at, like ``x``."""

    @abstractmethod
    def labels(self, y: Tensor, logits: Tensor) -> Tensor:
        """Give soft labels, like ``logits`` ``(N, K)``, for labels ``(N,)``."""

    @abstractmethod
    def distance(self, logits_start: Tensor, logits_adv: Tensor) -> Tensor:
        """Give the distance between logits ``(N, K)``, a scalar."""

    def remember(self, x: Tensor, x_adv: Tensor) -> None:
        """Note what the next batch needs to know of this one; nothing, unless overridden."""

    def _attacked(
        self, model: Model, x: Tensor, y: Tensor, eps: float, *, keep_graph: bool
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        start = self.start(model, x, y, eps).detach()
        leaf = start.clone().requires_grad_()
        logits = working_precision(model(leaf))
        # the sum: the sign of its gradient is that of the mean's, and no factor 1/N can underflow
        value = F.cross_entropy(logits, self.labels(y, logits), reduction="sum")
        x_adv = fgsm_step(start, input_gradient(value, leaf, keep_graph=keep_graph), x, eps)
        self.remember(x, x_adv)
        return (x_adv, start, self.labels(y, logits)), logits

    def _output(self, model: Model, crafted: Crafted, logits_start: Tensor | None) -> ObjectiveOutput:
        x_adv, _, labels = crafted
        logits_adv = model(x_adv)
        loss = F.cross_entropy(working_precision(logits_adv), labels)
        if logits_start is not None and self.strength > 0:
            distance = self.distance(working_precision(logits_start), working_precision(logits_adv))
            loss = loss + self.strength * distance
        return ObjectiveOutput(loss, logits_adv=logits_adv)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        for name, buffer in self._buffers.items():
            stored = state_dict.get(prefix + name)
            if buffer is not None and isinstance(stored, Tensor):
                # a new objective has empty buffers, and torch would refuse those of a checkpoint
                self._buffers[name] = torch.empty_like(stored, device=buffer.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

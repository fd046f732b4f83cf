"""Adversarial training for free: the backward pass of training attacks as well."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_advreg.attacks import Attack, Model, ball
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.single_step import linf_radius
from lightning_advreg.recorded import Recorded
from lightning_advreg.values import Number, to_float


class FreeAT(Recorded, Objective, nn.Module):
    """Free adversarial training (Shafahi et al. 2019, algorithm 1): each pass trains the weights and attacks.

    Training takes ``replays`` optimizer steps on each batch. Every one of them runs the network forward and back once,
    at ``x_adv = clip(x + delta)``, minimises ``CE(f(x_adv), y)``, and moves the perturbation with the gradient that the
    backward pass leaves at the images: ``delta <- clip(delta + eps * sign(grad), -eps, eps)``. The perturbation is kept
    from step to step, and from batch to batch: the first image of a batch starts where the first image of the batch
    before was left. So ``replays`` steps cost as much as ``replays`` steps of training without an attack, and
    **max_epochs is to be divided by replays**. Schedules, ``global_step`` and ``max_steps`` count batches, not replays.

    Of the attack, its ``radius`` alone is used: eps. The algorithm as printed knows no box. Here images are clipped to
    [0, 1], and the gradient is taken at the clipped image, so that a perturbation which points out of the box comes
    back when the gradient turns.

    The perturbation is part of the state dict, so that training continues exactly. It is no buffer, since
    DistributedDataParallel would overwrite it with that of the first process.

    Args:
        replays: The number m of steps on each batch, at least 1; 8 for CIFAR-10, 4 for ImageNet.
        label_smoothing: The share of each label spread evenly over all classes, in [0, 1).

    Attributes:
        delta: The perturbation ``(N, C, H, W)`` in pixel units, of the largest batch so far; empty before the first.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> free, attack = FreeAT(replays=2), FGSM(eps=0.25)
        >>> x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
        >>> for _ in range(2):
        ...     output = free(torch.nn.Flatten(), x, y, attack)  # the logits are the pixels
        ...     output.loss.backward()
        >>> output.logits_adv.tolist()
        [[0.25, 0.75]]
    """

    delta: Tensor

    def __init__(self, *, replays: int = 8, label_smoothing: Number = 0.0) -> None:
        super().__init__()
        if isinstance(replays, bool) or not isinstance(replays, int) or replays < 1:
            raise ValueError(f"replays must be an integer of at least 1, got {replays!r}.")
        self.replays = replays
        self.label_smoothing = to_float(label_smoothing, "label_smoothing", minimum=0, below=1)
        self.delta = torch.empty(0)
        self._leaf: Tensor | None = None
        self._eps = 0.0

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Move the perturbation by the gradient that the last backward pass left, and add it to the images.

        Args:
            model: Not asked.
            x: Images ``(N, C, H, W)`` in [0, 1].
            y: Not looked at.
            attack: Its ``radius`` is eps.

        Returns:
            The attacked images, a leaf that waits for its gradient.

        Raises:
            TypeError: If the attack has no ``radius``.
            ValueError: If the attack is not one in Linf, or images have another shape than those before.
        """
        eps = linf_radius(attack, "FreeAT")
        self._move()
        images = working_precision(x)
        x_adv = ball("linf", images, eps).project(images + self._rows(images))
        self._leaf, self._eps = round_towards(x_adv, x).requires_grad_(), eps
        return (self._leaf,)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the cross-entropy at the attacked images; its ``backward`` attacks."""
        logits_adv = model(crafted[0])
        loss = F.cross_entropy(logits_adv, y, label_smoothing=self.label_smoothing)
        return ObjectiveOutput(loss, logits_adv=logits_adv)

    def get_extra_state(self) -> Tensor:
        """Give the perturbation for the state dict."""
        # a checkpoint is written after the backward pass, whose gradient would be lost otherwise
        self._move()
        return self.delta

    def set_extra_state(self, state: Tensor) -> None:
        """Take the perturbation from a state dict."""
        self.delta, self._leaf = state.clone(), None

    @torch.no_grad()
    def _move(self) -> None:
        if self._leaf is None or self._leaf.grad is None:
            return
        # a scaled loss may overflow in half precision, and an undefined pixel would stay undefined
        grad = self._leaf.grad.nan_to_num()
        rows = self.delta[: len(grad)]
        rows.add_(self._eps * grad.sign()).clamp_(-self._eps, self._eps)
        self._leaf = None

    def _rows(self, x: Tensor) -> Tensor:
        shape = x.shape[1:]
        if self.delta.numel() == 0:
            self.delta = torch.zeros_like(x)
        if self.delta.shape[1:] != shape:
            raise ValueError(
                f"FreeAT carries its perturbation from batch to batch, so images must keep their shape "
                f"{tuple(self.delta.shape[1:])}, got {tuple(shape)}; resize them to one shape, or make a new FreeAT()."
            )
        self.delta = self.delta.to(x)
        if len(self.delta) < len(x):
            self.delta = torch.cat([self.delta, x.new_zeros(len(x) - len(self.delta), *shape)])
        return self.delta[: len(x)]

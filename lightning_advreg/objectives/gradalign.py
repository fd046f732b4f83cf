"""FGSM training whose input gradients are kept aligned within the ball."""

from dataclasses import dataclass
from typing import TypeGuard
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_advreg.attacks import FGSM, Attack, Model, ball
from lightning_advreg.attacks.model_state import underlying_module
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.checks import check_batch
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.single_step import linf_radius
from lightning_advreg.values import Number, to_float

_twice_differentiable: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, kw_only=True)
class GradAlign(Objective):
    """Cross-entropy under attack, and a penalty on gradients that turn within the ball.

    ``CE(f(x_adv), y) + weight * E[1 - cos(grad l(x), grad l(x + eta))]`` with ``eta ~ U(-eps, eps)`` and the gradients
    of the cross-entropy l with respect to the images (Andriushchenko & Flammarion 2020, section 5). Where gradients are
    aligned, the single step of FGSM is a good attack, and catastrophic overfitting does not set in. The mean is over
    the images of which both gradients are not zero: a cosine with zero is undefined.

    The paper attacks with ``FGSM(eps)``, from the image itself. That gradient is the ``grad l(x)`` of the penalty, so
    both come from one pass: three passes forward in all, and two gradients that are differentiated again. This pass
    runs in the mode in which the network trains, whatever ``model_mode`` of the attack, as in the authors' code. With
    BatchNorm or dropout the attacked images are therefore not quite those of an FGSM in eval mode, and running
    statistics follow clean, noisy and attacked images in turn. Any other attack is run as it is, before these passes;
    so is FGSM when weights are perturbed.

    Images with noise are clipped to [0, 1], which the paper does not do, so that the model is asked about images alone.

    Args:
        weight: The weight lambda of the penalty, above 0; 0.2 for CIFAR-10 at 8/255.
        label_smoothing: The share of each label spread evenly over all classes in the outer cross-entropy, in [0, 1).
        detach_clean: Hold ``grad l(x)`` fixed, and differentiate ``grad l(x + eta)`` alone. It costs less; the authors'
            code does so, and they saw no substantial difference.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
        >>> attack = FGSM(eps=0.1)
        >>> output = GradAlign(weight=0.2)(model, x, y, attack)
        >>> # two classes and a linear model: gradients keep their direction, so that there is no penalty
        >>> torch.allclose(output.loss, nn.functional.cross_entropy(output.logits_adv, y))
        True
    """

    # no annotation, which would make it an argument
    double_backward = True

    weight: Number = 0.2
    label_smoothing: Number = 0.0
    detach_clean: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", to_float(self.weight, "weight", minimum=0))
        if self.weight == 0:
            raise ValueError("weight must be above 0, got 0; to train without the penalty use PGDAT().")
        smoothing = to_float(self.label_smoothing, "label_smoothing", minimum=0, below=1)
        object.__setattr__(self, "label_smoothing", smoothing)

    def __call__(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> ObjectiveOutput:
        """Give the loss of a batch under attack, with one gradient for both attack and penalty where they share it.

        Args:
            model: From images to logits, in training mode, twice differentiable.
            x: Images ``(N, C, H, W)`` in [0, 1].
            y: Labels ``(N,)``, int64.
            attack: The inner maximisation in Linf; its ``radius`` bounds the noise.

        Raises:
            TypeError: If the attack has no ``radius``.
            ValueError: If the attack is not one in Linf.
            RuntimeError: If the network cannot be differentiated twice.
        """
        if not _starts_at_the_image(attack):
            return super().__call__(model, x, y, attack)
        x_noisy = _noisy(x, linf_radius(attack, "GradAlign"))
        logits, grad = self._clean(model, x, y)
        if attack.check:
            check_batch(x, y, num_classes=logits.shape[1])
        return self._aligned(model, y, _stepped(attack, model, x, y, grad), x_noisy, logits, grad)

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Give attacked images, and images with noise.

        Raises:
            TypeError: If the attack has no ``radius``.
            ValueError: If the attack is not one in Linf.
        """
        eps = linf_radius(attack, "GradAlign")
        return attack(model, x, y), _noisy(x, eps)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the cross-entropy at the attacked images, with the penalty between clean and noisy ones.

        Raises:
            RuntimeError: If the network cannot be differentiated twice.
        """
        x_adv, x_noisy = crafted
        return self._aligned(model, y, x_adv, x_noisy, *self._clean(model, x, y))

    def _clean(self, model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _input_gradient(model, x, y, keep_graph=torch.is_grad_enabled() and not self.detach_clean)

    def _aligned(
        self, model: Model, y: Tensor, x_adv: Tensor, x_noisy: Tensor, logits: Tensor, grad: Tensor
    ) -> ObjectiveOutput:
        _, grad_noisy = _input_gradient(model, x_noisy, y, keep_graph=torch.is_grad_enabled())
        penalty = misalignment(grad, grad_noisy)
        _check_twice_differentiable(model, penalty)
        logits_adv = model(x_adv)
        smoothing = to_float(self.label_smoothing, "label_smoothing")
        loss = F.cross_entropy(logits_adv, y, label_smoothing=smoothing) + to_float(self.weight, "weight") * penalty
        return ObjectiveOutput(loss, logits, logits_adv)


def misalignment(first: Tensor, second: Tensor) -> Tensor:
    """Give the mean of ``1 - cos(first, second)`` over the samples where neither is zero; 0 where there are none.

    Args:
        first: One vector per sample, of shape ``(N, ...)``.
        second: The vectors to compare with, of the same shape.

    Returns:
        A scalar in [0, 2], in float32 at least.

    Example:
        >>> misalignment(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 5.0], [1.0, 1.0]]))
        tensor(1.)
    """
    pair = [working_precision(vectors).flatten(1) for vectors in (first, second)]
    sizes = [vectors.detach().abs().amax(1, keepdim=True) for vectors in pair]
    kept = (sizes[0] > 0) & (sizes[1] > 0)
    # a constant factor leaves the cosine as it is, and keeps squares of tiny entries from vanishing; ones in place of
    # what is dropped, since a norm has no gradient at zero
    a, b = (
        torch.where(kept, vectors / size.clamp(min=torch.finfo(size.dtype).tiny), 1.0)
        for vectors, size in zip(pair, sizes, strict=True)
    )
    apart = (1 - F.cosine_similarity(a, b, dim=1)) * kept.squeeze(1)
    return apart.sum() / kept.sum().clamp(min=1)


def _input_gradient(model: Model, x: Tensor, y: Tensor, *, keep_graph: bool) -> tuple[Tensor, Tensor]:
    """Give logits, detached, and the gradient of each image's cross-entropy with respect to that image."""
    leaf = x.detach().requires_grad_()
    # fused attention kernels have no second derivative
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        logits = model(leaf)
        # summed: divided by N, gradients of half-precision layers would underflow sooner
        value = F.cross_entropy(logits, y, reduction="sum")
        grad = torch.autograd.grad(value, leaf, create_graph=keep_graph)[0]
    return logits.detach(), grad


def _check_twice_differentiable(model: Model, penalty: Tensor) -> None:
    """Try the second derivative of a network once: the backward pass of training gives no such message."""
    network = underlying_module(model)
    if network is None or network in _twice_differentiable or not torch.is_grad_enabled():
        return
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if weights:
        found: tuple[Tensor | None, ...] = ()
        try:
            if penalty.requires_grad:
                found = torch.autograd.grad(penalty, weights, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise RuntimeError(_refusal(network, str(error))) from error
        if all(grad is None for grad in found):
            raise RuntimeError(_refusal(network, "the gradient of the images does not depend on the weights"))
    _twice_differentiable.add(network)


def _refusal(network: nn.Module, reason: str) -> str:
    return (
        f"GradAlign differentiates the gradient of the images once more, which {type(network).__name__} does not "
        f"allow ({reason}); train it without torch.compile and with operations that PyTorch differentiates twice, or "
        "train with the attack NFGSM() and the objective PGDAT()."
    )


def _starts_at_the_image(attack: Attack) -> TypeGuard[FGSM]:
    # its gradient is then that of the penalty
    return type(attack) is FGSM and not attack.random_start and attack.loss == "ce" and not attack.targeted


def _noisy(x: Tensor, eps: float) -> Tensor:
    return round_towards(ball("linf", working_precision(x), eps).random_start(), x)


def _stepped(attack: FGSM, model: Model, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    known = _KnownGradient(model, x, y, working_precision(grad.detach()).nan_to_num())
    return round_towards(attack.perturb(known, ball(attack.norm, working_precision(x), attack.radius), None), x)


class _KnownGradient(InnerObjective):
    def __init__(self, model: Model, x: Tensor, y: Tensor, grad: Tensor) -> None:
        super().__init__(model, x, y)
        self._grad = grad

    def gradient(self, x_adv: Tensor) -> Tensor:
        return self._grad

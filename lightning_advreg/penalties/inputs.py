"""Soft limits on how the output follows the input."""

import math
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_advreg.penalties.base import Coefficient, Penalty, as_coefficient
from lightning_advreg.penalties.training_pass import TrainingPass


@dataclass(frozen=True)
class InputPenalty(Penalty):
    """A penalty on gradients with respect to images, which training differentiates once more (double backprop).

    In a training step of this library it takes the forward pass that the loss has anyway, at the images that the loss
    is about: attacked ones in adversarial training. An objective that hands on no logits of these costs one pass more.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. While it is 0 nothing is computed.
    """

    on_images = True
    double_backward = True
    eager = True

    weight: Coefficient

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, epoch: float = math.inf) -> Tensor:
        """Give the penalty of a batch, with a forward pass of its own.

        Args:
            model: From images to logits.
            x: Images ``(N, C, H, W)`` in [0, 1].
            y: Labels ``(N,)``, int64.
            epoch: The epoch whose coefficient counts.
        """
        return self.weigh(self.terms_of(TrainingPass(model, x, y)), epoch).value

    @abstractmethod
    def term(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Give the raw term.

        Args:
            x: Images ``(N, ...)`` that require a gradient.
            logits: The logits ``(N, K)`` computed from them.
            y: Labels ``(N,)``, int64.
        """

    def terms_of(self, training_pass: TrainingPass) -> tuple[Tensor, ...]:
        """Give the raw term of a training step."""
        # the gradient by the image is needed where that by the weights is not
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            term = self.term(*training_pass.differentiable(), training_pass.y)
        return (term if keep_graph else term.detach(),)


@dataclass(frozen=True)
class InputGradient(InputPenalty):
    """The squared gradient of the loss with respect to the image, ``weight * mean_n ||grad_x CE(f(x_n), y_n)||_2^2``.

    Double backpropagation (Drucker & LeCun 1992); against attacks by Ross & Doshi-Velez (2018, eq. 5, where it is a sum
    over images). A step costs about twice as much with it.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. While it is 0 nothing is computed.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.eye(2))
        >>> # at p = (1/2, 1/2) the gradient is p - onehot(y) = (-1/2, 1/2)
        >>> InputGradient(1.0)(net, torch.zeros(1, 2), torch.tensor([0])).item()
        0.5
    """

    def term(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Give the mean squared norm of the gradients."""
        # the sum: each image's own gradient, which no factor 1/N makes vanish in half precision
        loss = F.cross_entropy(_precise(logits), y, reduction="sum")
        return _squares(loss, x) / len(x)


@dataclass(frozen=True)
class Jacobian(InputPenalty):
    """Half the squared Frobenius norm of the input-output Jacobian, ``weight / 2 * mean_n ||df/dx(x_n)||_F^2``.

    Hoffman et al. (2019, algorithm 1). A step takes an unbiased estimate of the squared norm, ``K ||d(v . f)/dx||_2^2``
    with ``v`` random on the unit sphere of the K logits, as the mean over ``projections`` of these. Each costs a
    backward pass, and one more for its gradient.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. While it is 0 nothing is computed.
        projections: The number of random projections, at least 1, or None for the exact norm, in K backward passes.

    Raises:
        ValueError: If ``weight`` is negative or ``projections`` less than 1.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> Jacobian(1.0, projections=None)(net, torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)).item()
        7.0
    """

    _: KW_ONLY
    projections: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.projections
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"projections must be an integer of at least 1, or None for all classes, got {count!r}.")

    def term(self, x: Tensor, logits: Tensor, y: Tensor) -> Tensor:
        """Give half the mean squared norm, or an estimate of it."""
        z = _precise(logits)
        classes = z.shape[1]
        if self.projections is None:
            squares = [_squares(z[:, k].sum(), x) for k in range(classes)]
            return torch.stack(squares).sum() / (2 * len(x))
        # K times the mean over the sphere of (v v') is the identity
        directions = [F.normalize(torch.randn_like(z), dim=1) for _ in range(self.projections)]
        squares = [_squares((v * z).sum(), x) for v in directions]
        return torch.stack(squares).mean() * classes / (2 * len(x))


def _squares(value: Tensor, x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    return _precise(grad).square().sum()


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

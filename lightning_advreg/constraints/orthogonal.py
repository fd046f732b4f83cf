"""Orthogonal weights: exactly, or a small step towards them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_advreg.constraints.base import Projected, Projection, Weights, relative, share
from lightning_advreg.constraints.bounds import positive
from lightning_advreg.constraints.units import matrices, write_
from lightning_advreg.parameters import Pattern, as_patterns
from lightning_advreg.values import Number, to_float

TOLERANCE = 1e-5
"""How far singular values may lie from their target, relative to it, and count as there."""


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Projection):
    """Give every weight orthonormal rows, or columns where it has more rows: all singular values become ``gain``.

    With ``W = U S V'`` the result is ``gain * U V'``, the polar factor, which is the nearest such matrix in the
    Frobenius norm (Fan & Hoffman 1955; Higham 1989). It costs a singular value decomposition of every weight, which
    waits for the device; :class:`Parseval` is the cheap step towards it.

    The kernel of a convolution is taken as the matrix ``(out, in * k * k)``, in groups. Its map from images to images
    is not orthogonal by that: for a k x k kernel with stride 1 its norm is up to ``k * gain``.

    The set is not convex: an average of orthogonal weights is not orthogonal, but its singular values are at most
    ``gain``. Project the average once more where it has to be.

    Args:
        gain: The singular values, positive.
        pattern: The names of the weights that are limited, such as ``"features.*"``, or several; None for all.

    Raises:
        ValueError: If ``gain`` is not positive.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 3.0], [0.5, 0.0]]))
        >>> _ = Orthogonal().project_(layer)
        >>> layer.weight.data.round(decimals=4).abs()
        tensor([[0., 1.],
                [1., 0.]])
    """

    gain: Number = 1.0
    pattern: Pattern = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "gain", positive(self.gain, "gain"))
        object.__setattr__(self, "pattern", as_patterns(self.pattern))

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Set all singular values to the gain."""
        gain = to_float(self.gain, "gain")
        errors, values, moved = [], [], []
        for name, weight in selected:
            before = matrices(module, name, weight)
            u, s, vh = torch.linalg.svd(before, full_matrices=False)
            # what is there already stays, so that a second projection changes nothing
            over = (s - gain).abs().amax(1) > TOLERANCE * gain
            write_(module, name, weight, torch.where(over.view(-1, 1, 1), gain * u @ vh, before))
            errors.append(((s - gain) * over.unsqueeze(1)).flatten())
            values.append(s.flatten())
            moved.append(over)
        return Projected(share(torch.cat(moved)), relative(torch.cat(errors).norm(), torch.cat(values).norm()))


@dataclass(frozen=True, kw_only=True)
class Parseval(Projection):
    """Move every weight a small step towards orthonormal rows, ``W <- (1 + beta) W - beta W W' W``.

    Parseval networks (Cisse et al. 2017, equation 11): a gradient step on ``|W W' - I|^2 / 4``, which moves each
    singular value to ``s + beta (s - s^3)``. With ``gain`` the same is done to ``W / gain``. It is a retraction and no
    projection: where a step of training moves weights further than it moves them back, they stay off by some of it.
    Singular values converge to ``gain`` from below ``gain * sqrt(1 + 2 / beta)``, and diverge above.

    The paper takes the kernel of a k x k convolution as the matrix ``(out, in * k * k)``, as is done here, and scales
    it by ``1 / k``, which is ``gain=1/k``; it also has convex sums in place of residual ones, which belong to the
    network.

    The set is not convex: an average of orthogonal weights is not orthogonal, but its singular values are at most
    ``gain``.

    Args:
        beta: The size of a step, in (0, 0.5]. At 0.5 it is the Newton-Schulz iteration for the polar factor, which
            converges quadratically near it.
        steps: How many steps to take, at least 1.
        gain: The singular values aimed at, positive.
        pattern: The names of the weights that are moved, such as ``"features.*"``, or several; None for all.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> layer = torch.nn.Linear(1, 1)
        >>> _ = torch.nn.init.constant_(layer.weight, 0.5)
        >>> projected = Parseval(beta=0.5).project_(layer)
        >>> layer.weight.item(), projected.distance.item()
        (0.6875, 0.375)
    """

    beta: Number = 1e-3
    steps: int = 1
    gain: Number = 1.0
    pattern: Pattern = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", to_float(self.beta, "beta", maximum=0.5))
        for name in ("beta", "gain"):
            object.__setattr__(self, name, positive(getattr(self, name), name))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be an integer of at least 1, got {self.steps!r}.")
        object.__setattr__(self, "pattern", as_patterns(self.pattern))

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Take the steps."""
        beta, gain = to_float(self.beta, "beta"), to_float(self.gain, "gain")
        moves, sizes = [], []
        for name, weight in selected:
            before = matrices(module, name, weight)
            after = before
            for _ in range(self.steps):
                after = torch.baddbmm(after, *_cubed(after), beta=1 + beta, alpha=-beta / gain**2)
            # before it is overwritten, of which it may be a view
            moves.append(torch.linalg.vector_norm(after - before, dim=(1, 2)))
            sizes.append(torch.linalg.vector_norm(before, dim=(1, 2)))
            write_(module, name, weight, after)
        moved, size = torch.cat(moves), torch.cat(sizes)
        return Projected(share(moved > TOLERANCE * size), relative(moved.norm(), size.norm()))


def _cubed(w: Tensor) -> tuple[Tensor, Tensor]:
    """Give two matrices whose product is ``W W' W``, with the smaller Gram matrix."""
    return (w @ w.mT, w) if w.shape[1] <= w.shape[2] else (w, w.mT @ w)

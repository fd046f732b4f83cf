"""Bound the spectral norm of every layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_advreg.constraints.base import Projected, Weights, relative, rounding, share
from lightning_advreg.constraints.bounds import Bound, as_bound, bound_at, follow_
from lightning_advreg.constraints.operators import adjoint, apply, input_shape
from lightning_advreg.constraints.stateful import StatefulProjection
from lightning_advreg.constraints.units import is_convolution, matrices, owner, write_
from lightning_advreg.parameters import Pattern, as_patterns

Operator: TypeAlias = Literal["matrix", "convolution"]
"""What the norm of a convolution is that of: the kernel laid out flat, or the map from images to images."""

FIRST_STEPS = 100
"""How many steps of power iteration a weight gets when it is first seen."""


class SpectralProjection(StatefulProjection):
    """Bound the largest singular value of every weight: ``W <- W / max(1, sigma(W) / bound)``.

    The hard form of spectral normalisation (Yoshida & Miyato 2017; Miyato et al. 2018; as a projection after each step
    Gouk et al. 2021, algorithm 2): weights below the bound are left alone.

    - By **power iteration** (default), ``v <- W'u / |W'u|, sigma = |W v|, u <- W v / sigma``, whose vectors are kept
      from step to step, and iterated 100 times when a weight is first seen. Its sigma approaches the norm from below,
      so that the limit holds up to what the iteration has not caught up with.
    - **Exact**, by singular value decomposition: values above the bound are cut to it, the nearest point of the set in
      the Frobenius norm. It costs far more, and waits for the device.

    The operator of a convolution is ``matrix``, the kernel ``(out, in * k * k)`` laid out flat, as in Miyato et al.:
    the norm of the map from images to images is at most ``k`` times as large for a k x k kernel. Or it is
    ``convolution``, that map itself with zeros around, stride, dilation and groups, on maps of ``map_size`` pixels a
    side. The norm grows with the size of the maps and then levels off, so that a size at least that of the layer's
    input bounds the layer. A group of a grouped convolution has a matrix of its own. Embeddings are matrices.

    The set is convex, so that an average of weights that meet one bound meets it.

    Args:
        bound: The largest singular value allowed, positive: a number, a schedule, or an ``AdaptiveBound`` with the
            share of matrices that is to sit on it.
        operator: What the norm of a convolution means.
        exact: Cut singular values, rather than scale by an estimate; for ``operator="matrix"`` alone.
        steps: Steps of power iteration at each projection, at least 1.
        map_size: Height and width of the maps for ``operator="convolution"``, at least 1; it costs one forward and one
            backward pass of that size for each step.
        pattern: The names of the weights that are limited, such as ``"features.*"``, or several; None for all.

    Raises:
        ValueError: If an argument is out of its range, ``exact`` is asked of another operator, or a convolution pads
            with anything but zeros under ``operator="convolution"``.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
        >>> projected = SpectralProjection(1.0, exact=True).project_(layer)
        >>> layer.weight.data.round(decimals=4), projected.at_bound
        (tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]]), tensor(1.))
    """

    def __init__(
        self,
        bound: Bound = 1.0,
        *,
        operator: Operator = "matrix",
        exact: bool = False,
        steps: int = 1,
        map_size: int = 8,
        pattern: Pattern = None,
    ) -> None:
        super().__init__()
        if operator not in get_args(Operator):
            raise ValueError(f"operator must be matrix or convolution, got {operator!r}.")
        if exact and operator == "convolution":
            raise ValueError(
                "exact cuts singular values of matrices, and cut ones of a convolution are no kernel of its size any "
                "more; set operator='matrix', or exact=False."
            )
        for name, value in (("steps", steps), ("map_size", map_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        self.bound = as_bound(bound)
        self.operator, self.exact, self.steps, self.map_size = operator, exact, steps, map_size
        self.pattern = as_patterns(pattern)

    def check(self, module: nn.Module, name: str = "network") -> None:
        """Raise a ValueError if a pattern matches nothing, or a convolution pads in a way that has no bound here."""
        for weight_name, weight in self.selected(module):
            layer = owner(module, weight_name)
            padding = getattr(layer, "padding_mode", "zeros")
            if self.operator == "convolution" and is_convolution(layer, weight) and padding != "zeros":
                raise ValueError(
                    f"SpectralProjection cannot bound {weight_name} of {name}, whose padding_mode is {padding!r}; use "
                    "operator='matrix', padding_mode='zeros', or a pattern that leaves it out."
                )

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Scale weights, or cut their singular values."""
        if self.exact:
            return self._cut_(module, selected, epoch)
        found = [self._norm(module, name, weight) for name, weight in selected]
        sigmas = torch.cat([f.sigma for f in found])
        bound = bound_at(self.bound, epoch, sigmas)
        over = sigmas > bound
        factors = torch.where(over, bound / sigmas, 1.0)
        parts = factors.split([len(f.sigma) for f in found])
        # in groups, which are along the first dimension of every kernel
        views = [weight.unflatten(0, (len(f.sigma), -1)) for (_, weight), f in zip(selected, found, strict=True)]
        torch._foreach_mul_(views, [p.view(-1, *[1] * (v.dim() - 1)) for p, v in zip(parts, views, strict=True)])
        at_bound = share(sigmas >= bound * 0.999)
        sizes = torch.cat([f.size for f in found])
        distance = relative(((1 - factors) * sizes).norm(), sizes.norm())
        return Projected(share(over), distance, at_bound, follow_(self.bound, at_bound, bound))

    def _cut_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        spectra, cut_spectra = [], []
        bound = bound_at(self.bound, epoch, selected[0][1].new_empty((), dtype=torch.float32))
        for name, weight in selected:
            before = matrices(module, name, weight)
            u, s, vh = torch.linalg.svd(before, full_matrices=False)
            cut = s.clamp(max=bound.to(s.dtype))
            over = s[:, :1] > bound * (1 + rounding(s.dtype))
            write_(module, name, weight, torch.where(over.unsqueeze(2), (u * cut.unsqueeze(1)) @ vh, before))
            spectra.append(s)
            cut_spectra.append(torch.where(over, cut, s))
        values, kept = torch.cat([s.flatten() for s in spectra]), torch.cat([s.flatten() for s in cut_spectra])
        largest = torch.cat([s[:, 0] for s in spectra])
        at_bound = share(largest >= bound * 0.999)
        moved = share(largest > bound * (1 + rounding(largest.dtype)))
        return Projected(
            moved, relative((values - kept).norm(), values.norm()), at_bound, follow_(self.bound, at_bound, bound)
        )

    def _norm(self, module: nn.Module, name: str, weight: Tensor) -> "_Norm":
        layer = owner(module, name)
        flat = matrices(module, name, weight)
        if self.operator == "convolution" and is_convolution(layer, weight):
            kernel = weight.to(flat.dtype)
            image = input_shape(layer, weight, self.map_size)
            forward, back = partial(apply, layer, kernel), partial(adjoint, layer, kernel, size=image[1:])
            shape, kind = (1, *image), "image"
        else:
            forward, back = partial(torch.matmul, flat), partial(torch.matmul, flat.mT)
            shape, kind = (len(flat), flat.shape[2], 1), "vector"
        start, fresh = self._held(kind, name, shape, _random, flat)
        v, sigma = start.to(flat.dtype), flat.new_zeros(())
        for _ in range(max(FIRST_STEPS, self.steps) if fresh else self.steps):
            v, sigma = _step(v, forward, back)
        start.copy_(v)
        size = torch.linalg.vector_norm(flat, dim=(1, 2))
        return _Norm(sigma, size if len(size) == len(sigma) else size.norm().view(1))


@dataclass(frozen=True)
class _Norm:
    """The spectral norms of a weight's matrices, or of its convolution alone, and their Frobenius norms."""

    sigma: Tensor
    size: Tensor


def _step(v: Tensor, forward: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    dims = list(range(1, v.dim()))
    image = forward(v)
    sigma = torch.linalg.vector_norm(image, dim=list(range(1, image.dim())))
    turned = back(image)
    length = torch.linalg.vector_norm(turned, dim=dims, keepdim=True)
    # a weight of zeros turns every vector to zero, from which nothing would come back
    return torch.where(length > 0, turned / length, v), sigma


def _random(shape: tuple[int, ...]) -> Tensor:
    # the same on all processes, and nothing from the stream that training draws from
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return start / torch.linalg.vector_norm(start, dim=list(range(1, len(shape))), keepdim=True)

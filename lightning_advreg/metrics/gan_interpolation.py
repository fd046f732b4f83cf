"""How smoothly images change along a path between two noise vectors."""

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin
from lightning_advreg.metrics.gan_features import Features
from lightning_advreg.values import Number, to_float


class InterpolationSmoothness(GenerationMetric):
    """The squared speed of features along paths between noise vectors: perceptual path length.

    ``E ||f(G(z_t)) - f(G(z_{t + eps}))||^2 / eps^2``, over pairs of noise vectors and ``t`` uniform in [0, 1] (Karras
    et al. 2019, eq. 2, with the features of our extractor for those of VGG). Low is smooth; 0 is a generator that
    ignores its noise. Images are not rounded to 8 bits, in which neighbours on a path are the same.

    Args:
        eps: The step along the path. The paper has 1e-4, at which the rounding of float32 shows.
        spherical: Along the great circle, where normal noise has its usual length, or else along the straight line.
        pairs: How many pairs of noise vectors the callback draws.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> smoothness = InterpolationSmoothness(eps=0.5)
        >>> start, end = Features(torch.tensor([[0.0], [1.0]])), Features(torch.tensor([[1.0], [1.0]]))
        >>> smoothness.update(start, "generated", end)
        >>> smoothness.compute().item()  # 1 / 0.5^2 for one of two paths
        2.0
    """

    higher_is_better = False
    name = "path_length"
    origins = ("generated",)
    generated_sum: Tensor
    generated_count: Tensor

    def __init__(self, eps: Number = 1e-3, spherical: bool = True, pairs: int = 1000) -> None:
        super().__init__()
        self.eps = to_float(eps, "eps", minimum=1e-8, maximum=1)
        if pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {pairs}.")
        self.spherical, self.pairs = spherical, pairs
        self.add_state("generated_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("generated_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def path(self, start: Tensor, end: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Give two neighbouring points on the path between noise vectors.

        Args:
            start: Noise ``(N, latent_dim)``.
            end: Noise of the same shape.
            t: Where on the path, in [0, 1], of shape ``(N,)``.

        Returns:
            The points at ``t`` and at ``t + eps``.
        """
        between = slerp if self.spherical else _lerp
        # float32 would round eps away
        t = t.double()
        return between(start, end, t), between(start, end, t + self.eps)

    def update(self, seen: Features, origin: Origin, neighbours: Features | None = None) -> None:
        """Measure steps.

        Args:
            seen: Features of images, not rounded.
            origin: ``"generated"``.
            neighbours: Those a step further along their paths.

        Raises:
            ValueError: If there are no neighbours.
        """
        self._check_origin(origin)
        if neighbours is None:
            raise ValueError("InterpolationSmoothness needs the features of images a step further, as neighbours.")
        steps = (seen.features.double() - neighbours.features.double()).square().sum(1) / self.eps**2
        self.generated_sum = self.generated_sum + steps.sum()
        self.generated_count = self.generated_count + len(steps)

    def compute(self) -> Tensor:
        """Give the mean, a float64 scalar; NaN where nothing was measured."""
        return self.generated_sum / self.generated_count


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Interpolate along the great circle between vectors (Shoemake 1985).

    ``sin((1 - t) w) / sin(w) * start + sin(t w) / sin(w) * end``, with ``w`` the angle between them; the straight line
    where they point the same way.

    Args:
        start: Vectors ``(N, D)``.
        end: Vectors of the same shape.
        t: Where, of shape ``(N,)``.

    Example:
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0.5])).round(decimals=4)
        tensor([[0.7071, 0.7071]])
    """
    cosine = torch.nn.functional.cosine_similarity(start.double(), end.double(), dim=1)
    angle, t = cosine.clamp(-1, 1).acos()[:, None], t.double()[:, None]
    sine = angle.sin()
    curved = ((1 - t) * angle).sin() / sine * start + (t * angle).sin() / sine * end
    return torch.where(sine > 1e-6, curved, start + t * (end - start)).to(start.dtype)


def _lerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(start.double(), end.double(), t[:, None].double()).to(start.dtype)

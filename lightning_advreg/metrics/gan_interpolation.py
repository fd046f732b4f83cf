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
        t = t.double()[:, None]
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


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Interpolate between noise vectors along the sphere (White 2016, section 3; formula of Shoemake 1985).

    ``sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b``, with the angle ``w`` between ``a`` and ``b``. Half way between
    two normal vectors a straight line is shorter than both by a factor near ``sqrt(2)``: a length that noise hardly
    ever has. Vectors on one line are interpolated along it.

    Args:
        start: ``a``, of shape ``(..., latent_dim)``.
        end: ``b``, of a shape that broadcasts with it.
        share: ``t`` in [0, 1], of a shape that broadcasts with both; its last axis has length 1.

    Returns:
        Vectors of the broadcast shape.

    Example:
        >>> half = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.5]))
        >>> half, round(half.norm().item(), 3)
        (tensor([1.4142, 1.4142]), 2.0)
    """
    # in float32 the angle of two vectors on one line would be known to 4e-4 only
    a, b, share = start.double(), end.double(), share.double()
    angle = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1).unsqueeze(-1).acos()
    sine = angle.sin()
    straight = sine < 1e-6
    safe = sine.masked_fill(straight, 1.0)
    first = torch.where(straight, 1 - share, ((1 - share) * angle).sin() / safe)
    second = torch.where(straight, share, (share * angle).sin() / safe)
    return (first * a + second * b).to(start.dtype)


def _lerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(start.double(), end.double(), t).to(start.dtype)

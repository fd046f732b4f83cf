"""The Fréchet distance between real and generated images."""

from typing import ClassVar

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, of_size
from lightning_advreg.metrics.gan_features import Features


class FrechetDistance(GenerationMetric):
    """The squared Fréchet distance of two Gaussians fitted to features (Dowson and Landau 1982).

    ``||m_r - m_g||^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2))``, with means ``m`` and covariances ``C`` of real and
    generated images. In the features of the Inception network it is called FID (Heusel et al. 2017, eq. 6), and in no
    others. It is biased upwards, by more the fewer images there are: compare figures of equally many.

    Sums are kept in float64, on the metric's device, and added over processes.

    Example:
        >>> distance = FrechetDistance()
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> distance.update(Features(x), "real")
        >>> distance.update(Features(x + 2), "generated")
        >>> round(distance.compute().item(), 4)
        8.0
    """

    higher_is_better = False
    name = "frechet"
    inception_names: ClassVar[dict[str, str]] = {"frechet": "fid"}

    def __init__(self) -> None:
        super().__init__()
        for origin in self.origins:
            self.add_state(f"{origin}_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{origin}_sum", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{origin}_outer", torch.zeros(0, 0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, seen: Features, origin: Origin) -> None:
        """Add the features of a batch, of real or generated images."""
        self._check_origin(origin)
        x = seen.features.detach().double()
        size = x.shape[1]
        # not in place: states may be inference tensors
        setattr(self, f"{origin}_count", getattr(self, f"{origin}_count") + len(x))
        setattr(self, f"{origin}_sum", of_size(getattr(self, f"{origin}_sum"), size) + x.sum(0))
        setattr(self, f"{origin}_outer", of_size(getattr(self, f"{origin}_outer"), size, size) + x.T @ x)

    def compute(self) -> Tensor:
        """Give the distance, a float64 scalar.

        Raises:
            ValueError: If there are fewer than two real or generated images.
        """
        moments: list[Tensor] = []
        for origin in self.origins:
            count, total, outer = (getattr(self, f"{origin}_{part}") for part in ("count", "sum", "outer"))
            if int(count) < 2:
                raise ValueError(
                    f"a covariance needs at least two images, got {int(count)} {origin} ones; give more of them."
                )
            moments += moments_of(count, total, outer)
        return frechet_distance(*moments)


def moments_of(count: Tensor, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean ``(F,)`` and unbiased covariance ``(F, F)`` from the number, the sum and the sum of outer products."""
    mean = total / count
    return mean, (outer - count * mean.outer(mean)) / (count - 1)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Give the squared Fréchet distance of two Gaussians, in float64.

    The trace of the root of a product of covariances is the sum of the singular values of the product of their roots,
    which eigenvalues give: unlike the root of the product itself it exists and is real also for singular covariances,
    as those of fewer images than features are.

    Args:
        mean: Of the first, shape ``(F,)``.
        covariance: Of the first, shape ``(F, F)``, positive semi-definite.
        other_mean: Of the second.
        other_covariance: Of the second.

    Example:
        >>> zero, one = torch.zeros(3), torch.eye(3)
        >>> frechet_distance(zero, one, zero + 1, 4 * one).item()  # 3 from the means, and 3 * (1 - 2)^2
        6.0
    """
    root, other_root = _root(covariance.double()), _root(other_covariance.double())
    overlap = torch.linalg.svdvals(root @ other_root).sum()
    apart = (mean.double() - other_mean.double()).square().sum()
    return (apart + covariance.double().trace() + other_covariance.double().trace() - 2 * overlap).clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T

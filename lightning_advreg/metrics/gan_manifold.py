"""How real generated images are, and how much of the real ones they cover."""

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, joined
from lightning_advreg.metrics.gan_features import Features
from lightning_advreg.metrics.gan_neighbours import distances


class PrecisionRecallDensityCoverage(GenerationMetric):
    """Fidelity and variety, told apart, by balls around images that reach to their k-th nearest neighbours.

    With ``B(a)`` the closed ball around image ``a`` with the distance to the k-th nearest other image of its own kind
    as radius:

    - ``precision``: the share of generated images in the ball of some real image (Kynkäänniemi et al. 2019, eq. 2).
    - ``recall``: the share of real images in the ball of some generated image (the same with the kinds exchanged).
    - ``density``: in how many balls of real images a generated image lies, by k, on average (Naeem et al. 2020, section
      3); may be above 1, and does not count one outlier's large ball as much.
    - ``coverage``: the share of real images whose ball holds a generated image (the same).

    Compare figures of equally many images. States hold all features, joined over processes; distances are computed a
    thousand images at a time.

    Args:
        neighbours: k; 3 in the one paper, 5 in the other.

    Raises:
        ValueError: If ``neighbours`` is below 1.

    Example:
        >>> metric = PrecisionRecallDensityCoverage(neighbours=1)
        >>> metric.update(Features(torch.tensor([[0.0], [1.0], [9.0], [10.0]])), "real")
        >>> metric.update(Features(torch.tensor([[0.0], [0.5], [1.0], [5.0]])), "generated")
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'precision': 0.75, 'recall': 0.75, 'density': 1.5, 'coverage': 0.5}
    """

    higher_is_better = True
    name = "precision"

    def __init__(self, neighbours: int = 5) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}.")
        super().__init__()
        self.neighbours = neighbours
        for origin in self.origins:
            self.add_state(f"{origin}_features", [], dist_reduce_fx="cat")

    def update(self, seen: Features, origin: Origin) -> None:
        """Keep the features of a batch, of real or generated images."""
        self._check_origin(origin)
        getattr(self, f"{origin}_features").append(seen.features.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Give ``precision``, ``recall``, ``density`` and ``coverage``, float64 scalars.

        Raises:
            ValueError: If there are not more than ``neighbours`` images of each kind.
        """
        real, generated = (joined(self, f"{origin}_features") for origin in self.origins)
        if min(len(real), len(generated)) <= self.neighbours:
            raise ValueError(
                f"neighbours={self.neighbours} needs more images of each kind, got {len(real)} real and "
                f"{len(generated)} generated ones; give more, or lower neighbours."
            )
        reach, generated_reach = _reach(real, self.neighbours), _reach(generated, self.neighbours)
        in_balls, recalled, covered = [], [], torch.zeros_like(reach, dtype=torch.bool)
        for part in distances(generated, real):
            inside = part <= reach
            in_balls.append(inside.sum(1))
            covered |= inside.any(0)
        recalled = [(part <= generated_reach).any(1) for part in distances(real, generated)]
        balls = torch.cat(in_balls).double()
        return {
            "precision": (balls > 0).double().mean(),
            "recall": torch.cat(recalled).double().mean(),
            "density": balls.mean() / self.neighbours,
            "coverage": covered.double().mean(),
        }


def _reach(points: Tensor, neighbours: int) -> Tensor:
    """Give the distance of each point to its k-th nearest other point, shape ``(N,)``."""
    reach, first = [], 0
    for part in distances(points, points):
        rows = torch.arange(len(part), device=part.device)
        # a point is no neighbour of its own; its twins are
        part[rows, first + rows] = torch.inf
        reach.append(part.kthvalue(neighbours, dim=1).values)
        first += len(part)
    return torch.cat(reach)

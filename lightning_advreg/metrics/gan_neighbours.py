"""Distances to nearest neighbours, in pieces that fit into memory."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, joined
from lightning_advreg.metrics.gan_features import Features

_ROWS = 1000


class NearestNeighbours(GenerationMetric):
    """Whether generated images are copies of training images.

    For each generated image the distance to the nearest training image, compared with the same of held-out real images,
    which show how near a new image of the same kind comes by chance:

    - ``nearest_ratio``: the median of the generated images by that of the held-out ones. Far below 1 means copies.
    - ``nearest_share``: the share of generated images that are nearer than the nearest 1 % of the held-out ones: 0.01
      is what new images have.

    Distances are Euclidean, in the features of the extractor; :class:`PixelFeatures` makes them those of pixels, in
    which a copy shifted by a pixel is none. Compare Meehan et al. (2020). States hold all features.

    Args:
        percentile: The share of held-out images below whose distance a generated one counts as near, in (0, 1).

    Raises:
        ValueError: If ``percentile`` is out of its range.

    Example:
        >>> nearest = NearestNeighbours(percentile=0.5)
        >>> train = torch.tensor([[0.0], [10.0]])
        >>> nearest.update(Features(train), "train")
        >>> nearest.update(Features(train + 2), "held_out")
        >>> nearest.update(Features(train + 1), "generated")
        >>> {name: value.item() for name, value in nearest.compute().items()}
        {'nearest_ratio': 0.5, 'nearest_share': 1.0}
    """

    name = "nearest"
    origins = ("train", "held_out", "generated")

    def __init__(self, percentile: float = 0.01) -> None:
        if not 0 < percentile < 1:
            raise ValueError(f"percentile must be between 0 and 1, got {percentile}.")
        super().__init__()
        self.percentile = percentile
        for origin in self.origins:
            self.add_state(f"{origin}_features", [], dist_reduce_fx="cat")

    def update(self, seen: Features, origin: Origin) -> None:
        """Keep the features of a batch."""
        self._check_origin(origin)
        getattr(self, f"{origin}_features").append(seen.features.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Give ``nearest_ratio`` and ``nearest_share``, float64 scalars.

        Raises:
            ValueError: If there are no images of one origin.
        """
        train, held_out, generated = (joined(self, f"{origin}_features") for origin in self.origins)
        for origin, features in zip(self.origins, (train, held_out, generated), strict=True):
            if len(features) == 0:
                raise ValueError(f"NearestNeighbours has seen no images of the origin {origin!r}; give it some.")
        chance = torch.cat([rows.amin(1) for rows in distances(held_out, train)])
        found = torch.cat([rows.amin(1) for rows in distances(generated, train)])
        near = (found < chance.quantile(self.percentile)).double().mean()
        return {"nearest_ratio": found.quantile(0.5) / chance.quantile(0.5), "nearest_share": near}


def distances(queries: Tensor, points: Tensor) -> Iterator[Tensor]:
    """Give Euclidean distances ``(rows, M)`` of queries ``(N, F)`` to points ``(M, F)``, a thousand queries at a time.

    In float64, in which the fast way by inner products is exact to about eight digits even for neighbours.

    Example:
        >>> [part.tolist() for part in distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))]
        [[[5.0]]]
    """
    points = points.double()
    for part in queries.double().split(_ROWS):
        yield torch.cdist(part, points, compute_mode="use_mm_for_euclid_dist")

"""The kernel distance between real and generated images."""

from typing import ClassVar

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, joined
from lightning_advreg.metrics.gan_features import Features


class KernelDistance(GenerationMetric):
    """The squared maximum mean discrepancy of features, with a polynomial kernel, unbiased.

    ``k(a, b) = (a . b / F + 1)^3``, over ``subsets`` random subsets of both kinds of images, of which mean
    (``kernel``) and standard deviation (``kernel_std``) are given; the mean may be below 0. In the features of the
    Inception network it is called KID (Bińkowski et al. 2018). Unlike the Fréchet distance its expected value does not
    depend on the number of images. The arithmetic is that of torchmetrics, in float64.

    The state holds all features, joined over processes.

    Args:
        subsets: How many subsets.
        subset_size: How many images of each kind in a subset; all of them where there are fewer.
        degree: Of the polynomial.
        seed: Of the choice of subsets.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> distance = KernelDistance(subsets=1)
        >>> distance.update(Features(torch.zeros(3, 2)), "real")
        >>> distance.update(Features(torch.ones(3, 2)), "generated")
        >>> distance.compute()["kernel"].item()  # 1 + 2^3 - 2 * 1
        7.0
    """

    higher_is_better = False
    name = "kernel"
    inception_names: ClassVar[dict[str, str]] = {"kernel": "kid", "kernel_std": "kid_std"}

    def __init__(self, subsets: int = 100, subset_size: int = 1000, degree: int = 3, seed: int = 0) -> None:
        for number, value, least in (("subsets", subsets, 1), ("subset_size", subset_size, 2), ("degree", degree, 1)):
            if value < least:
                raise ValueError(f"{number} must be at least {least}, got {value}.")
        super().__init__()
        self.subsets, self.subset_size, self.degree, self.seed = subsets, subset_size, degree, seed
        for origin in self.origins:
            self.add_state(f"{origin}_features", [], dist_reduce_fx="cat")

    def update(self, seen: Features, origin: Origin) -> None:
        """Keep the features of a batch, of real or generated images."""
        self._check_origin(origin)
        getattr(self, f"{origin}_features").append(seen.features.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Give ``kernel`` and ``kernel_std``, float64 scalars.

        Raises:
            ValueError: If there are fewer than two real or generated images.
        """
        real, generated = (joined(self, f"{origin}_features").double() for origin in self.origins)
        size = min(self.subset_size, len(real), len(generated))
        if size < 2:
            raise ValueError(
                f"the kernel distance needs at least two images of each kind, got {len(real)} real and "
                f"{len(generated)} generated ones."
            )
        # on the CPU, so that every device chooses the same subsets
        stream = torch.Generator().manual_seed(self.seed)
        values = torch.stack(
            [
                poly_mmd(_choose(real, size, stream), _choose(generated, size, stream), self.degree)
                for _ in range(self.subsets)
            ]
        )
        return {"kernel": values.mean(), "kernel_std": values.std(correction=0)}


def _choose(features: Tensor, size: int, stream: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=stream)[:size].to(features.device)]

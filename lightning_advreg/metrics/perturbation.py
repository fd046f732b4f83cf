"""How large the perturbations are that an attack needs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_advreg.attacks import Norm, ball
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.attacks.threat import check_norm
from lightning_advreg.checks import check_types
from lightning_advreg.metrics.inputs import check_mask


class PerturbationSize(Metric):
    """Statistics of the distances between images and their adversarial examples, for minimal-norm attacks.

    The mean, quantiles, minimum and maximum are over the images for which the attack found an adversarial example. An
    attack that gives up on hard images makes these look small, so ``median_all`` is over all images, with an infinite
    distance where nothing was found: the median perturbation that papers report (Brendel et al. 2019, table 1).

    The state is the distance of every image, float32, concatenated over batches and processes, on the metric's device.
    An update does not wait for the device.

    Args:
        norm: The norm in which distances are measured: ``linf``, ``l2`` or ``l1``.
        quantiles: Which quantiles to give, each in [0, 1]: 0.25 by the name ``q25``, and 0.5 by the name ``median``.

    Attributes:
        norm: The norm.
        quantiles: The quantiles by name.
        sizes: Distances so far, one tensor of shape ``(N,)`` per batch; infinite where nothing was found.

    Raises:
        ValueError: If the norm is unknown, or a quantile is outside [0, 1] or repeats.

    Example:
        >>> size = PerturbationSize("linf", quantiles=(0.5,))
        >>> x = torch.zeros(3, 1, 2, 2)
        >>> x_adv = x + torch.tensor([0.25, 0.5, 1.0]).view(3, 1, 1, 1)
        >>> size.update(x, x_adv, found=torch.tensor([True, True, False]))
        >>> {name: round(value.item(), 4) for name, value in size.compute().items()}
        {'mean': 0.375, 'median': 0.375, 'min': 0.25, 'max': 0.5, 'median_all': 0.5, 'found': 2, 'total': 3}
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None

    sizes: list[Tensor] | Tensor

    def __init__(self, norm: Norm, quantiles: Sequence[float] = (0.25, 0.5, 0.75)) -> None:
        check_norm(norm)
        if not all(0 <= q <= 1 for q in quantiles) or len(set(quantiles)) < len(quantiles):
            raise ValueError(f"quantiles must be distinct numbers in [0, 1], such as 0.25, got {tuple(quantiles)}.")
        super().__init__()
        self.norm = norm
        self.quantiles = {"median" if q == 0.5 else f"q{100 * q:g}": float(q) for q in quantiles}
        self.add_state("sizes", [], dist_reduce_fx="cat")

    def update(self, x: Tensor, x_adv: Tensor, found: Tensor) -> None:
        """Measure a batch.

        Args:
            x: Images, floating point, of shape ``(N, ...)``.
            x_adv: Their adversarial examples, of the shape of ``x``; anything where none was found.
            found: For which images one was found, bool of shape ``(N,)``.

        Raises:
            TypeError: If images are not floating point.
            ValueError: If shapes disagree, or ``found`` is not a bool mask.
        """
        check_types(x)
        check_types(x_adv)
        if x_adv.shape != x.shape:
            raise ValueError(f"x and x_adv must have one shape, got {tuple(x.shape)} and {tuple(x_adv.shape)}.")
        check_mask("found", found, len(x))
        distance = ball(self.norm, working_precision(x), 0.0).distance(working_precision(x_adv)).float()
        # a list already, except inside a synchronisation, where torchmetrics refuses updates
        assert isinstance(self.sizes, list)
        self.sizes.append(torch.where(found, distance.detach(), torch.inf))

    def compute(self) -> dict[str, Tensor]:
        """Give the statistics by name.

        Returns:
            Float32 scalars ``mean``, ``min``, ``max`` and the quantiles over images for which an example was found, NaN
            if there are none; ``median_all`` over all images, NaN if there are none; and the numbers of images
            ``found`` and ``total``, int64 scalars.
        """
        sizes = self.sizes
        if not isinstance(sizes, Tensor):
            sizes = torch.cat([torch.empty(0, device=self.device), *sizes])
        found = sizes[~sizes.isposinf()]
        # statistics of nothing are those of one NaN
        of = found if len(found) else sizes.new_full((1,), torch.nan)
        return {
            "mean": of.mean(),
            **{name: of.quantile(q) for name, q in self.quantiles.items()},
            "min": of.min(),
            "max": of.max(),
            "median_all": _median(sizes),
            "found": torch.tensor(len(found), device=sizes.device),
            "total": torch.tensor(len(sizes), device=sizes.device),
        }


def _median(sizes: Tensor) -> Tensor:
    """Give the median; unlike the quantile of torch, it is infinite, not NaN, where both middle values are."""
    if len(sizes) == 0:
        return sizes.new_full((), torch.nan)
    ordered = sizes.sort().values
    return (ordered[(len(sizes) - 1) // 2] + ordered[len(sizes) // 2]) / 2

"""The Fréchet distance of each class."""

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, of_size
from lightning_advreg.metrics.gan_features import Features
from lightning_advreg.metrics.gan_frechet import frechet_distance, moments_of


class ClasswiseFrechetDistance(GenerationMetric):
    """The Fréchet distance between the real and the generated images of each class.

    It shows which class a conditional generator makes badly, and, unlike the distance over all classes, it sees a class
    that is made of another's images. Classes are the labels; where generated images have none, they are what the
    classifier takes them for. Compare the intra-FID of Miyato and Koyama (2018).

    States are sums in float64, of ``F * F`` numbers for each class: 8 MB for ten classes of 320 features, but 33 GB for
    a thousand of 2048.

    Example:
        >>> distance = ClasswiseFrechetDistance()
        >>> x, y = torch.tensor([[0.0], [2.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1])
        >>> distance.update(Features(x, torch.zeros(4, 2), y), "real")
        >>> distance.update(Features(x + y[:, None], torch.zeros(4, 2), y), "generated")
        >>> {name: round(value.item(), 4) for name, value in distance.compute().items()}
        {'frechet_classwise': 0.5, 'frechet_class_0': 0.0, 'frechet_class_1': 1.0}
    """

    higher_is_better = False
    name = "frechet_classwise"
    needs_logits = True
    real_count: Tensor
    real_sum: Tensor
    generated_count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for origin in self.origins:
            self.add_state(f"{origin}_count", torch.zeros(0, dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state(f"{origin}_sum", torch.zeros(0, 0, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{origin}_outer", torch.zeros(0, 0, 0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, seen: Features, origin: Origin) -> None:
        """Add the features of a batch, each to those of its class."""
        self._check_origin(origin)
        logits = self._logits(seen)
        labels = logits.argmax(1) if seen.labels is None else seen.labels.long()
        classes, x = logits.shape[1], seen.features.detach().double()
        size = x.shape[1]
        belongs = torch.nn.functional.one_hot(labels, classes).double()
        outer = torch.stack([x.T @ (x * belongs[:, k, None]) for k in range(classes)])
        for part, shape, more in (
            ("count", (classes,), belongs.sum(0).long()),
            ("sum", (classes, size), belongs.T @ x),
            ("outer", (classes, size, size), outer),
        ):
            setattr(self, f"{origin}_{part}", of_size(getattr(self, f"{origin}_{part}"), *shape) + more)

    def compute(self) -> dict[str, Tensor]:
        """Give the mean over classes and the distance of each class ``k`` as ``frechet_class_<k>``, in float64.

        A class with fewer than two real or generated images has NaN, and is left out of the mean.

        Raises:
            ValueError: If there are no real or no generated images at all.
        """
        if min(self.real_count.numel(), self.generated_count.numel()) == 0:
            raise ValueError(
                "ClasswiseFrechetDistance has seen no images of one kind; give it real and generated ones."
            )
        count, other_count = self.real_count.tolist(), self.generated_count.tolist()
        distances = []
        for k, enough in enumerate(min(a, b) >= 2 for a, b in zip(count, other_count, strict=True)):
            moments: list[Tensor] = []
            for origin in self.origins if enough else ():
                moments += moments_of(*(getattr(self, f"{origin}_{part}")[k] for part in ("count", "sum", "outer")))
            distances.append(frechet_distance(*moments) if enough else self.real_sum.new_full((), torch.nan))
        values = torch.stack(distances)
        return {"frechet_classwise": values.nanmean(), **{f"frechet_class_{k}": v for k, v in enumerate(values)}}

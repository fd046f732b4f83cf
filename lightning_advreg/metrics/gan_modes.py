"""Which classes a generator makes, and whether it makes those that it is asked for."""

from typing import Literal

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, of_size
from lightning_advreg.metrics.gan_features import Features


class ModeCount(GenerationMetric):
    """How many classes are among the generated images, and how evenly, as a classifier sees them.

    With the share ``p_k`` of generated images whose largest logit is that of class ``k``, ``modes`` is the number of
    classes that occur, and ``mode_kl`` is ``sum_k p_k log(p_k / q_k)`` in nats (Che et al. 2017 and Srivastava et al.
    2017, for the 1000 classes of stacked MNIST). A generator that makes one class of ``K`` evenly spread ones has
    ``log K``. The classifier's own errors bound what this is worth.

    Args:
        against: What ``q`` is: ``"uniform"``, or ``"real"`` for the shares of the classes among the real images: of
            their labels, or as the classifier sees them where they have none.
        at_least: How many images make a class occur.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> modes = ModeCount()
        >>> modes.update(Features(torch.zeros(4, 1), logits=torch.eye(4)[[0, 0, 1, 1]]), "generated")
        >>> {name: round(value.item(), 4) for name, value in modes.compute().items()}
        {'modes': 2, 'mode_kl': 0.6931}
    """

    name = "modes"
    needs_logits = True
    generated_counts: Tensor
    real_counts: Tensor

    def __init__(self, against: Literal["uniform", "real"] = "uniform", at_least: int = 1) -> None:
        if against not in ("uniform", "real"):
            raise ValueError(f"against must be 'uniform' or 'real', got {against!r}.")
        if at_least < 1:
            raise ValueError(f"at_least must be at least 1, got {at_least}.")
        super().__init__()
        self.against, self.at_least = against, at_least
        self.origins = ("generated",) if against == "uniform" else ("real", "generated")
        for origin in self.origins:
            self.add_state(f"{origin}_counts", torch.zeros(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, seen: Features, origin: Origin) -> None:
        """Count the classes of a batch."""
        self._check_origin(origin)
        logits = self._logits(seen)
        classes = logits.argmax(1) if origin == "generated" or seen.labels is None else seen.labels.long()
        counts = of_size(getattr(self, f"{origin}_counts"), logits.shape[1])
        setattr(self, f"{origin}_counts", counts.index_add(0, classes, torch.ones_like(classes)))

    def compute(self) -> dict[str, Tensor]:
        """Give ``modes``, an int64 scalar, and ``mode_kl``, a float64 one, infinite where a class is new.

        Raises:
            ValueError: If there are no images.
        """
        for origin in self.origins:
            if getattr(self, f"{origin}_counts").numel() == 0:
                raise ValueError(f"ModeCount has seen no {origin} images; give it some.")
        counts = self.generated_counts
        p = counts.double() / counts.sum()
        q = torch.full_like(p, 1 / max(len(p), 1))
        if self.against == "real":
            q = self.real_counts.double() / self.real_counts.sum()
        divergence = torch.special.xlogy(p, p).sum() - torch.special.xlogy(p, q).sum()
        return {"modes": (counts >= self.at_least).sum(), "mode_kl": divergence}


class ClassAccuracy(GenerationMetric):
    """The share of generated images that a classifier recognises as the class they were asked for.

    Its complement holds the errors of the classifier too: compare with its accuracy on real images. A generator that
    makes one perfect image per class has 1 (so look at :class:`PrecisionRecallDensityCoverage` as well). Compare the
    classification accuracy score of Ravuri and Vinyals (2019), which trains on the generated images instead.

    Example:
        >>> accuracy = ClassAccuracy()
        >>> accuracy.update(Features(torch.zeros(2, 1), torch.eye(2), torch.tensor([0, 0])), "generated")
        >>> accuracy.compute().item()
        0.5
    """

    higher_is_better = True
    name = "class_accuracy"
    origins = ("generated",)
    needs_logits = True
    needs_labels = True
    generated_correct: Tensor
    generated_total: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("generated_correct", "generated_total"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, seen: Features, origin: Origin) -> None:
        """Count the images of a batch that are of their class."""
        self._check_origin(origin)
        logits = self._logits(seen)
        if seen.labels is None:
            raise ValueError("ClassAccuracy needs the classes that images were asked for; use a conditional generator.")
        self.generated_correct = self.generated_correct + (logits.argmax(1) == seen.labels).sum()
        self.generated_total = self.generated_total + len(logits)

    def compute(self) -> Tensor:
        """Give the share, a float64 scalar; NaN if there are no images."""
        return self.generated_correct.double() / self.generated_total

"""How clear and how varied generated images are, to a classifier."""

from typing import ClassVar

import torch
from torch import Tensor

from lightning_advreg.metrics.gan_base import GenerationMetric, Origin, joined
from lightning_advreg.metrics.gan_features import Features


class InceptionScore(GenerationMetric):
    """``exp E_x KL(p(y|x) || p(y))`` of a classifier's predictions on generated images (Salimans et al. 2016).

    Between 1 and the number of classes: high where each image is clear and the classes are even. It looks at no real
    image, and sees no lack of variety within a class. Mean (``score``) and standard deviation (``score_std``) are over
    ``splits`` parts of the images, shuffled first. Only with the Inception network is it called ``inception_score``.

    The state holds all logits, joined over processes.

    Args:
        splits: Into how many parts images are split; 1 or more.
        seed: Of the order of the images.

    Raises:
        ValueError: If ``splits`` is below 1.

    Example:
        >>> score = InceptionScore(splits=1)
        >>> score.update(Features(torch.zeros(4, 1), logits=100 * torch.eye(4)), "generated")
        >>> round(score.compute()["score"].item(), 4)
        4.0
    """

    higher_is_better = True
    name = "score"
    inception_names: ClassVar[dict[str, str]] = {"score": "inception_score", "score_std": "inception_score_std"}
    origins = ("generated",)
    needs_logits = True
    generated_logits: list[Tensor]

    def __init__(self, splits: int = 10, seed: int = 0) -> None:
        if splits < 1:
            raise ValueError(f"splits must be at least 1, got {splits}.")
        super().__init__()
        self.splits, self.seed = splits, seed
        self.add_state("generated_logits", [], dist_reduce_fx="cat")

    def update(self, seen: Features, origin: Origin) -> None:
        """Keep the logits of a batch of generated images."""
        self._check_origin(origin)
        self.generated_logits.append(self._logits(seen).detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Give ``score`` and ``score_std``, float64 scalars.

        Raises:
            ValueError: If there are fewer images than splits.
        """
        logits = joined(self, "generated_logits").double()
        if len(logits) < self.splits:
            raise ValueError(
                f"{self.splits} splits need as many images, got {len(logits)}; give more, or set splits=1."
            )
        # processes see different classes of a conditional generator, so that parts in order would not be alike
        order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(self.seed))
        scores = []
        for part in logits[order.to(logits.device)].log_softmax(1).tensor_split(self.splits):
            marginal = part.logsumexp(0) - torch.tensor(len(part)).log()
            scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
        values = torch.stack(scores)
        return {"score": values.mean(), "score_std": values.std(correction=0)}

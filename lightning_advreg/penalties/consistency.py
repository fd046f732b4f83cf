"""A soft limit on how predictions differ between views of an image."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lightning_advreg.augmentations import Augmentation, AugMix
from lightning_advreg.penalties.base import Coefficient, Penalty, as_coefficient
from lightning_advreg.penalties.training_pass import TrainingPass, logits_of


@dataclass(frozen=True)
class JensenShannon(Penalty):
    """The Jensen-Shannon consistency of AugMix, ``weight * mean_n JS(p(x); p(a(x)); p(a'(x)))``.

    Hendrycks et al. (2020, eq. 3 and 4): ``JS = (KL[p || M] + KL[p' || M] + KL[p'' || M]) / 3`` in nats, where ``M`` is
    the mean of the three predictions. The loss beside it is that of the image as it is. In a training step it takes the
    logits that the loss is computed from, of attacked images in adversarial training, and one pass more, over both
    views. BatchNorm normalises these among themselves, and its running statistics follow the pass of the loss.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. 12 in the paper.
        augmentation: What makes the two views; None for ``AugMix()``. It must not mix labels.

    Raises:
        ValueError: If ``weight`` is negative, or the augmentation mixes labels.

    Example:
        >>> from lightning_advreg.augmentations import InputNoise
        >>> net, x = nn.Flatten(), torch.rand(4, 1, 1, 2)
        >>> abs(JensenShannon(12.0, augmentation=InputNoise(std=0))(net, x).item()) < 1e-4
        True
    """

    on_images = True

    weight: Coefficient
    _: KW_ONLY
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))
        if self.augmentation is not None and self.augmentation.mixes_labels:
            raise ValueError(
                f"augmentation must leave labels as they are, got {self.augmentation!r}; images of two classes need "
                "not be seen as either."
            )

    def __call__(self, model: nn.Module, x: Tensor, *, epoch: float = math.inf) -> Tensor:
        """Give the penalty of a batch, with passes of its own.

        Args:
            model: From images to logits.
            x: Images ``(N, C, H, W)`` in [0, 1].
            epoch: The epoch whose coefficient counts.
        """
        return self.weigh(self.terms_of(TrainingPass(model, x)), epoch).value

    def terms_of(self, training_pass: TrainingPass) -> tuple[Tensor, ...]:
        """Give the raw term of a training step."""
        logits = training_pass.logits()
        x = training_pass.images().detach()
        augmentation = AugMix() if self.augmentation is None else self.augmentation
        labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        with torch.no_grad():
            views = torch.cat([augmentation(x, labels)[0] for _ in range(2)])
        return (jensen_shannon([logits, *logits_of(training_pass.network, views).chunk(2)]),)


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """Give the Jensen-Shannon divergence of several predictions, the mean over images, in nats.

    Args:
        logits: Logits ``(N, K)`` of each view.

    Returns:
        A scalar in [0, log V], for V views.

    Example:
        >>> sure = torch.tensor([[100.0, 0.0]])
        >>> round(jensen_shannon([sure, -sure]).item(), 4)  # log 2
        0.6931
    """
    views = torch.stack(list(logits))
    log_p = views.to(torch.promote_types(views.dtype, torch.float32)).log_softmax(-1)
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - log_mean)).sum(-1).mean()

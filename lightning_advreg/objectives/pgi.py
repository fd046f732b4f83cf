"""FGSM from the perturbations of the batch before."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.attacks import Model, ball
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.objectives.single_step import StartedObjective
from lightning_advreg.values import Number, to_float


class PGI(StartedObjective):
    """Prior-guided initialisation of FGSM, from the batch before: FGSM-BP with its regulariser (Jia et al. 2022).

    With ``delta`` the perturbations that the batch before ended with, row by row::

        s      = P(x + delta)
        x_adv  = P(s + eps * sign(grad_s CE(f(s), y))),  and next time delta = x_adv - x
        loss   = CE(f(x_adv), y) + weight * mean (f(x_adv) - f(s))^2

    with the mean over the batch and the logits, as in the authors' code. The first batch starts at random corners of
    the ball, ``x + eps * b`` with entries -1 or 1 of b; so do the rows by which a batch is larger than those before. A
    smaller batch, such as the last of an epoch, uses and replaces the first rows, and the others wait.

    The paper's FGSM-EP and FGSM-MEP start each image at its own perturbation of the epoch before; FGSM-MEP moves it by
    the momentum of that image's gradients. Both need to know which image a row is: an index in every batch, a tensor of
    the size of the training set, and the perturbation cropped and flipped as the image is. Rows of a batch have no
    identity, so that a momentum along them would add gradients of unrelated images; there is none.

    Of the attack only ``radius`` and ``model_mode`` are used. With ``FGSM(model_mode="batch_stats")`` the step is taken
    in training mode as in the authors' code, and a batch takes two forward passes; with mode ``eval``, the default of
    attacks, it takes three. Where several processes train, DDP gives all of them the perturbations of the first.

    Args:
        weight: The weight of the squared distance of the logits.
        label_smoothing: The share of each label spread evenly over all classes, in [0, 1), in the step and in the loss.
            The authors' code gives 0.4 to the wrong classes: here that is 0.4 K / (K - 1), 4/9 for ten classes.

    Raises:
        TypeError: If the attack has no radius.
        ValueError: If an argument is out of its range, or the attack's norm is not linf.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
        >>> objective = PGI()
        >>> for _ in range(2):  # the second step starts where the first one ended
        ...     output = objective(torch.nn.Flatten(), x, y, FGSM(eps=0.25))
        >>> objective.prior
        tensor([[[[-0.2500,  0.2500]]]])
    """

    prior: Tensor
    """The perturbations delta ``(N, C, H, W)`` in pixel units; empty before the first batch."""

    def __init__(self, *, weight: Number = 10.0, label_smoothing: Number = 0.0) -> None:
        super().__init__()
        self.weight = to_float(weight, "weight", minimum=0)
        self.label_smoothing = to_float(label_smoothing, "label_smoothing", minimum=0, below=1)
        self.register_buffer("prior", torch.empty(0))

    @property
    def strength(self) -> float:
        """The weight."""
        return self.weight

    def start(self, model: Model, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Give the images moved by the perturbations of the batch before."""
        images = working_precision(x)
        delta = self._rows(images)[: len(x)]
        corners = eps * (2 * torch.empty_like(images[len(delta) :]).bernoulli_() - 1)
        # eps may have changed, and the box is another image's
        return round_towards(ball("linf", images, eps).project(images + torch.cat([delta, corners])), x)

    def remember(self, x: Tensor, x_adv: Tensor) -> None:
        """Keep the perturbations for the next batch."""
        delta = working_precision(x_adv) - working_precision(x)
        self.prior = torch.cat([delta, self._rows(delta)[len(x) :]])

    def labels(self, y: Tensor, logits: Tensor) -> Tensor:
        """Give labels smoothed evenly."""
        classes = logits.shape[1]
        return F.one_hot(y, classes).to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / classes

    def distance(self, logits_start: Tensor, logits_adv: Tensor) -> Tensor:
        """Give the mean squared difference of the logits."""
        return F.mse_loss(logits_adv, logits_start)

    def _rows(self, images: Tensor) -> Tensor:
        """Give the perturbations in the dtype and on the device of images; none, if those have another shape."""
        return self.prior.to(images) if self.prior.shape[1:] == images.shape[1:] else images[:0]

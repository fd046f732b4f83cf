"""Label information elimination."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks import Model, borrowed
from lightning_advreg.attacks.objective import input_gradient
from lightning_advreg.attacks.precision import round_towards, working_precision
from lightning_advreg.attacks.threat import spread
from lightning_advreg.objectives.single_step import StartedObjective
from lightning_advreg.values import Number, to_float


class LIET(StartedObjective):
    """FGSM from a start that holds what one class has in common, and a loss that holds start and end together.

    "Mitigating Catastrophic Overfitting in Fast Adversarial Training via Label Information Elimination" (Pan et al.,
    ICCV 2025), after the authors' code. At an image without content the network betrays which pattern it takes for a
    class k::

        u_k    = sign(grad_g CE(f(g), t_k))  at the grey image g = 1/2, in eval mode, every ``refresh_every`` batches
        s      = clip(x + eps * m),  m = c * u_y with c = -1 or 1 at random for each image, and a share of the entries
                 of m replaced by U(-1, 1); the share is drawn for each batch from U(noise_min, noise_max)
        x_adv  = P(s + eps * sign(grad_s CE(f(s), t)))
        loss   = CE(f(x_adv), t') + lambda * JS(p(s), p(x_adv))

    with ``p`` the softmax and ``JS(p, q) = (KL(p || m) + KL(q || m)) / 2`` at ``m = (p + q) / 2``, in nats. All labels
    ``t`` are soft: ``1 - label_smoothing`` for the label, and the rest spread over the wrong classes at random, anew
    for each use. ``lambda`` rises linearly from 0 to ``weight`` over training; outside of a trainer it is ``weight``,
    and the pattern ``u`` is refreshed at every call.

    The authors draw one sign c for a batch. Above eps 8/255 they draw the noise from ``U(-2 eps, 2 eps)`` and do not
    project; here attacked images are within eps always. They train CIFAR-100 with a weight of 200 and a smoothing of
    0.8, and larger eps with a weight of 20, a smoothing of 0.4 and shares from 0 to 1.

    Of the attack only ``radius`` and ``model_mode`` are used. With ``FGSM(model_mode="batch_stats")`` the step is taken
    in training mode as in the authors' code, and a batch takes two forward passes; with mode ``eval``, the default of
    attacks, it takes three. Refreshing takes a pass over one grey image per class, and the first one also counts them.

    Args:
        weight: The value of ``lambda`` at the end of training.
        label_smoothing: The share of each label that the wrong classes get, in [0, 1).
        noise_min: The smallest share of noise in the start, in [0, 1].
        noise_max: The largest share, in [noise_min, 1].
        refresh_every: The number of batches between refreshments of the pattern, at least 1.

    Raises:
        TypeError: If the attack has no radius.
        ValueError: If an argument is out of its range, or the attack's norm is not linf.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
        >>> objective = LIET(label_smoothing=0)
        >>> output = objective(torch.nn.Flatten(), x, y, FGSM(eps="8/255"))
        >>> objective.pattern[0].flatten()  # away from class 0, towards the others
        tensor([-1,  1,  1,  1], dtype=torch.int8)
    """

    pattern: Tensor
    """The signs u ``(K, C, H, W)``, int8; empty before the first batch."""

    def __init__(
        self,
        *,
        weight: Number = 100.0,
        label_smoothing: Number = 0.6,
        noise_min: Number = 0.1,
        noise_max: Number = 0.5,
        refresh_every: int = 20,
    ) -> None:
        super().__init__()
        self.weight = to_float(weight, "weight", minimum=0)
        self.label_smoothing = to_float(label_smoothing, "label_smoothing", minimum=0, below=1)
        self.noise_min = to_float(noise_min, "noise_min", minimum=0, maximum=1)
        self.noise_max = to_float(noise_max, "noise_max", minimum=self.noise_min, maximum=1)
        if isinstance(refresh_every, bool) or not isinstance(refresh_every, int) or refresh_every < 1:
            raise ValueError(f"refresh_every must be an integer of at least 1, got {refresh_every!r}.")
        self.refresh_every = refresh_every
        self.register_buffer("pattern", torch.empty(0, dtype=torch.int8))
        self._progress, self._step = 1.0, 0

    def during(self, progress: float, step: int) -> Self:
        """Give the objective for a moment of training; it shares the pattern with this one."""
        moment = copy.copy(self)
        moment._progress, moment._step = progress, step
        return moment

    @property
    def strength(self) -> float:
        """The ``lambda`` of the moment."""
        return self.weight * self._progress

    def start(self, model: Model, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Give the images moved by the pattern of their class and by noise."""
        if self._step % self.refresh_every == 0 or self.pattern.shape[1:] != x.shape[1:]:
            # eval mode: equal images have no variance, by which BatchNorm would divide
            with borrowed(model, "eval"):
                self.pattern = self._signs_at_grey(model, x, len(self.pattern) or 1)
        images = working_precision(x)
        side = 2 * torch.empty_like(images[:, 0]).flatten(1)[:, 0].bernoulli_() - 1
        moved = spread(side, images) * self.pattern.to(x.device)[y]
        share = self.noise_min + (self.noise_max - self.noise_min) * torch.rand((), device=x.device)
        replaced = torch.rand_like(images) < share
        moved = torch.where(replaced, 2 * torch.rand_like(images) - 1, moved)
        return round_towards((images + eps * moved).clamp(0, 1), x)

    def labels(self, y: Tensor, logits: Tensor) -> Tensor:
        """Give soft labels whose wrong classes have random shares."""
        # with two classes a draw of exactly 0 would be divided by itself
        shares = torch.rand_like(logits).clamp(min=1e-6).scatter(1, y.unsqueeze(1), 0.0)
        wrong = self.label_smoothing * shares / shares.sum(1, keepdim=True)
        return wrong.scatter(1, y.unsqueeze(1), 1 - self.label_smoothing)

    def distance(self, logits_start: Tensor, logits_adv: Tensor) -> Tensor:
        """Give the Jensen-Shannon divergence of the probabilities, the mean over the batch."""
        log_p, log_q = logits_start.log_softmax(1), logits_adv.log_softmax(1)
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        from_p = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
        from_q = F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
        return 0.5 * (from_p + from_q)

    def _signs_at_grey(self, model: Model, x: Tensor, classes: int) -> Tensor:
        grey = x.new_full((classes, *x.shape[1:]), 0.5).requires_grad_()
        logits = working_precision(model(grey))
        if logits.shape[1] != classes:
            # the network tells how many classes there are
            return self._signs_at_grey(model, x, logits.shape[1])
        labels = self.labels(torch.arange(classes, device=x.device), logits)
        return input_gradient(F.cross_entropy(logits, labels, reduction="sum"), grey).sign().to(torch.int8)

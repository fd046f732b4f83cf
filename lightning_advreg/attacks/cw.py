"""The attack of Carlini and Wagner: small L2 perturbations by penalised optimisation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.attacks.base import MinimalAttack
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.survivors import keep_rows
from lightning_advreg.attacks.threat import Norm
from lightning_advreg.values import Number, to_float

_EDGE = 0.9
_LIMIT = math.atanh(_EDGE)
_CHECKS = 10
_PROGRESS = 0.9999
_BETA1, _BETA2, _ADAM_EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class CW(LongAttack, MinimalAttack):
    """Penalised search for the nearest misclassified image in L2 (Carlini & Wagner 2017, section VI).

    For a constant c, Adam minimises ``|x' - x|^2 + c max(kappa - margin(x'), 0)`` over w, where the margin is
    ``max_{j != y} z_j - z_y`` (``z_t - max_{j != t} z_j`` if targeted) and ``x' = 1/2 + tanh(w) / (2 * 0.9)``, with
    tanh(w) kept in [-0.9, 0.9]: so all of the box is reached, and pixels at exactly 0 or 1 have a gradient too. Each
    image has its own constant: ten times larger until a search succeeds, then found by bisection between failure and
    success. The result is the nearest image of all that were misclassified with a margin of at least kappa.

    A search costs ``steps`` passes forward and back, and there are ``binary_search_steps`` of them.

    Args:
        norm: ``l2``, the only one.
        eps: Give up images that need a larger perturbation than this, in pixel units; None accepts any.
        kappa: The least margin between logits, at least 0.
        steps: Steps of each search, at least 1.
        lr: The learning rate of Adam, above 0.
        binary_search_steps: How many constants are tried, at least 1.
        initial_const: The first of them, above 0.
        abort_early: End the search of an image that has gained less than 0.01 % in a tenth of the steps.
        targeted: Treat labels as classes to reach.
        model_mode: How the network runs during the attack.
        seed: Without effect, since nothing is drawn.
        check: Check pixel range and labels at each call.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar with images left and accuracy so far.
        checkpoint: A folder where progress is saved, and from which the same call continues.
        acceleration: How the network is made fast for the search; successes are confirmed on the network itself.

    Raises:
        ValueError: If an argument is out of its range, or the norm is not ``l2``.

    Example:
        >>> model = torch.nn.Flatten()  # the logits are the pixels
        >>> x = torch.tensor([[[[0.6, 0.4]]]])
        >>> x_adv = CW(steps=100)(model, x, torch.tensor([0]))
        >>> round((x_adv - x).norm().item(), 2)  # to (0.5, 0.5)
        0.14
    """

    norm: Norm = "l2"
    kappa: Number = 0.0
    steps: int = 1000
    lr: Number = 0.01
    binary_search_steps: int = 9
    initial_const: Number = 1e-3
    abort_early: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "l2":
            raise ValueError(f"norm must be l2 for CW, got {self.norm!r}; for linf and l1 use FAB, or APGD at an eps.")
        self._normalise("kappa")
        self._normalise("lr")
        self._normalise("initial_const")
        for name in ("lr", "initial_const"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} must be above 0, got 0; the paper takes lr=0.01 and initial_const=1e-3.")
        self._check_counts("steps", "binary_search_steps")

    def _objective(self, model: Model, x: Tensor, y: Tensor) -> InnerObjective:
        return InnerObjective(model, x, y, loss="margin", targeted=self.targeted, check=self.check)

    def minimise(self, objective: InnerObjective, x: Tensor, within: Tensor | None) -> Tensor:
        """Search for the constant of each image, by bisection, with an optimisation for each that is tried."""
        const = x.new_full((len(x),), to_float(self.initial_const, "initial_const"))
        low, high = torch.zeros_like(const), torch.full_like(const, torch.inf)
        nearest, distance = x, torch.full_like(const, torch.inf)
        for _ in range(self.binary_search_steps):
            found, length = self._optimise(objective, x, const)
            hit = objective.confirmed(found, length < torch.inf)
            nearer = hit & (length < distance)
            nearest = torch.where(_like(nearer, x), found, nearest)
            distance = torch.where(nearer, length, distance)
            high, low = torch.where(hit, const, high), torch.where(hit, low, const)
            const = torch.where(high < torch.inf, (low + high) / 2, 10 * const)
        return nearest

    def _optimise(self, objective: InnerObjective, x: Tensor, const: Tensor) -> tuple[Tensor, Tensor]:
        """Minimise for one constant per image.

        Returns:
            The nearest success of each image, and its squared distance, infinite where there is none.
        """
        kappa, lr = to_float(self.kappa, "kappa"), to_float(self.lr, "lr")
        nearest, distance = x.clone(), torch.full_like(const, torch.inf)
        rows = torch.arange(len(x), device=x.device)
        w = ((2 * x - 1) * _EDGE).atanh()
        origin = w.tanh()
        momentum, variance = torch.zeros_like(x), torch.zeros_like(x)
        lowest, before = torch.full_like(const, torch.inf), torch.full_like(const, torch.inf)
        every = max(self.steps // _CHECKS, 1)
        for step in range(1, self.steps + 1):
            t = w.tanh()
            # as a change of x, so that the first one is x itself, without rounding
            x_adv = (x + (t - origin) / (2 * _EDGE)).clamp(0, 1)
            margin, hit, grad = objective.loss_and_gradient(x_adv)
            delta = x_adv - x
            length = delta.square().flatten(1).sum(1)
            better = hit & (margin >= kappa) & (length < distance[rows])
            nearest[rows] = torch.where(_like(better, x), x_adv, nearest[rows])
            distance[rows] = torch.where(better, length, distance[rows])
            lowest = torch.minimum(lowest, length + const * (kappa - margin).clamp(min=0))
            grad = 2 * delta - _like(const * (margin < kappa), x) * grad
            grad = grad * (1 - t.square()) / (2 * _EDGE)
            momentum = _BETA1 * momentum + (1 - _BETA1) * grad
            variance = _BETA2 * variance + (1 - _BETA2) * grad.square()
            size = (variance / (1 - _BETA2**step)).sqrt() + _ADAM_EPS
            w = w - lr / (1 - _BETA1**step) * momentum / size
            w = w.clamp(-_LIMIT, _LIMIT)
            if self.abort_early and step % every == 0 and step < self.steps:
                kept = (lowest < _PROGRESS * before).nonzero().squeeze(1)
                before = lowest
                if len(kept) == 0:
                    break
                if len(kept) < len(rows):
                    objective = objective.select(kept)
                    rows, x, const, origin, w, momentum, variance, lowest, before = (
                        keep_rows(kept, part)
                        for part in (rows, x, const, origin, w, momentum, variance, lowest, before)
                    )
        return nearest, distance


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.dim() - 1))

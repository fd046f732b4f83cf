"""The ensemble of attacks whose accuracy people quote."""

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_advreg.attacks.apgd import APGD
from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.fab import FAB
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.losses import LossName
from lightning_advreg.attacks.model_state import Model, borrowed, logit_variation
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.square import Square
from lightning_advreg.attacks.threat import per_image
from lightning_advreg.values import Number, to_float

Version: TypeAlias = Literal["standard", "plus", "rand", "fast"]
"""Which attacks AutoAttack is made of."""

_VARIATION = 1e-4


@dataclass(frozen=True, kw_only=True)
class AutoAttack(LongAttack):
    """A parameter-free ensemble (Croce & Hein 2020), each attack on the survivors of those before it.

    ``standard``
        APGD on the cross-entropy, APGD-T on the targeted DLR loss towards the 9 likeliest wrong classes, FAB-T towards
        the same, and Square with 5,000 queries: the headline number of robustness tables. For L1 (Croce & Hein 2021)
        APGD restarts 5 times and APGD-T has 5 targets.
    ``fast``
        The first two alone. FAB and Square take most of the time and rarely move the accuracy, so this is for
        development. Its number is an upper bound on that of ``standard``, and must be labelled.
    ``plus``
        5 restarts of APGD on the cross-entropy and on the DLR loss and of FAB, then Square, APGD-T and FAB-T.
    ``rand``
        For models that draw random numbers: APGD on both losses, with gradients and predictions averaged over 20
        passes (expectation over transformation, Athalye et al. 2018). An image counts as misclassified where its mean
        logits are. The original counts single passes, so an image gets a hundred chances to fail by luck there.

    The DLR loss divides by differences of the first three or four logits. With fewer classes the margin loss takes its
    place, and there are as many targets as there are wrong classes; a warning says so. A model whose logits differ
    between two passes gets a warning too, that only ``rand`` measures it.

    Args:
        norm: The norm that bounds the perturbation: ``linf``, ``l2`` or ``l1``.
        eps: The budget in pixel units on [0, 1]; ``8/255`` may be written as text.
        version: Which attacks.
        steps: Steps of every gradient attack. Fewer than 100 are weaker than the published suite.
        queries: Queries of Square. Fewer than 5,000 are weaker than the published suite.
        seed: Of all random numbers; None draws from the default generators.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar for each attack with images left and accuracy so far.
        checkpoint: A folder where progress is saved, and from which the same call continues.
        acceleration: How the network is made fast for the search; successes are confirmed on the network itself.
        targeted: Not available: AutoAttack leaves the label for any other class.
        model_mode: How the network runs during the attack.
        check: Check pixel range and labels.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.rand(8, 1, 2, 2), torch.zeros(8, dtype=torch.long)
        >>> x_adv = AutoAttack(eps="8/255", version="standard", seed=0, steps=10, queries=20)(model, x, y)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    eps: Number = 8 / 255
    version: Version = "standard"
    steps: int = 100
    queries: int = 5000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._normalise_eps()
        self._check_counts("steps", "queries")
        if self.version not in ("standard", "plus", "rand", "fast"):
            raise ValueError(f"version must be standard, plus, rand or fast, got {self.version!r}.")
        if self.targeted:
            raise ValueError("AutoAttack has no targeted mode; use APGD(targeted=True).")

    @property
    def radius(self) -> float:
        """The budget as a float, in pixel units."""
        return to_float(self.eps, "eps")

    @property
    def draws(self) -> int:
        """Passes that are averaged at every point."""
        return 20 if self.version == "rand" else 1

    def scaled(self, factor: float) -> "AutoAttack":
        """Give the same attack with eps multiplied by ``factor`` >= 0."""
        return dataclasses.replace(self, eps=self._scaled_eps(self.radius, factor))

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, eps: Tensor | None = None) -> Tensor:
        """Attack any number of images, as :class:`LongAttack` says."""
        self.warn_if_random(model, x)
        return super().__call__(model, x, y, eps=eps)

    def warn_if_random(self, model: Model, x: Tensor) -> None:
        """Warn of a model whose logits differ between two passes, unless this is the version for such models."""
        if self.version == "rand":
            return
        with borrowed(model, self.model_mode):
            variation = logit_variation(model, x[:8])
        if variation > _VARIATION:
            warnings.warn(
                f"the model's logits differ by up to {variation:.2g} between two passes over the same images, so it "
                f"draws random numbers, and AutoAttack(version={self.version!r}) overstates its accuracy; use "
                "version='rand'.",
                stacklevel=3,
            )

    def stages(self, num_classes: int) -> dict[str, SearchAttack]:
        """Give the attacks of this version by name, in their order.

        Args:
            num_classes: How many classes the network knows; few classes change losses and targets, with a warning.
        """
        few = num_classes < 4
        targets = min(5 if self.norm == "l1" else 9, num_classes - 1)
        dlr: LossName = "dlr" if num_classes >= 3 else "margin"
        dlr_targeted: LossName = "margin" if few else "dlr"
        if few:
            warnings.warn(
                f"the DLR loss divides by differences of 3 logits, its targeted form by those of 4, and the model has "
                f"{num_classes} classes; AutoAttack takes the margin loss instead, with {targets} "
                f"target{'s' if targets > 1 else ''}.",
                stacklevel=2,
            )
        restarts = 5 if self.version == "plus" or self.norm == "l1" else 1
        norm, eps, mode = self.norm, self.eps, self.model_mode
        apgd = APGD(norm=norm, eps=eps, model_mode=mode, steps=self.steps, draws=self.draws)
        fab = FAB(norm=norm, eps=eps, model_mode=mode, steps=self.steps)
        ce = dataclasses.replace(apgd, restarts=1 if self.version == "rand" else restarts)
        apgd_t = dataclasses.replace(apgd, loss=dlr_targeted, targets=targets)
        fab_t = dataclasses.replace(fab, targets=min(9, num_classes - 1))
        square = Square(norm=norm, eps=eps, model_mode=mode, queries=self.queries)
        versions: dict[str, dict[str, SearchAttack]] = {
            "standard": {"apgd-ce": ce, "apgd-t": apgd_t, "fab-t": fab_t, "square": square},
            "fast": {"apgd-ce": ce, "apgd-t": apgd_t},
            "plus": {
                "apgd-ce": ce,
                "apgd-dlr": dataclasses.replace(ce, loss=dlr),
                "fab": dataclasses.replace(fab, restarts=5),
                "square": square,
                "apgd-t": apgd_t,
                "fab-t": fab_t,
            },
            "rand": {"apgd-ce": ce, "apgd-dlr": dataclasses.replace(ce, loss=dlr)},
        }
        return versions[self.version]

    def _search(self, objective: InnerObjective, x: Tensor, eps: Tensor | None) -> Tensor:
        budget = per_image(self.radius if eps is None else eps, x).flatten()
        result, rows = x.clone(), torch.arange(len(x), device=x.device)
        for attack in self.stages(objective.clean_logits.shape[1]).values():
            left = objective.select(rows)
            quiet = dataclasses.replace(attack, seed=None, check=False)
            x_adv = SearchAttack.__call__(quiet, left.model, left.x, left.y, eps=budget[rows]).to(x.dtype)
            fallen = left.confirmed(x_adv, left.evaluate(x_adv)[1])
            result[rows[fallen]] = x_adv[fallen]
            rows = rows[~fallen]
            if len(rows) == 0:
                break
        return result

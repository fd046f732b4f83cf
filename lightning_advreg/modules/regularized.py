"""The regularised classifier."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam

from lightning_advreg.constraints import Constraint
from lightning_advreg.modules.classifier import Classifier
from lightning_advreg.modules.engine import Engine
from lightning_advreg.objectives import ObjectiveOutput
from lightning_advreg.penalties import Penalty
from lightning_advreg.perturbations import WeightPerturbation
from lightning_advreg.values import Number, to_float


class RegularizedClassifier(Classifier):
    """A classifier trained on clean images under soft and hard limits: ``min E[CE(f(x), y)] + penalties``.

    Soft limits are penalties, terms of the loss; hard limits are constraints, met exactly after every step. Norm
    layers, activation and dropout are arguments of the network. Labels of training batches may be shares of classes
    ``(N, K)``, as the callback ``BatchAugmentation`` gives them with ``MixUp`` or ``CutMix``; ``train/acc`` then counts
    the class with the largest share.

    Args:
        network: From images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; normalisation belongs inside.
        penalties: Soft limits on weights, activations, outputs or gradients: terms added to the loss, each logged as
            ``train/penalty/<name>``.
        constraints: Hard limits: checked before training, and enforced after each optimizer step.
        label_smoothing: The share of each label spread evenly over all classes (Szegedy et al. 2016), in [0, 1).
        weight_perturbation: Take each gradient at weights moved to where the loss is higher, such as ``SAM()``.
        engine: What makes training fast, or None for none of it; the results are equal up to rounding.
        optimizer: From parameters to an optimizer.
        lr_scheduler: From an optimizer to a schedule; stepped every epoch, ``LinearOneCycle`` every step.
        decay_biases: Whether the optimizer's ``weight_decay`` acts on biases and the scales of normalisation layers
            too, as PyTorch's optimizers do. Usual recipes say no.

    Raises:
        ValueError: If ``label_smoothing`` is out of its range or the network exceeds a budget.

    Example:
        >>> from lightning_advreg.constraints import Budget, MaxNorm
        >>> from lightning_advreg.networks import MNISTConvNet
        >>> from lightning_advreg.penalties import L1
        >>> limits = [MaxNorm(3.0), Budget(parameters=200_000)]
        >>> model = RegularizedClassifier(MNISTConvNet(dropout=0.3), penalties=[L1(1e-5)], constraints=limits)
    """

    takes_shares = True

    def __init__(
        self,
        network: nn.Module,
        penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        constraints: Sequence[Constraint] = (),
        label_smoothing: Number = 0.0,
        weight_perturbation: WeightPerturbation | None = None,
        engine: Engine | None = Engine(),  # noqa: B008 frozen, so safe to share
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        decay_biases: bool = True,
    ) -> None:
        super().__init__(
            network, penalties, constraints, weight_perturbation, engine, optimizer, lr_scheduler, decay_biases
        )
        self.label_smoothing = to_float(label_smoothing, "label_smoothing", minimum=0, below=1)

    def prepare(self, x: Tensor, y: Tensor, batch_idx: int) -> Callable[[], ObjectiveOutput]:
        """Give the cross-entropy of a training batch, as a function of the weights of the moment."""
        images = self.penalised(x)

        def objective() -> ObjectiveOutput:
            logits = self(images)
            return ObjectiveOutput(F.cross_entropy(logits, y, label_smoothing=self.label_smoothing), logits)

        return objective

"""The adversarially trained classifier."""

import dataclasses
from collections.abc import Callable, Sequence

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam

from lightning_advreg.attacks import PGD, Attack, BoundedAttack
from lightning_advreg.constraints import Constraint
from lightning_advreg.modules.classifier import Classifier
from lightning_advreg.objectives import PGDAT, Objective, ObjectiveOutput
from lightning_advreg.penalties import WeightPenalty
from lightning_advreg.values import Number, to_float


class AdversarialClassifier(Classifier):
    """A classifier trained on attacked images: ``min E[objective(network, x, y, attack)] + penalties``.

    The attack runs inside every training step. Robust accuracy in validation and test comes from the callback
    ``RobustAccuracy``, whose attacks are usually stronger than the one trained with. Logged besides what every
    classifier logs: ``train/robust_acc``, the accuracy under the training attack, and during a warm-up
    ``train/eps_factor``.

    Args:
        network: From images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; normalisation belongs inside.
        attack: The inner maximisation.
        objective: The outer minimisation.
        penalties: Soft limits on the weights: terms added to the loss.
        constraints: Hard limits: checked before training, and enforced after each optimizer step.
        eps_warmup_epochs: Let the attack's budget and steps grow linearly from 0 over so many epochs. On MNIST at Linf
            0.3 training may not leave its starting plateau (loss ln 10) without.
        optimizer: From parameters to an optimizer.
        lr_scheduler: From an optimizer to a schedule; stepped every epoch, ``LinearOneCycle`` every step.

    Raises:
        ValueError: If ``eps_warmup_epochs`` is negative or the network exceeds a budget.

    Example:
        >>> from lightning_advreg.networks import MNISTConvNet
        >>> attack = PGD(eps=0.3, step_size=0.01, steps=40)
        >>> model = AdversarialClassifier(MNISTConvNet(), attack=attack, eps_warmup_epochs=5)
        >>> model.hparams["attack"]["class_path"]
        'lightning_advreg.attacks.PGD'
    """

    def __init__(
        self,
        network: nn.Module,
        attack: Attack = PGD(),
        objective: Objective = PGDAT(),
        penalties: Sequence[WeightPenalty | Callable[[nn.Module], Tensor]] = (),
        constraints: Sequence[Constraint] = (),
        eps_warmup_epochs: Number = 0.0,
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(network, penalties, constraints, optimizer, lr_scheduler)
        self.attack = attack
        self.objective = objective
        self.eps_warmup_epochs = to_float(eps_warmup_epochs, "eps_warmup_epochs", minimum=0)
        # the module checks the first batch of each epoch itself, and spares the others the synchronisation
        checked = isinstance(self.attack, BoundedAttack)
        self._attack: Attack = dataclasses.replace(self.attack, check=False) if checked else self.attack  # type: ignore[type-var]
        if self.eps_warmup_epochs > 0:
            # at once, rather than in the first step: an attack without a budget refuses
            _scaled(self._attack, 0.5)

    def objective_of(self, x: Tensor, y: Tensor, batch_idx: int) -> ObjectiveOutput:
        """Give the objective's loss of a training batch under the attack of the moment."""
        return self.objective(self.network, x, y, self._attack_now(batch_idx))

    def _attack_now(self, batch_idx: int) -> Attack:
        if self.current_epoch >= self.eps_warmup_epochs:
            return self._attack
        epochs = self.current_epoch + batch_idx / self.trainer.num_training_batches
        factor = min(epochs / self.eps_warmup_epochs, 1.0)
        self.log("train/eps_factor", factor)
        return _scaled(self._attack, factor)


def _scaled(attack: Attack, factor: float) -> Attack:
    # an attack of the user's own may be any callable; the base class says what it lacks
    return attack.scaled(factor) if hasattr(attack, "scaled") else Attack.scaled(attack, factor)

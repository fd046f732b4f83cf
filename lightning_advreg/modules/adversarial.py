"""The adversarially trained classifier."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam

from lightning_advreg.attacks import PGD, Attack, BoundedAttack, WorstOf, live_copy, standing_in
from lightning_advreg.attacks.base import scaled
from lightning_advreg.constraints import Constraint
from lightning_advreg.modules.classifier import Classifier
from lightning_advreg.objectives import PGDAT, Objective, ObjectiveOutput
from lightning_advreg.penalties import WeightPenalty
from lightning_advreg.perturbations import WeightPerturbation
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
        weight_perturbation: Take each gradient at weights moved to where the loss is higher, such as ``AWP()``.
        eps_warmup_epochs: Let the attack's budget and steps grow linearly from 0 over so many epochs. On MNIST at Linf
            0.3 training may not leave its starting plateau (loss ln 10) without.
        fast_attacks: On the CPU, attack a copy of the network that shares its weights and is faster: BatchNorm folded,
            activations in place, convolutions with fewer multiplications. The results are equal up to rounding. It is
            left out where it does not agree with the network, or the attack wants another mode than ``eval``.
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
        weight_perturbation: WeightPerturbation | None = None,
        eps_warmup_epochs: Number = 0.0,
        fast_attacks: bool = True,
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(network, penalties, constraints, weight_perturbation, optimizer, lr_scheduler)
        self.objective = objective
        self.replays = objective.replays
        self.fast_attacks = fast_attacks
        # in a tuple: no submodule, and nothing for a checkpoint
        self._copy: tuple[nn.Module | None, ...] = ()
        self.eps_warmup_epochs = to_float(eps_warmup_epochs, "eps_warmup_epochs", minimum=0)
        self.use_attack(attack)
        if self.eps_warmup_epochs > 0:
            # at once, rather than in the first step: an attack without a budget refuses
            scaled(self._attack, 0.5)

    def use_attack(self, attack: Attack) -> None:
        """Train with another attack from now on."""
        self.attack = attack
        # the module checks the first batch of each epoch itself, and spares the others the synchronisation
        checked = isinstance(attack, BoundedAttack | WorstOf)
        self._attack: Attack = dataclasses.replace(attack, check=False) if checked else attack  # type: ignore[type-var]

    def on_fit_start(self) -> None:
        """Refuse to replay batches whose gradients are accumulated."""
        super().on_fit_start()
        if self.replays > 1 and self.trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"{type(self.objective).__name__} takes {self.replays} steps on each batch, and gradients cannot be "
                f"accumulated over {self.trainer.accumulate_grad_batches} batches as well; set accumulate_grad_batches "
                "to 1."
            )

    def prepare(self, x: Tensor, y: Tensor, batch_idx: int) -> Callable[[], ObjectiveOutput]:
        """Give the objective of a training batch under the attack of the moment, as a function of the weights."""
        objective = self.objective
        if self._trainer is not None:
            objective = objective.during(self._progress(batch_idx), self._batches_done(batch_idx))
        attack = self._attack_now(batch_idx)
        copy = self._copy_for(x, anew=batch_idx == 0)
        if self.weight_perturbation is None:
            return partial(self._output, objective, x, y, attack, copy)
        with standing_in(self.network, copy):
            crafted = objective.craft(self.network, x, y, attack)
        return partial(objective.loss, self.network, x, y, crafted)

    def on_fit_end(self) -> None:
        """Drop what only training needs."""
        self._copy = ()

    def _output(
        self, objective: Objective, x: Tensor, y: Tensor, attack: Attack, copy: nn.Module | None
    ) -> ObjectiveOutput:
        with standing_in(self.network, copy):
            return objective(self.network, x, y, attack)

    def _copy_for(self, x: Tensor, *, anew: bool) -> nn.Module | None:
        if not self.fast_attacks or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        if anew or not self._copy:
            self._copy = (live_copy(self.network, x),)
        return self._copy[0]

    def _batches_done(self, batch_idx: int) -> int:
        return self.current_epoch * int(self.trainer.num_training_batches) + batch_idx

    def _progress(self, batch_idx: int) -> float:
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            return min(self.epochs_done(batch_idx) / self.trainer.max_epochs, 1.0)
        return min(self.global_step / self.trainer.max_steps, 1.0) if self.trainer.max_steps > 0 else 0.0

    def _attack_now(self, batch_idx: int) -> Attack:
        if self.current_epoch >= self.eps_warmup_epochs:
            return self._attack
        factor = min(self.epochs_done(batch_idx) / self.eps_warmup_epochs, 1.0)
        self.log("train/eps_factor", factor)
        return scaled(self._attack, factor)

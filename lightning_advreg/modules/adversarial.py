"""The adversarially trained classifier."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam

from lightning_advreg.attacks import PGD, Attack, AttackSchedule, live_copy, standing_in
from lightning_advreg.attacks.schedule import given_schedule
from lightning_advreg.attacks.variants import unchecked
from lightning_advreg.constraints import Constraint
from lightning_advreg.modules.classifier import Batch, Classifier
from lightning_advreg.modules.engine import Engine
from lightning_advreg.modules.schedules import scheduled_attack
from lightning_advreg.networks.dual_norm import adversarial_pass, dual_norms
from lightning_advreg.objectives import PGDAT, Objective, ObjectiveOutput
from lightning_advreg.penalties import Penalty
from lightning_advreg.perturbations import WeightPerturbation
from lightning_advreg.values import Number, to_float


class AdversarialClassifier(Classifier):
    """A classifier trained on attacked images: ``min E[objective(network, x, y, attack)] + penalties``.

    The attack runs inside every training step. Robust accuracy in validation and test comes from the callback
    ``RobustAccuracy``, whose attacks are usually stronger than the one trained with. Logged besides what every
    classifier logs: ``train/robust_acc``, the accuracy under the training attack, and, where these are scheduled,
    ``train/eps_factor`` and ``train/attack_steps``, in every batch, so that a curve shows where it stays.

    Args:
        network: From images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; normalisation belongs inside.
        attack: The inner maximisation; None for ``PGD()``, 10 steps of 2/255 in a Linf ball of 8/255.
        objective: The outer minimisation; None for ``PGDAT()``, cross-entropy at the attacked images.
        penalties: Soft limits: terms added to the loss. Those on inputs and outputs act on the attacked images.
        constraints: Hard limits: checked before training, and enforced after each optimizer step.
        weight_perturbation: Take each gradient at weights moved to where the loss is higher, such as ``AWP()``.
        eps_warmup_epochs: Let the attack's budget and steps grow linearly from 0 over so many epochs. On MNIST at Linf
            0.3 training may not leave its starting plateau (loss ln 10) without. It is short for
            ``attack_schedule=AttackSchedule(eps_factor=Ramp(epochs=...))``.
        attack_schedule: How the attack's budget and number of steps change during training. Its epochs have fractions,
            but where the loader has no length.
        engine: What makes training fast, or None for none of it; the results are equal up to rounding.
        optimizer: From parameters to an optimizer.
        lr_scheduler: From an optimizer to a schedule; stepped every epoch, ``LinearOneCycle`` every step.
        decay_biases: Whether the optimizer's ``weight_decay`` acts on biases and the scales of normalisation layers
            too, as PyTorch's optimizers do. Usual recipes say no.

    Raises:
        TypeError: If the attack cannot follow the schedule.
        ValueError: If ``eps_warmup_epochs`` is negative, or given beside ``attack_schedule``, or the network exceeds a
            budget.

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
        attack: Attack | None = None,
        objective: Objective | None = None,
        penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        constraints: Sequence[Constraint] = (),
        weight_perturbation: WeightPerturbation | None = None,
        eps_warmup_epochs: Number = 0.0,
        attack_schedule: AttackSchedule | None = None,
        engine: Engine | None = Engine(),  # noqa: B008 frozen, so safe to share
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        decay_biases: bool = True,
    ) -> None:
        super().__init__(
            network, penalties, constraints, weight_perturbation, engine, optimizer, lr_scheduler, decay_biases
        )
        # no default objects in the signature: jsonargparse would hand their settings on to whatever class replaces them
        attack = PGD() if attack is None else attack
        self.objective = PGDAT() if objective is None else objective
        self.replays = self.objective.replays
        # in a tuple: no submodule, and nothing for a checkpoint
        self._copy: tuple[nn.Module | None, ...] = ()
        self.eps_warmup_epochs = to_float(eps_warmup_epochs, "eps_warmup_epochs", minimum=0)
        self.attack_schedule = given_schedule(attack_schedule, eps_warmup_epochs, attack)
        self.use_attack(attack)

    def use_attack(self, attack: Attack) -> None:
        """Train with another attack from now on, under the same schedule.

        Raises:
            TypeError: If the attack cannot follow the schedule.
        """
        if self.attack_schedule is not None:
            self.attack_schedule.check(attack)
        self.attack = attack
        # the module checks the first batch of each epoch itself, and spares the others the synchronisation
        self._attack = unchecked(attack)

    def on_fit_start(self) -> None:
        """Refuse to replay batches whose gradients are accumulated, and clean statistics that nothing follows."""
        super().on_fit_start()
        if not self.objective.sees_clean and dual_norms(self.network):
            raise ValueError(
                f"{type(self.objective).__name__} runs no pass of clean images alone, so that the clean half of each "
                "DualBatchNorm would stay as it is; train with TRADES() or PGDAT(clean_weight=0.5), or use "
                "NormAblation('batch'). An objective of your own says sees_clean = True, and calls run_clean(model, x)."
            )
        if self.replays > 1 and self.trainer.accumulate_grad_batches > 1:
            raise ValueError(
                f"{type(self.objective).__name__} takes {self.replays} steps on each batch, and gradients cannot be "
                f"accumulated over {self.trainer.accumulate_grad_batches} batches as well; set accumulate_grad_batches "
                "to 1."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of a batch, penalties included; layers that ask are told that it is attacked."""
        with adversarial_pass():
            return super().training_step(batch, batch_idx)

    def prepare(self, x: Tensor, y: Tensor, batch_idx: int) -> Callable[[], ObjectiveOutput]:
        """Give the objective of a training batch under the attack of the moment, as a function of the weights."""
        objective = self.objective
        if self._trainer is not None:
            objective = objective.during(self._progress(batch_idx), self._batches_done(batch_idx))
        attack = self._attack_now(batch_idx)
        copy = self._copy_for(x, anew=batch_idx == 0)
        if self.weight_perturbation is None and not self._compiles and not self._penalises_images:
            return partial(self._output, objective, x, y, attack, copy)
        with standing_in(self.network, copy):
            crafted = objective.craft(self.network, x, y, attack)
        if self._penalises_images:
            crafted = (self.penalised(crafted[0]), *crafted[1:])
        return partial(objective.loss, self.network, x, y, crafted)

    def penalised_logits(self, output: ObjectiveOutput) -> Tensor | None:
        """Give the logits of attacked images, or None where the objective hands on none."""
        return output.logits_adv

    def on_fit_end(self) -> None:
        """Drop what only training needs."""
        super().on_fit_end()
        self._copy = ()

    def _output(
        self, objective: Objective, x: Tensor, y: Tensor, attack: Attack, copy: nn.Module | None
    ) -> ObjectiveOutput:
        with standing_in(self.network, copy):
            return objective(self.network, x, y, attack)

    def _copy_for(self, x: Tensor, *, anew: bool) -> nn.Module | None:
        if not self._engine.attack_copy or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return None
        if anew or not self._copy:
            self._copy = (live_copy(self.network, x),)
        return self._copy[0]

    @property
    def _compiles(self) -> bool:
        return super()._compiles and not self.objective.double_backward

    def _batches_done(self, batch_idx: int) -> int:
        length = self.trainer.num_training_batches
        if length == float("inf"):
            # a loader without a length: Lightning has counted
            return self.trainer.fit_loop.total_batch_idx
        return self.current_epoch * int(length) + batch_idx

    def _progress(self, batch_idx: int) -> float:
        if self.trainer.max_epochs is not None and self.trainer.max_epochs > 0:
            return min(self.epochs_done(batch_idx) / self.trainer.max_epochs, 1.0)
        return min(self.global_step / self.trainer.max_steps, 1.0) if self.trainer.max_steps > 0 else 0.0

    def _attack_now(self, batch_idx: int) -> Attack:
        if self.attack_schedule is None:
            return self._attack
        return scheduled_attack(self, self.attack_schedule, self._attack, self.epochs_done(batch_idx))

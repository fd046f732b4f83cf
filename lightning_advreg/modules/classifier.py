"""What the two classifiers share: metrics, penalties, constraints, optimizers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeAlias, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_advreg.attacks import borrowed
from lightning_advreg.augmentations.base import as_labels
from lightning_advreg.checks import check_batch, check_logits, check_shares, check_statistics
from lightning_advreg.constraints import Constraint
from lightning_advreg.metrics import Accuracy, MeanOverImages
from lightning_advreg.modules.base import CheckpointedModule, by_name
from lightning_advreg.modules.compilation import Programs
from lightning_advreg.modules.engine import NO_ENGINE, Engine, channels_last, keeps_channels_last_, lay_out_
from lightning_advreg.modules.limits import Limits
from lightning_advreg.modules.penalties import add_penalties, states, warn_of_double_decay
from lightning_advreg.modules.schedules import fit_schedules, scheduler_config
from lightning_advreg.objectives import ObjectiveOutput
from lightning_advreg.parameters import parameter_groups
from lightning_advreg.penalties import Penalty, TrainingPass
from lightning_advreg.penalties.in_training import begin, bind, watching
from lightning_advreg.perturbations import Climb, WeightPerturbation
from lightning_advreg.values import to_float

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)``."""


class _WayBack(Callback):
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        cast(Classifier, pl_module)._descend()


class Classifier(CheckpointedModule, ABC):
    """A classifier in training: an objective to be named by the subclass, soft and hard limits, and metrics.

    A subclass implements :meth:`prepare`. Logged are ``train/loss`` (with penalties), ``train/penalty/<name>`` and
    ``train/penalty/<name>_raw`` (the same with a coefficient of 1), ``train/acc`` and ``train/robust_acc`` (from the
    logits the objective computed), ``val/loss``, ``val/acc``, ``test/loss`` and ``test/acc``. Every epoch ends with
    ``train/constraint/<name>/<what>``: means over its steps of the share ``moved``, the relative ``distance``, the
    share ``at_bound`` and a changing ``bound``, and what a constraint measures, such as the used share of a budget.

    Args:
        network: From images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        penalties: Soft limits: terms added to the loss.
        constraints: Hard limits: checked before training, and enforced after each optimizer step.
        weight_perturbation: Take each gradient at weights moved to where the loss is higher (SAM, AWP), or None.
        engine: What makes training fast, or None for none of it.
        optimizer: From parameters to an optimizer.
        lr_scheduler: From an optimizer to a schedule; stepped every epoch, ``LinearOneCycle`` every step.
        decay_biases: Whether the optimizer's ``weight_decay`` acts on biases and the scales of normalisation layers.
    """

    replays = 1
    required = ("network",)
    takes_shares = False
    """Whether training labels may be shares of classes ``(N, K)``, as mixup gives them."""

    def __init__(
        self,
        network: nn.Module,
        penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        constraints: Sequence[Constraint] = (),
        weight_perturbation: WeightPerturbation | None = None,
        engine: Engine | None = Engine(),  # noqa: B008 frozen, so safe to share
        optimizer: OptimizerCallable = Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        decay_biases: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.penalties = bind(by_name(penalties), network)
        self.penalty_states = states(self.penalties)
        self._images: Tensor | None = None
        self.constraints = tuple(constraints)
        self.limits = Limits(self.constraints)
        self.weight_perturbation = weight_perturbation
        self._climb: Climb | None = None
        self.engine = engine
        self._engine = NO_ENGINE if engine is None else engine
        self._programs = Programs(cuda_graphs=self._engine.cuda_graphs)
        self._channels_last = False
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.decay_biases = decay_biases
        self.train_acc, self.train_robust_acc, self.val_acc, self.test_acc = (Accuracy() for _ in range(4))
        self.val_loss, self.test_loss = MeanOverImages(), MeanOverImages()
        self.limits.check(network)

    @abstractmethod
    def prepare(self, x: Tensor, y: Tensor, batch_idx: int) -> Callable[[], ObjectiveOutput]:
        """Attack a training batch, and give its objective as a function of the weights of the moment."""

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``(N, K)`` for images ``(N, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give the loss of a batch, penalties included."""
        x, y = batch
        if batch_idx == 0:
            self.check_batch(x, y)
            check_statistics(self.network, len(x))
        with self.accelerated(x) as images:
            objective = self.prepare(images, y, batch_idx)
            self._climb = self._climbed(objective, batch_idx)
            top = nullcontext() if self._climb is None else self._climb.at_the_top()
            with top, watching(self.penalties, self.network) as watched:
                output = objective()
        seen = TrainingPass(self.network, self._images, y, self.penalised_logits(output), watched)
        self._images = None
        epoch = math.inf if self._trainer is None else self.epochs_done(batch_idx)
        loss = add_penalties(self, "train/penalty", self.penalties, seen, epoch, output.loss)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self._log_accuracy("train/acc", self.train_acc, output.logits, y)
        self._log_accuracy("train/robust_acc", self.train_robust_acc, output.logits_adv, y)
        return loss

    def penalised(self, x: Tensor) -> Tensor:
        """Note the images that penalties on inputs and outputs act on, for this step.

        A subclass calls it in :meth:`prepare`, and computes the logits of :meth:`penalised_logits` from the result.

        Args:
            x: The images ``(N, C, H, W)``.

        Returns:
            The same images, which require a gradient where a penalty differentiates by them.
        """
        if any(getattr(p, "double_backward", False) for p in self.penalties.values()) and not x.requires_grad:
            x = x.detach().requires_grad_()
        self._images = x
        return x

    def penalised_logits(self, output: ObjectiveOutput) -> Tensor | None:
        """Give the logits of the images of :meth:`penalised`, or None where the objective hands on none."""
        return output.logits

    @contextmanager
    def accelerated(self, x: Tensor) -> Iterator[Tensor]:
        """Run passes over a training batch as the engine says.

        Args:
            x: The images ``(N, C, H, W)``.

        Yields:
            The images, as the network wants them in memory.
        """
        images = channels_last(x) if self._channels_last else x
        with self._programs.at_work(self.network, images) if self._compiles else nullcontext():
            yield images

    @property
    def _compiles(self) -> bool:
        return self._engine.compile and not any(getattr(p, "eager", False) for p in self.penalties.values())

    @property
    def _penalises_images(self) -> bool:
        return any(getattr(p, "on_images", False) for p in self.penalties.values())

    def on_after_backward(self) -> None:
        """Go back to the weights that the optimizer is to move."""
        self._descend()

    def configure_callbacks(self) -> list[Callback]:
        """Go back to the weights after an error as well, which Lightning tells callbacks alone."""
        return [] if self.weight_perturbation is None else [_WayBack()]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the clean images."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the clean images."""
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give logits."""
        return cast(Tensor, self(batch[0]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build optimizer and schedule, and say so if weight decay is counted twice."""
        # an optimizer's own weight_decay holds for the groups that do not name one
        optimizer = self.optimizer(self.network.parameters() if self.decay_biases else parameter_groups(self.network))
        warn_of_double_decay(self.penalties, self.network, optimizer)
        if self.lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": scheduler_config(self.lr_scheduler(optimizer))}

    def setup(self, stage: str) -> None:
        """Lay the weights out in memory, before a distributed wrapper looks at them."""
        if stage == "fit" and self._engine.channels_last:
            lay_out_(self.network, torch.channels_last)
            self._channels_last = True

    def on_fit_end(self) -> None:
        """Drop what only training needs."""
        self._programs.drop()

    def on_fit_start(self) -> None:
        """Make the first weights meet the hard limits."""
        super().on_fit_start()
        # the weights of a checkpoint meet them already, and rounding would move them
        if self.trainer.ckpt_path is None:
            self.limits.project_(self.network, self.current_epoch)
        self.limits.forget()
        self.limits.announce(self.network)
        begin(self.penalties, self.network)

    def on_train_start(self) -> None:
        """Tell the schedule how many steps there are."""
        fit_schedules(self.trainer)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], object] | None = None,
    ) -> None:
        """Take a step, or as many as the objective replays each batch, and enforce the hard limits after each."""
        for _ in range(self.replays):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            # fused optimizers do not tell, and copies of the network follow the weights by their versions
            torch.autograd.graph.increment_version(self.network.parameters())
            self.limits.project_(self.network, self.epochs_done(batch_idx + 1))

    def on_train_epoch_end(self) -> None:
        """Log how often and how far the hard limits have bitten."""
        self.log_dict({f"train/constraint/{name}": value for name, value in self.limits.report(self.network).items()})

    def check_batch(self, x: Tensor, y: Tensor) -> None:
        """Check the first batch of an epoch: pixels, labels, and one logit per class.

        Raises:
            TypeError: If images are not floating point, or labels are neither integers nor shares of classes that this
                classifier takes.
            ValueError: If pixels or labels are out of range, or the network's outputs are not one logit per class.
        """
        shares = y if self.training and y.is_floating_point() and y.dim() == 2 else None
        if shares is not None and not self.takes_shares:
            raise TypeError(
                f"labels must be integer class indices, got {y.dtype} of shape {tuple(y.shape)}: {type(self).__name__} "
                "attacks images of one class each. Take MixUp and CutMix off, and use objective=AdversarialMixup()."
            )
        check_batch(x, y if shares is None else None)
        with borrowed(self.network), torch.no_grad():
            if self._channels_last:
                self._channels_last = keeps_channels_last_(self.network, x[:1])
            logits = self.network(x[:1])
        num_classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        if isinstance(num_classes, int):
            check_logits(logits, num_classes)
        if shares is None:
            check_batch(x, y, num_classes=logits.shape[-1])
        else:
            check_shares(shares, logits)

    def epochs_done(self, batch_idx: int) -> float:
        """Give the number of epochs before a batch, with its fraction."""
        return self.current_epoch + batch_idx / self.trainer.num_training_batches

    def _climbed(self, objective: Callable[[], ObjectiveOutput], batch_idx: int) -> Climb | None:
        perturbation = self.weight_perturbation
        if perturbation is None or self.epochs_done(batch_idx) < to_float(perturbation.start_epoch, "start_epoch"):
            return None
        return perturbation.climb_(self.network, lambda: objective().loss)

    def _descend(self) -> None:
        if self._climb is not None:
            self._climb.back_()
            self._climb = None

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        if batch_idx == 0:
            self.check_batch(x, y)
        counted = self.counted(len(x), batch_idx)
        logits, y = self(x)[:counted], y[:counted]
        loss = self.val_loss if stage == "val" else self.test_loss
        loss.update(nn.functional.cross_entropy(logits, y, reduction="none"))
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True)
        self._log_accuracy(f"{stage}/acc", self.val_acc if stage == "val" else self.test_acc, logits, y)

    def _log_accuracy(self, name: str, accuracy: Accuracy, logits: Tensor | None, y: Tensor) -> None:
        if logits is not None:
            accuracy.update(logits.detach(), as_labels(y))
            self.log(name, accuracy, on_step=False, on_epoch=True, prog_bar=True)

"""Watch an adversarial training for the ways in which it goes wrong, and repair it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT

from lightning_advreg.attacks import FGSM, Alone, Norm
from lightning_advreg.callbacks.batches import Keys, checked_keys
from lightning_advreg.callbacks.convergence_actions import Action, Repairs
from lightning_advreg.callbacks.convergence_cost import CostLimit, clock
from lightning_advreg.callbacks.convergence_course import Course, collapsed, learning_rates
from lightning_advreg.callbacks.convergence_look import accuracy
from lightning_advreg.callbacks.convergence_measurements import FixedImages, LossWatch, Seen, Sight, loss_of
from lightning_advreg.callbacks.convergence_moment import Now, is_fitting, moment, ranks_of
from lightning_advreg.callbacks.convergence_record import write_alarms
from lightning_advreg.callbacks.convergence_rules import ROBUST, Alarm, non_finite_loss
from lightning_advreg.callbacks.convergence_subject import Subject, attack_owner, monitored_budget
from lightning_advreg.callbacks.isolation import evaluation
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.data.share import Share, shares
from lightning_advreg.values import Number, to_float

_LOOK_AT_LOSSES_EVERY = 50


class ConvergenceMonitor(Callback):
    """Attack a few images after every validation, and raise an alarm when training goes wrong.

    Logged are ``monitor/fgsm_acc`` and ``monitor/pgd_acc``, the accuracy of the first validation images under FGSM and
    PGD-10, ``monitor/train_pgd_acc``, that of the first training images, ``monitor/images``, how many of each these
    were, and ``monitor/alarms``, how many alarms there were. Without validation, training images take its place, at the
    end of each training epoch.

    Alarms:

    - ``catastrophic_overfitting``: FGSM leaves over 20 points more than PGD-10, or the accuracy under PGD-10 falls by
      over 10 points in an epoch; not while the training attack grows.
    - ``robust_overfitting``: for 5 epochs, that accuracy is over 2 points below its best, and rises on training images.
    - ``start_plateau``: after an epoch, the loss is ln K within 0.01, and the accuracy about 1/K.
    - ``non_finite_loss``: a loss of training is infinite or not a number.
    - ``zero_gradients``, ``random_logits``, ``softmax_outputs``: signs of gradient masking on monitored images.
    - ``unscheduled_group``: a parameter group keeps its learning rate while others change theirs.

    Each is said once, and again only after a rollback, and written to ``alarms.json`` in the run folder. On few images,
    differences must also be 3 standard errors long. The rules are for networks in adversarial training.

    The module's ``forward`` must map images in [0, 1] to logits, and batches be pairs (x, y); beside the callback
    ``AdversarialTraining``, the budget, ``model``, ``mean``, ``std`` and ``keys`` are taken from there. But for what
    an alarm does, nothing of the training changes. How many images are looked at depends on the time that this takes
    (see ``max_cost``), and with it the figures and, near a threshold, the alarms; 1 makes them repeatable. Over several
    processes all decide alike. The state, with the monitored images and what ``rollback`` keeps, is in the checkpoint,
    so that a run resumes exactly; only validation images that come again in each validation are collected anew.

    Args:
        eps: The budget in pixel units; None for that of the training attack.
        action: What to do at an alarm, or several things. ``warn`` says it. ``stop`` ends the training. ``rollback``
            goes back to the last good epoch: weights, BatchNorm statistics, optimizer states, the loss scale of 16-bit
            training and the average of ``WeightAverage``, while learning rates follow their schedule on. Both together
            end a training that overfits robustly with its most robust epoch. ``lower_lr`` multiplies learning rates by
            0.1. ``pgd2``, ``nfgsm`` or an attack replaces that of training. :meth:`~.convergence_actions.Repairs.act`
            says which answers which alarm.
        max_samples: How many images of either kind to monitor, over all processes.
        every_n_epochs: Measure in every n-th epoch.
        norm: The norm of the budget; None for that of the training attack, or ``linf``.
        max_cost: The share of the training time that measuring may take, from the first epoch on; 1 for no limit. The
            number of images is halved to stay below, but not below 16. Only where an epoch does not pay for so few are
            looks rarer than asked for, and a collapse may go unseen for longer than an epoch.
        seed: Of the random starts.
        keys: As in ``RobustAccuracy``; None for those of ``AdversarialTraining``.

    Attributes:
        alarms: The alarms that were raised.
        stop_reason: The alarm that stopped the training, in words, or None.
        cost: The number of images of the last look, and the seconds spent in all.

    Raises:
        TypeError: If the module lacks ``forward`` or, to replace its attack, ``use_attack``, or a batch two tensors.
        ValueError: If a number is out of its range, an action unknown, or there is no budget to be found.

    Example:
        >>> ConvergenceMonitor(eps="8/255", action=["rollback", "nfgsm"]).max_samples
        256
    """

    def __init__(
        self,
        eps: Number | None = None,
        action: Action | Sequence[Action] = "warn",
        max_samples: int = 256,
        every_n_epochs: int = 1,
        norm: Norm | None = None,
        max_cost: Number = 0.05,
        seed: int = 0,
        keys: Keys | None = None,
    ) -> None:
        super().__init__()
        self.eps = None if eps is None else to_float(eps, "eps", minimum=0)
        if self.eps == 0:
            raise ValueError(f"eps must be above 0, got {eps!r}; give the budget that the network is trained for.")
        if norm is not None and eps is None:
            raise ValueError(f"norm={norm!r} needs an eps of that norm; give both, or neither.")
        FGSM(norm=norm or "linf")
        self.norm, self.action = norm, action
        self.max_samples = check_positive(max_samples, "max_samples")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.max_cost = to_float(max_cost, "max_cost", minimum=0)
        if self.max_cost == 0:
            raise ValueError(f"max_cost must be above 0, got {max_cost!r}; a measurement takes some time.")
        self.seed, self.keys = seed, None if keys is None else checked_keys(keys)
        self._reset()

    def _reset(self) -> None:
        self.alarms: list[Alarm] = []
        self.stop_reason: str | None = None
        self.cost = CostLimit(samples=self.max_samples, share=self.max_cost)
        self._repairs, self._course = Repairs(self.action), Course()
        self._images = {"val": FixedImages(), "train": FixedImages()}
        self._losses, self._said = LossWatch(), set[str]()
        self._batches, self._batch_size, self._since = 0, 1, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can be attacked and repaired, and that there is a budget."""
        if stage != "fit":
            return
        self._subject = Subject(trainer, pl_module, self.keys)
        self._reset()
        # now, since an action may replace the attack that it comes from
        self._budget = monitored_budget(attack_owner(trainer, pl_module), self.norm, self.eps)
        self._repairs.check(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to collect training images, and remember the first weights."""
        write_alarms(trainer, self.alarms, self.stop_reason)
        self._repairs.resume(trainer, pl_module)
        if self._repairs.snapshot is None:
            self._repairs.keep(trainer, pl_module, "the first weights")
        self._images["train"].start(Share(self.max_samples, trainer.global_rank, trainer.world_size))
        self._since = clock(pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the learning rates."""
        self._batches = 0
        self._judge_rates(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Note the loss, and collect the batch if images are missing."""
        self._batches = batch_idx + 1
        if (loss := loss_of(outputs)) is not None:
            self._losses.add(loss, batch_idx)
        if self._images["train"].collecting:
            x, y = self._subject.images_and_labels(batch)
            self._images["train"].add(x, y)
            self._batch_size = max(self._batch_size, len(x))
        if self._batches % _LOOK_AT_LOSSES_EVERY == 0:
            self._judge_losses(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to collect validation images."""
        if is_fitting(trainer):
            self._images["val"].start(shares(trainer, self.max_samples)[0])

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the batch, if images are missing; later on, see whether the first one is the same again."""
        if is_fitting(trainer) and dataloader_idx == 0 and self._images["val"].wants(batch_idx):
            self._images["val"].add(*self._subject.images_and_labels(batch))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and judge."""
        if is_fitting(trainer):
            self._judge_losses(trainer, pl_module)
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at losses and learning rates; measure, where there is no validation."""
        self._judge_losses(trainer, pl_module)
        self._judge_rates(trainer, pl_module)
        if not trainer.enable_validation:
            self._measure(trainer, pl_module)
        pl_module.log("monitor/alarms", float(len(self.alarms)), sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """Give all that a run needs to resume, as plain values and tensors."""
        return {
            "alarms": [dataclasses.asdict(alarm) for alarm in self.alarms],
            "stop_reason": self.stop_reason,
            "cost": dataclasses.asdict(self.cost),
            "repairs": self._repairs.state_dict(),
            "course": self._course.state_dict(),
            "images": {name: images.state_dict() for name, images in self._images.items()},
            "said": sorted(self._said),
            "batches": (self._batches, self._batch_size),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.alarms = [Alarm(**alarm) for alarm in state_dict["alarms"]]
        self.stop_reason = state_dict["stop_reason"]
        # the share is that of the present run
        self.cost = CostLimit(**{**state_dict["cost"], "share": self.max_cost})
        self._repairs.load_state_dict(state_dict["repairs"])
        self._course.load_state_dict(state_dict["course"])
        for name, images in self._images.items():
            images.load_state_dict(state_dict["images"][name])
        self._said = set(state_dict["said"])
        self._batches, self._batch_size = state_dict["batches"]

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not due(trainer, self.every_n_epochs):
            return
        ranks, now = ranks_of(trainer), moment(trainer, self._batches)
        # images made in inference mode could not be differentiated
        with torch.inference_mode(False):
            present = {name: images.complete(ranks) for name, images in self._images.items()}
        began = clock(pl_module)
        trained = ranks.gather(began - self._since)[0]
        first, count = self.cost.images == 0, self.cost.affordable(trained)
        if not present["train"] or count == 0:
            return
        seen = self._look(pl_module, ranks, now, count)
        if first and (more := self.cost.affordable(trained)) > count:
            seen = self._look(pl_module, ranks, now, more)
        pl_module.log("monitor/images", float(seen.clean.images), sync_dist=True)
        for name in ("fgsm", "pgd", "train_pgd") if seen.look is not None else ():
            pl_module.log(f"monitor/{name}_acc", accuracy(getattr(seen.look, name)), sync_dist=True)
        began = clock(pl_module)
        # not while eps grows: the network does not know the whole budget yet
        alarms = self._course.judge(now, seen, judge_from=self._subject.judge_from)
        if not collapsed(alarms):
            best = seen.look is not None and seen.look is self._course.best
            self._repairs.keep(trainer, pl_module, f"the weights of epoch {now.epoch}", best=best)
        for alarm in alarms:
            if self._raise(trainer, pl_module, alarm):
                self._course.go_back(now, to_best=alarm.name == ROBUST)
        self.cost.trained += trained
        self.cost.spent += ranks.gather(clock(pl_module) - began)[0]
        self._since = clock(pl_module)

    def _look(self, pl_module: pl.LightningModule, ranks: Alone, now: Now, count: int) -> Seen:
        began, (norm, eps) = clock(pl_module), self._budget
        train = self._images["train"].first(count)
        val = self._images["val"].first(count) if self._images["val"].x is not None else train
        with evaluation(pl_module, pl_module.device):
            sight = Sight(self._subject.network(), pl_module.device, ranks, self._batch_size)
            seen = sight.see(now, val, train, norm=norm, eps=eps, seed=self.seed)
        seconds = ranks.gather(clock(pl_module) - began)[0]
        if seen.look is None:
            # broken off, which tells nothing of what a whole look costs
            self.cost.spent += seconds
            return seen
        self.cost.book(seconds=seconds, images=count)
        return seen

    def _judge_losses(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        firsts = ranks_of(trainer).gather(self._losses.first())
        bad = [(batch, rank) for rank, batch in enumerate(firsts) if batch is not None]
        if bad:
            batch, rank = min(bad)
            where, now = rank if len(firsts) > 1 else None, moment(trainer, self._batches)
            alarm = non_finite_loss(now.epoch, now.step, batch=batch, seen=self._batches, rank=where)
            self._raise(trainer, pl_module, alarm)

    def _judge_rates(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if alarm := self._course.judge_rates(moment(trainer, self._batches), *learning_rates(trainer)):
            self._raise(trainer, pl_module, alarm)

    def _raise(self, trainer: pl.Trainer, pl_module: pl.LightningModule, alarm: Alarm) -> bool:
        """Say and answer an alarm, unless it was said; tell whether the weights are those of a good moment again."""
        if alarm.name in self._said:
            return False
        answer = self._repairs.act(trainer, pl_module, alarm)
        alarm = dataclasses.replace(alarm, message=" ".join([alarm.message, *answer.done]))
        self.alarms.append(alarm)
        self.stop_reason = self.stop_reason or (alarm.message if answer.stopped else None)
        if not answer.went_back:
            self._said.add(alarm.name)
        write_alarms(trainer, self.alarms, self.stop_reason)
        rank_zero_warn(alarm.message)
        return answer.went_back

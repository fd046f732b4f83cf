"""The evaluation whose number is quoted, at the end of ``test``, for any LightningModule."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_advreg.attacks import (
    Acceleration,
    Alone,
    Attack,
    AutoAttack,
    Norm,
    ProcessGroup,
    Version,
    fingerprint,
)
from lightning_advreg.callbacks.batches import KEYS, Keys, checked_keys, taken_apart
from lightning_advreg.callbacks.collected import CollectedImages
from lightning_advreg.callbacks.evaluation_pictures import show_report
from lightning_advreg.callbacks.evaluation_record import rates_to_log, write_report
from lightning_advreg.callbacks.isolation import Logits, check_classifier, evaluation
from lightning_advreg.callbacks.pixel_units import PixelUnits, dtype_of
from lightning_advreg.callbacks.robust_accuracy import RobustAccuracy
from lightning_advreg.callbacks.schedule import check_positive
from lightning_advreg.data.share import shares
from lightning_advreg.evaluation import CurveSettings, RobustnessReport, evaluate_robustness
from lightning_advreg.evaluation.attacks import budget_of, budget_to_look_at, named_attacks
from lightning_advreg.values import Number, to_float

_PROGRESS = "robust_evaluation_progress"


class RobustEvaluation(Callback):
    """Attack the test images with AutoAttack, or with attacks of one's own, when ``test`` has seen them all.

    The images of ``test`` are collected on the CPU, shared among all processes, and attacked: each attack on the
    images that are right without it, in stages, with a bar, with progress saved after every batch. A ``test`` that was
    killed continues where it was when it is run again, and ends with the same numbers. Its progress lies in the
    Trainer's ``default_root_dir`` until the end, in the folder ``robust_evaluation_progress``.

    Logged are ``test/robust_acc/<name>``, ``test/robust_acc/<name>/<stage>`` and ``test/robust_acc/worst_case``. In the
    run folder lie ``robust_evaluation.json`` (every rate with its interval and number of images, accuracy of each
    class, perturbations, the curve, signs of gradient masking) and ``robust_evaluation_timings.json``. Pictures go to
    the loggers and the folder ``images``: accuracy against the budget, accuracy of each class, adversarial examples.
    With several loaders, names end in ``dataloader_<i>``.

    The module's ``forward`` must map images in [0, 1] to logits, and batches be pairs (x, y) or have both at ``keys``.
    Nothing of the module changes, and the attacks run with gradients on and autocast off whatever the Trainer sets.

    Args:
        attacks: Attacks by name, or one; None for AutoAttack.
        version: Which AutoAttack: ``standard``, by the name ``autoattack``, or ``fast``, ``plus`` or ``rand``, by names
            such as ``autoattack_fast``.
        norm: The norm of AutoAttack; None for that of the module's training attack, or ``linf``.
        eps: The budget of AutoAttack in pixel units; None for that of the module's training attack.
        max_samples: Attack so many images at the start of each loader's data, over all processes; all by default. Where
            the data are sorted by class, as folders are, a warning says how many classes are left out.
        curve_eps: Budgets of the curve, for the last attack that has a budget (APGD in place of AutoAttack); None for
            0, 1/4, 1/2, 1, 3/2, 2 and 4 times its own; empty for no curve.
        masking: Look for signs of gradient masking, at the budget of the last attack that has one.
        examples: How many adversarial examples to show; 0 for none.
        class_names: A name for each class, for the pictures.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show bars, unless the Trainer's are off.
        acceleration: How the network is made fast for the search; successes are confirmed on the network itself.
        seed: Of attacks that have none of their own.
        keys: Where a batch has its images and labels: keys of a dict, such as ``("pixels", "class")``, or places in a
            tuple, such as ``(0, 1)``. Pairs need none.
        mean: What was subtracted from each channel of the images, in [0, 1]; None for images in [0, 1]. Where the data
            come normalised, these numbers put the attack and its budget into pixels, and ``forward`` gets normalised
            images.
        std: What each channel was divided by then, positive.

    Attributes:
        reports: The reports of the last ``test``, one for each loader that had images.

    Raises:
        TypeError: If the module has no ``forward``, an attack cannot be called, or a batch has no two tensors there.
        ValueError: If there is no budget to be found, a number is below its bound, AutoAttack's settings come with
            other attacks, a class has no name, ``mean`` comes without ``std`` or does not fit the images, or another
            callback logs or writes under the same names.

    Example:
        >>> RobustEvaluation(version="fast", eps="8/255", max_samples=1000).max_samples
        1000
    """

    def __init__(
        self,
        attacks: Attack | Mapping[str, Attack] | None = None,
        version: Version = "standard",
        norm: Norm | None = None,
        eps: Number | None = None,
        max_samples: int | None = None,
        curve_eps: Sequence[Number] | None = None,
        masking: bool = True,
        examples: int = 8,
        class_names: Sequence[str] | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        acceleration: Acceleration | None = Acceleration(),
        seed: int = 0,
        keys: Keys = KEYS,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.attacks = None if attacks is None else named_attacks(attacks)
        if self.attacks is not None and (version, norm, eps) != ("standard", None, None):
            raise ValueError("version, norm and eps are settings of AutoAttack; give them, or attacks, but not both.")
        if eps is None and norm is not None:
            raise ValueError(f"norm={norm!r} needs an eps of that norm; give both, or neither.")
        self.version, self.norm = version, norm
        self.eps = None if eps is None else to_float(eps, "eps", minimum=0)
        if self.eps == 0:
            raise ValueError(f"eps must be above 0, got {eps!r}; accuracy without an attack is measured anyway.")
        # norm and version are checked now, rather than in setup
        AutoAttack(norm=norm or "linf", version=version)
        self.max_samples = None if max_samples is None else check_positive(max_samples, "max_samples")
        self.curve_eps = None if curve_eps is None else [to_float(value, "curve_eps", minimum=0) for value in curve_eps]
        self.masking = masking
        self.examples = 0 if examples == 0 else check_positive(examples, "examples")
        self.class_names = class_names
        self.batch_size = None if batch_size is None else check_positive(batch_size, "batch_size")
        self.progress, self.acceleration, self.seed = progress, acceleration, seed
        self.keys = checked_keys(keys)
        self.mean, self.std = mean, std
        self._units = PixelUnits(mean, std, "RobustEvaluation")
        self.reports: list[RobustnessReport] = []
        self._collected: list[CollectedImages] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can be attacked, that there is a budget, and that no name is taken."""
        check_classifier(pl_module, "RobustEvaluation")
        if stage != "test":
            return
        attacks = self._attacks(pl_module)
        self._curve(attacks)
        if self.masking:
            budget_to_look_at(attacks)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for other in callbacks:
            if isinstance(other, RobustEvaluation) and other is not self:
                raise ValueError("two RobustEvaluation callbacks would write the same files; give one all attacks.")
            if isinstance(other, RobustAccuracy) and (shared := attacks.keys() & other.attacks.keys()):
                raise ValueError(
                    f"RobustEvaluation and RobustAccuracy both log test/robust_acc/{sorted(shared)[0]}; rename the "
                    "attack of one of them."
                )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last test."""
        self._collected = [CollectedImages(share, self._units) for share in shares(trainer, self.max_samples)]
        self.reports = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the images."""
        self._collected[dataloader_idx].add(*taken_apart(batch, self.keys, "RobustEvaluation"))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attack, and leave the results."""
        ranks = ProcessGroup() if trainer.world_size > 1 else Alone()
        collected, self._collected = self._collected, []
        saved: list[Path] = []
        for images in collected:
            images.tally.warn()
        # so that the images of reports are no inference tensors
        with torch.inference_mode(False):
            for index, images in enumerate(collected):
                x, y = images.gather(ranks)
                if len(x) > 0:
                    suffix = f"/dataloader_{index}" if len(collected) > 1 else ""
                    self.reports.append(self._report(trainer, pl_module, x, y, ranks, suffix, saved))
        # until here a killed test finds all of its progress; now no process reads it any more
        ranks.gather(None)
        if trainer.is_global_zero and saved:
            for folder in set(saved):
                shutil.rmtree(folder)
            if not any(saved[0].parent.iterdir()):
                saved[0].parent.rmdir()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the images."""
        self._collected = []

    def _report(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        x: Tensor,
        y: Tensor,
        ranks: Alone,
        suffix: str,
        saved: list[Path],
    ) -> RobustnessReport:
        attacks = self._attacks(pl_module)
        curve = self._curve(attacks)
        # log_dir asks the main process, so every process must read it
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        leaves_files = not trainer.fast_dev_run  # type: ignore[attr-defined]
        if leaves_files:
            # a name of its own for all that decides the result, so that nothing else is taken for its progress
            marks = fingerprint(pl_module, x, y, {**attacks, "curve": curve}, self.seed)
            marks |= {} if self.mean is None else {"units": str((self.mean, self.std))}
            digest = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]
            saved.append(Path(trainer.default_root_dir, _PROGRESS, digest))
        with evaluation(pl_module, pl_module.device):
            model = self._units.seen_by(Logits(pl_module), dtype_of(pl_module))
            if self.class_names is not None:
                with torch.no_grad():
                    self._check_class_names(pl_module, model(x[:1].to(pl_module.device)))
            report = evaluate_robustness(
                model,
                x,
                y,
                attacks,
                curve=curve,
                masking=self.masking,
                seed=self.seed,
                batch_size=self.batch_size,
                progress=self.progress and trainer.progress_bar_callback is not None,
                checkpoint=saved[-1] if leaves_files else None,
                acceleration=self.acceleration,
                ranks=ranks,
            )
        if leaves_files and trainer.is_global_zero:
            write_report(folder, "robust_evaluation" + suffix.replace("/", "_"), report)
        for name, rate in rates_to_log(report).items():
            pl_module.log(f"test/robust_acc/{name}{suffix}", rate.accuracy, sync_dist=True)
        names = self.class_names
        show_report(trainer, pl_module, report, x, y, model, examples=self.examples, class_names=names, suffix=suffix)
        return report

    def _attacks(self, pl_module: pl.LightningModule) -> dict[str, Attack]:
        if self.attacks is not None:
            return self.attacks
        norm, eps = self.norm or "linf", self.eps
        trained = budget_of(getattr(pl_module, "attack", None))
        if eps is None:
            if trained is None:
                raise ValueError(
                    f"RobustEvaluation needs a budget, and {type(pl_module).__name__} has no training attack to take "
                    "it from; give one, such as eps=8/255, or attacks."
                )
            norm, eps = trained
        elif self.norm is None and trained is not None:
            norm = trained[0]
        # the bare name is that of the suite whose number people quote
        name = "autoattack" if self.version == "standard" else f"autoattack_{self.version}"
        return {name: AutoAttack(norm=norm, eps=eps, version=self.version, seed=self.seed)}

    def _curve(self, attacks: Mapping[str, Attack]) -> CurveSettings | None:
        bounded = [attack for attack in attacks.values() if budget_of(attack) is not None]
        if self.curve_eps == [] or (self.curve_eps is None and not bounded):
            return None
        if not bounded:
            raise ValueError(f"curve_eps={self.curve_eps} needs an attack with a budget eps > 0 to scale; give one.")
        return CurveSettings.around(bounded[-1], self.curve_eps)

    def _check_class_names(self, pl_module: pl.LightningModule, logits: Tensor) -> None:
        names, num_classes = len(self.class_names or ()), logits.shape[-1]
        if names < num_classes:
            raise ValueError(
                f"class_names has {names} names, but {type(pl_module).__name__} gives {num_classes} classes; give one "
                "name per class."
            )

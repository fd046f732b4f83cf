"""Adversarial training of any LightningModule."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_advreg.attacks import Attack, AttackSchedule, Model, ModelMode, borrowed
from lightning_advreg.attacks.schedule import given_schedule
from lightning_advreg.attacks.variants import unchecked
from lightning_advreg.callbacks.batches import KEYS, Keys, check_labels, checked_keys, put_together, taken_apart
from lightning_advreg.callbacks.changed_batches import BatchChange
from lightning_advreg.callbacks.pixel_units import PixelUnits
from lightning_advreg.checks import check_batch, check_types
from lightning_advreg.modules import AdversarialClassifier
from lightning_advreg.modules.schedules import scheduled_attack
from lightning_advreg.values import Number, to_float


class AdversarialTraining(BatchChange):
    """Train a LightningModule on attacked images, without a change to its code.

    While ``fit`` runs, the images ``x`` of each batch are replaced before ``training_step`` sees them, so the module
    minimises its own loss at ``x_adv = attack(model, x, y)`` (Madry et al. 2018, eq. 2.1). The rest of the training is
    the module's: automatic or manual optimisation, accumulated gradients, several processes, any precision; the attack
    runs under the autocast that ``training_step`` runs under. Each batch is attacked once: an optimizer that asks for
    the loss again, such as LBFGS, gets it at the same images. Batches themselves are never written to, and other
    callbacks see them clean. Validation and test are left alone (see ``RobustAccuracy`` for these).

    Attacks think in pixels from 0 to 1. Where the data come normalised, give the ``mean`` and ``std`` they were
    normalised with: the attack and its budget are then in pixels, and ``training_step`` gets normalised images again.

    Batches are ``(x, y)``, ``[x, y]``, or have images ``(N, C, H, W)`` and class indices ``(N,)`` at the two ``keys``;
    what else they hold is handed on as it is. The first batch is checked: pixels, labels, and one logit per class.
    Where they are scheduled, ``train/eps_factor`` and ``train/attack_steps`` are logged in every batch.

    Args:
        attack: The inner maximisation; any callable ``attack(model, x, y) -> x_adv`` will do. Parameters are frozen
            meanwhile, and layers in the mode that ``attack.model_mode`` says (``eval`` where it says none).
        model: What is attacked, from images to logits ``(N, K)``: the name of a part of the module, such as ``"net"``
            or ``"backbone.head"``, or a callable. By default the module itself, through its ``forward``.
        eps_warmup_epochs: Let the attack's budget and steps grow linearly from 0 over so many epochs; short for
            ``attack_schedule=AttackSchedule(eps_factor=Ramp(epochs=...))``.
        attack_schedule: How the attack's budget and number of steps change during training. Its epochs have fractions,
            but where the loader has no length.
        mean: What was subtracted from each channel of the images, in [0, 1]; None for images in [0, 1].
        std: What each channel was divided by then, positive.
        keys: Where a batch has its images and labels: keys of a dict, such as ``("pixels", "class")``, or places in a
            tuple, such as ``(0, 1)``. Pairs need none.

    Raises:
        TypeError: If the attack cannot be called, or cannot follow the schedule; in ``fit``, if a batch is of another
            kind, or the model gives no logits.
        ValueError: If an argument is out of its range, or the schedule is given in both forms; in ``fit``, if pixels or
            labels are out of range, or the module is attacked already.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> trainer = pl.Trainer(callbacks=[AdversarialTraining(PGD(eps="8/255", steps=7))], logger=False)
        >>> # normalised in the data; the logits come from a part of the module
        >>> callback = AdversarialTraining(PGD(), "net", mean=(0.491, 0.482, 0.447), std=(0.247, 0.243, 0.262))
    """

    def __init__(
        self,
        attack: Attack,
        model: str | Callable[[Tensor], Tensor] | None = None,
        eps_warmup_epochs: Number = 0.0,
        *,
        attack_schedule: AttackSchedule | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        keys: Keys = KEYS,
    ) -> None:
        super().__init__()
        if not callable(attack):
            raise TypeError(
                f"attack must be called as attack(model, x, y), got {attack!r}; give an object such as PGD(steps=7)."
            )
        if model is not None and not isinstance(model, str) and not callable(model):
            raise TypeError(f"model must be a name such as 'net', or a callable, got {model!r}.")
        self.attack = attack
        self.model = model
        self.eps_warmup_epochs = to_float(eps_warmup_epochs, "eps_warmup_epochs", minimum=0)
        self.mean, self.std = mean, std
        self.keys = checked_keys(keys)
        # the first batch is checked here, and the others are spared the synchronisation
        self._attack = unchecked(attack)
        self.attack_schedule = given_schedule(attack_schedule, eps_warmup_epochs, attack)
        self._units = PixelUnits(mean, std, type(self).__name__)
        self._victim: _Victim | None = None
        self._checked = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to attack images twice."""
        if stage != "fit":
            return
        if isinstance(pl_module, AdversarialClassifier):
            raise ValueError(
                f"{type(pl_module).__name__} attacks its training images already; take AdversarialTraining off the "
                "callbacks, or train a RegularizedClassifier with it."
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, AdversarialTraining) for callback in callbacks) > 1:
            raise ValueError("two AdversarialTraining callbacks would attack the images one after the other; keep one.")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the model, and stand between the Trainer and ``training_step``."""
        self._victim = _Victim(pl_module, self._find_model(pl_module), self._units)
        self._checked = False
        super().on_fit_start(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the module too."""
        super().teardown(trainer, pl_module, stage)
        self._victim = None

    def _find_model(self, module: pl.LightningModule) -> Model:
        name = type(module).__name__
        if self.model is None:
            if not is_overridden("forward", module):
                raise TypeError(
                    f"AdversarialTraining calls {name} to get logits, but it defines no `forward`; name the part of it "
                    "that gives logits, as in AdversarialTraining(attack, model='net'), or add a `forward`."
                )
            return module
        if not isinstance(self.model, str):
            return self.model
        try:
            found = attrgetter(self.model)(module)
        except AttributeError as error:
            parts = ", ".join(part for part, _ in module.named_children()) or "none"
            raise ValueError(f"{name} has no part named model={self.model!r}; its parts are: {parts}.") from error
        if not callable(found):
            raise TypeError(f"model={self.model!r} of {name} cannot be called, it is {type(found).__name__}.")
        return cast(Model, found)

    def changed(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object) -> object:
        """Give the batch with attacked images."""
        victim = self._victim
        assert victim is not None
        x, y = taken_apart(batch, self.keys, type(self).__name__)
        check_labels(y)
        check_types(x, y)
        victim.dtype = x.dtype
        pixels = self._units.pixels(x)
        if not self._checked:
            self._check(victim, pixels, y)
            self._checked = True
        attack = self._attack_now(trainer, pl_module)
        mode: ModelMode = getattr(attack, "model_mode", "eval")
        with borrowed(victim, mode):
            # a copy, since an attack of the user's own may write to what it is given
            x_adv = attack(victim, pixels.clamp(0, 1), y).detach()
        return put_together(batch, self.keys, self._units.as_given(x_adv, x.dtype))

    def _attack_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Attack:
        if self.attack_schedule is None:
            return self._attack
        epoch = trainer.current_epoch + self._batch_idx / trainer.num_training_batches
        return scheduled_attack(pl_module, self.attack_schedule, self._attack, epoch)

    def _check(self, victim: "_Victim", pixels: Tensor, y: Tensor) -> None:
        low, high = (bound.item() for bound in pixels.detach().aminmax())
        # written so that NaN fails too
        if not (low >= -self._units.tolerance and high <= 1 + self._units.tolerance):
            raise ValueError(_out_of_range(low, high, self.mean, self.std))
        with borrowed(victim), torch.no_grad():
            logits = victim(pixels[:1])
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(
                f"the model must give logits (N, K), for one image (1, K), got {shape}; name a part of the module or "
                "give a callable that does: AdversarialTraining(attack, model=...)."
            )
        check_batch(pixels.clamp(0, 1), y, num_classes=logits.shape[1])
        if bool((logits >= 0).all() & ((logits.sum(1) - 1).abs() < 1e-3).all()):
            rank_zero_warn(
                "The model that AdversarialTraining attacks gives probabilities. Gradients vanish where it is sure, "
                "and the attack with them: give logits, with AdversarialTraining(attack, model=...)."
            )


class _Victim(nn.Module):
    """What the attack sees: from [0, 1] images to logits, with all layers of the module in reach.

    It is in training mode itself, whatever the module is: an attack in training mode then leaves frozen layers frozen.
    """

    def __init__(self, module: pl.LightningModule, model: Model, units: PixelUnits) -> None:
        super().__init__()
        # the whole module, so that its layers are frozen also where the model is a plain function
        self.module = module
        self.model = model
        self.units = units
        self.dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``(N, K)`` for pixels in [0, 1]."""
        return self.model(self.units.as_given(x, self.dtype))


def _out_of_range(low: float, high: float, mean: Sequence[float] | None, std: Sequence[float] | None) -> str:
    if mean is not None and std is not None:
        return (
            f"with mean={tuple(mean)} and std={tuple(std)} undone, pixels of the first training batch go from {low:g} "
            f"to {high:g}, but must lie in [0, 1]; give AdversarialTraining the mean and std that the data are "
            "normalised with, in units of [0, 1] pixels, or none if they are not normalised."
        )
    return (
        f"attacks take pixels in [0, 1], but those of the first training batch go from {low:g} to {high:g}. If the "
        "data are normalised, give the numbers: AdversarialTraining(attack, mean=(...), std=(...)), one per channel; "
        "if they go up to 255, divide by 255 in the data."
    )

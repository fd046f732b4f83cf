"""The random generators and the place of a run in its epoch: kept between two steps, and found again."""

import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info, rank_zero_warn

from lightning_advreg.callbacks.loop_moments import begin_with_an_epoch_
from lightning_advreg.callbacks.resume_file import KEY, is_finished
from lightning_advreg.random_state import State, random_state, set_random_state


class Course:
    """What a run has to find again beside its weights, from moment to moment of the run: generators, place, metrics.

    Generators are put back late, when nothing but the next batch is to come, since hooks and loaders that a new start
    calls again may draw from them. An iterator over a loader that does not tell its place is made anew, with the
    generators from which it was made and from which it gave its first batch, and the batches trained on are skipped.

    Attributes:
        finished: Whether the run that was loaded was at its end.
    """

    def __init__(self) -> None:
        self.finished = False
        self._loaded: dict[str, Any] | None = None
        self._continued: dict[str, Any] | None = None
        # before the iterator over the epoch is made, and before its first batch
        self._epoch_start: list[State] = []

    def load(self, trainer: pl.Trainer, kept: dict[str, Any] | None) -> None:
        """Take over what :meth:`kept` gave; None where a checkpoint holds nothing.

        Raises:
            ValueError: If it is anything else.
        """
        self._loaded = kept
        if kept is not None:
            _check(kept)
        processes = trainer.world_size if kept is None else len(kept["generators"])
        if kept is not None and processes != trainer.world_size:
            rank_zero_warn(
                f"this run was saved by {processes} processes and continues on {trainer.world_size}, so that random "
                "numbers are others than they would have been; for the same weights continue on as many as before."
            )
            self._loaded = {**kept, "generators": None, "epoch_start": None}

    def kept(self, trainer: pl.Trainer, place: str | None) -> dict[str, Any]:
        """Give the generators of all processes, and those at the start of the epoch where they are needed.

        Args:
            trainer: The trainer; every process has to ask.
            place: ``"step"`` between two steps of an epoch, ``"epoch"`` between two epochs, None for elsewhere.
        """
        mine = random_state(trainer.strategy.root_device), self._epoch_start if place == "step" else []
        everyone = _gathered(mine)
        return {
            "place": place,
            "generators": [now for now, _ in everyone],
            "epoch_start": [start for _, start in everyone],
            # what schedulers and callbacks that look at the last validation go by until the next one
            "metrics": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
        }

    def run_begins(self, trainer: pl.Trainer) -> None:
        """Before loaders are made."""
        if self._place == "step":
            # what Lightning warns of here is what is taken care of
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        if self._place == "epoch":
            begin_with_an_epoch_(trainer)
            self.finished = is_finished({KEY: self._loaded}, trainer.max_epochs, trainer.max_steps)
            trainer.should_stop = self.finished
        elif self._loaded is not None and self._place is None:
            # Lightning saved it within a batch or an epoch: the best that can be done
            self._put_back(trainer, self._loaded)
        self._epoch_start = [random_state(trainer.strategy.root_device)]

    def run_has_begun(self, trainer: pl.Trainer) -> None:
        """After the hooks of the start."""
        if self._place == "epoch":
            self._put_back(trainer, self._loaded)

    def epoch_begins(self, trainer: pl.Trainer, fetcher: Any) -> None:  # noqa: ANN401
        """Before the first batch of an epoch, or the first after a start, is fetched.

        Args:
            trainer: The trainer.
            fetcher: The iterator over batches, which Lightning makes anew in all but the first epoch of a start.
        """
        if _tells_its_place(trainer):
            return
        if self._place == "step":
            self._fetch_again(trainer, fetcher)
        elif self._place == "epoch":
            self._epoch_start = [random_state(trainer.strategy.root_device)]
            iter(fetcher)
        elif trainer.current_epoch > 0 and not trainer.fit_loop.is_resuming:
            self._epoch_start = [random_state(trainer.strategy.root_device)]

    def epoch_has_begun(self, trainer: pl.Trainer) -> None:
        """Right before that batch."""
        if self._place == "step":
            self._put_back(trainer, self._loaded)
            self._continued = self._loaded
        elif _tells_its_place(trainer):
            self._epoch_start = []
        else:
            self._epoch_start = [*self._epoch_start[:1], random_state(trainer.strategy.root_device)]
        self._loaded = None

    def validation_passed_over(self, trainer: pl.Trainer) -> None:
        """After a start right behind a validation, over which Lightning passes, but for which it makes an iterator."""
        self._put_back(trainer, self._continued)
        self._continued = None

    def epoch_ends(self, trainer: pl.Trainer) -> None:
        """Before what ends an epoch."""
        waiting = [config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
        # Lightning leaves these schedulers out at the end of an epoch that was continued, as metrics may be missing
        if all(monitor in trainer.callback_metrics for monitor in waiting):
            trainer.fit_loop._restarting = False

    @property
    def _place(self) -> str | None:
        return None if self._loaded is None else self._loaded["place"]

    def _fetch_again(self, trainer: pl.Trainer, fetcher: Any) -> None:  # noqa: ANN401
        assert self._loaded is not None
        starts, device = self._loaded["epoch_start"], trainer.strategy.root_device
        self._epoch_start = starts[trainer.global_rank] if starts else []
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        rank_zero_info(f"{batches} batches of the epoch are fetched again, to go on with the one after them.")
        for state in self._epoch_start[:1]:
            set_random_state(state, device)
        iter(fetcher)
        for state in self._epoch_start[1:]:
            set_random_state(state, device)
        for _ in range(batches):
            next(fetcher)
        # the loop counts them itself
        fetcher.fetched -= batches

    def _put_back(self, trainer: pl.Trainer, kept: dict[str, Any] | None) -> None:
        if kept is None:
            return
        device = trainer.strategy.root_device
        trainer.callback_metrics.update({name: value.to(device) for name, value in kept.get("metrics", {}).items()})
        if kept["generators"] is not None:
            set_random_state(kept["generators"][trainer.global_rank], device)


def _check(kept: dict[str, Any]) -> None:
    lists = isinstance(kept.get("generators"), list) and isinstance(kept.get("epoch_start"), list)
    metrics = kept.get("metrics", {})
    measured = isinstance(metrics, dict) and all(isinstance(value, torch.Tensor) for value in metrics.values())
    if not lists or not measured or kept.get("place") not in ("step", "epoch", None):
        raise ValueError(
            f"what ExactResume kept in this checkpoint is damaged: it holds {sorted(map(str, kept))}; continue from "
            "another checkpoint."
        )


def _tells_its_place(trainer: pl.Trainer) -> bool:
    loaders = CombinedLoader(trainer.train_dataloader, "min_size").flattened
    return any(hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict") for loader in loaders)


def _gathered(mine: tuple[State, list[State]]) -> list[tuple[State, list[State]]]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone

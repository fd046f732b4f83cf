"""What all LightningModules of this library share: safe checkpoints and exact continuation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins import hparams_mixin
from lightning.pytorch.utilities import rank_zero_warn
from typing_extensions import Self

from lightning_advreg import __version__
from lightning_advreg.data.share import Share, shares
from lightning_advreg.files.checkpoints import KEY, read_checkpoint
from lightning_advreg.files.differences import check_fit
from lightning_advreg.files.packages import check_class_paths
from lightning_advreg.files.refused import RefusedFile
from lightning_advreg.modules.hyperparameters import class_path, describe_all
from lightning_advreg.networks.changes import changes_in, note_changes, noted_changes
from lightning_advreg.networks.norm_surgery import replace_norms_
from lightning_advreg.random_state import random_state, set_random_state
from lightning_advreg.recorded import Recorded

T = TypeVar("T")


class CheckpointedModule(Recorded, LightningModule):
    """A LightningModule whose checkpoints hold plain values alone, and from which training continues exactly.

    - Hyper-parameters are stored as class paths and numbers, whether the module was made by the command line or in
      Python, so that ``torch.load(weights_only=True)`` reads them and ``load_from_checkpoint`` rebuilds the module. An
      argument that plain values cannot describe, such as a network of the user's own, is left out, and is asked for
      when the checkpoint is loaded; one that has a default, such as an optimizer, is named in a warning.
    - The state of the random generators is stored, and restored when training continues (in one process; the callback
      ``ExactResume`` keeps that of every process).
    - A checkpoint of another class, of a newer version of this library, or with weights that do not fit is refused, and
      nothing that a checkpoint says is run.

    Args:
        required: The arguments without which the module cannot be rebuilt.
    """

    required: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._random_state: dict[str, Any] | None = None
        self._share = Share(None)
        # what LightningCLI parsed names foreign classes too; no public function tells whether it is at work
        parsed = hparams_mixin._given_hyperparameters.get()
        self.save_hyperparameters(
            {
                "_class_path": class_path(type(self)),
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
                **describe_all(self.init_args),
            }
            if parsed is None
            else dict(parsed)
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which class and version this is, and the state of the random generators."""
        checkpoint[KEY] = {
            "class": class_path(type(self)),
            "version": __version__,
            "random_state": random_state(self.device),
            "left_out": sorted(self.init_args.keys() - self.hparams.keys()),
            "changes": noted_changes(self),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another class, and remember the state of the random generator."""
        stored = checkpoint.get(KEY, {})
        _check_class(type(self), stored.get("class"))
        state = stored.get("random_state")
        # older checkpoints hold PyTorch's generator alone
        self._random_state = {"torch": state} if isinstance(state, torch.Tensor) else state
        self._follow_changes(changes_in(checkpoint.get("state_dict", {})), stored.get("changes", {}))

    def on_fit_start(self) -> None:
        """Continue the random streams where the checkpoint left them."""
        # one state was saved, which several processes must not share: their noise would be the same
        if self._random_state is not None and self.trainer.world_size == 1:
            set_random_state(self._random_state, self.device)
        self._random_state = None

    def counted(self, size: int, batch_idx: int) -> int:
        """Give how many images at the start of a batch of validation or test count, each once over all processes.

        To deal images out evenly among processes, the sampler that Lightning puts into a plain loader repeats some.

        Args:
            size: How many images the batch has.
            batch_idx: Its number; every batch must be asked for, in order.
        """
        if batch_idx == 0:
            self._share = Share(None) if self._trainer is None else shares(self.trainer, None)[0]
        return self._share.take(size)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load weights, and say which names or shapes differ where they do not fit.

        Args:
            state_dict: The weights.
            strict: Whether the names must match exactly.
            assign: Take the tensors themselves, as in PyTorch.

        Raises:
            UnfitWeights: If names or shapes differ.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError:
            check_fit(type(self).__name__, self.state_dict(), state_dict)
            raise

    def _follow_changes(self, texts: Sequence[str], changes: Mapping[str, Any]) -> None:
        """Replace layers as the checkpoint's were, or, within a Trainer, say which callback does it."""
        if noted_changes(self) or not texts:
            return
        if self._trainer is not None:
            raise ValueError(
                f"this checkpoint was trained with {', '.join(texts)}, which replaced layers of the network; give the "
                f"Trainer callbacks=[{', '.join(texts)}]."
            )
        for arguments in changes.values():
            replace_norms_(getattr(self, "network", self), **arguments)
        note_changes(self, changes)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,  # noqa: ANN401
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Rebuild a module from a checkpoint file, with Lightning's arguments.

        Args:
            checkpoint_path: The file.
            map_location: Where to put tensors, as in ``torch.load``.
            hparams_file: Hyper-parameters that replace the checkpoint's.
            strict: Whether the weights must match exactly.
            weights_only: Taken for Lightning's sake: anything but tensors and plain values is always refused.
            **kwargs: Constructor arguments that replace the checkpoint's, such as ``network``.

        Raises:
            FileNotFoundError: If there is no such file.
            RefusedFile: A ``ValueError``, if the file is no whole checkpoint, asks for anything but tensors and plain
                values, names classes that would have to be imported from elsewhere, was written by a newer version or
                by another class, or its weights do not fit.
            ValueError: If the checkpoint lacks an argument that cannot be rebuilt.
        """
        if "://" not in str(checkpoint_path):
            stored = _read(checkpoint_path)
            _check_class(cls, stored.get(KEY, {}).get("class"))
            arguments = stored.get("hyper_parameters", {})
            if hparams_file is None:
                kept = {name: value for name, value in arguments.items() if name not in kwargs}
                check_class_paths(kept, str(checkpoint_path))
                _check_complete(cls, {**arguments, **kwargs}, checkpoint_path)
                _warn_of_defaults(stored.get(KEY, {}).get("left_out", ()), kwargs, checkpoint_path)
            if "_class_path" in arguments and hparams_file is None:
                # a subclass may continue what its base class saved
                kwargs["_class_path"] = class_path(cls)
        # Lightning's method refuses to run on an instance, so it is called as it is found on the class
        module = super().load_from_checkpoint(
            checkpoint_path,
            map_location=map_location,
            hparams_file=hparams_file,
            strict=strict,
            weights_only=True,
            **kwargs,
        )
        assert isinstance(module, cls)
        return module


def by_name(objects: Sequence[T]) -> dict[str, T]:
    """Name objects by their classes in lower case, functions by their own names; numbered where one occurs twice.

    Example:
        >>> by_name([1, 2.0, 3])
        {'int': 1, 'float': 2.0, 'int_2': 3}
    """
    named: dict[str, T] = {}
    counts: dict[str, int] = {}
    for item in objects:
        name = getattr(type(item), "__name__", "object").lower()
        if name == "function":
            name = getattr(item, "__name__", name)
        counts[name] = counts.get(name, 0) + 1
        named[name if counts[name] == 1 else f"{name}_{counts[name]}"] = item
    return named


def _read(source: str | Path | IO[bytes]) -> dict[str, Any]:
    if isinstance(source, str | Path):
        return read_checkpoint(source, mmap=True)
    begin = source.tell()
    stored = read_checkpoint(source)
    source.seek(begin)
    return stored


def _check_class(cls: type, stored: str | None) -> None:
    known = {class_path(base) for base in cls.__mro__}
    if stored is None or stored in known or stored.rpartition(".")[2] in {base.__name__ for base in cls.__mro__}:
        return
    raise RefusedFile(
        f"this checkpoint was saved by {stored}, not by {class_path(cls)}; load it with "
        f"{stored.rpartition('.')[2]}.load_from_checkpoint, or take its weights alone from its 'state_dict'."
    )


def _check_complete(cls: type[CheckpointedModule], arguments: Mapping[str, Any], path: object) -> None:
    missing = [name for name in cls.required if name not in arguments]
    if missing:
        given = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"{path} does not say how to build {' and '.join(missing)}, since it was made with an object that is not "
            f"of this library; give it again: {cls.__name__}.load_from_checkpoint(path, {given})."
        )


def _warn_of_defaults(left_out: Sequence[str], given: Mapping[str, Any], path: object) -> None:
    names = [name for name in left_out if name not in given]
    if names:
        rank_zero_warn(
            f"{path} does not say which {' and '.join(names)} it was made with, since plain values cannot describe "
            "that; the default is used, unless you give it again: "
            f"load_from_checkpoint(path, {', '.join(f'{name}=...' for name in names)})."
        )

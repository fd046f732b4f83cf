"""Checkpoints that a full disk does not destroy, and that run nothing when they are loaded."""

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.accelerators import XLAAccelerator
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn
from torch.serialization import get_unsafe_globals_in_checkpoint
from typing_extensions import override

from lightning_advreg.files.atomic import clear_drafts, writing
from lightning_advreg.files.checkpoints import read_checkpoint
from lightning_advreg.files.outlasting import SURVIVED


class SafeCheckpointIO(CheckpointIO):
    """Write checkpoints as a whole or not at all, and load them without running anything of theirs.

    ``Trainer(plugins=[SafeCheckpointIO()])``; the command line has it by default.

    - A checkpoint takes the place of an earlier one when all of it is on the disk.
    - Where the disk is full or cannot be written, the earlier one stays, the training goes on, and one warning names
      the file and the remedy. Checkpoints that would be deleted in favour of the one that failed are kept until the
      next one is written.
    - A checkpoint that could not be loaded again, since it holds objects of other classes, is named in a warning when
      the first one is written.
    - Loading takes tensors and plain values alone, also where ``weights_only`` says otherwise, and gives one clear
      error for any file that is not a whole checkpoint: see :func:`lightning_advreg.files.read_checkpoint`.

    Paths of remote file systems (``s3://...``) are written by Lightning, and loaded with the same care. Strategies that
    write folders (FSDP with ``state_dict_type="sharded"``, DeepSpeed) do not use this plugin.

    Attributes:
        failed: The last checkpoint that could not be written, or None since one has been.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "last.ckpt")
        >>> plugin = SafeCheckpointIO()
        >>> plugin.save_checkpoint({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, path)
        >>> plugin.load_checkpoint(path)["state_dict"]
        {}
    """

    def __init__(self) -> None:
        self.failed: Path | None = None
        self._spared: list[Path] = []
        self._cleared: set[Path] = set()
        self._looked = False

    @override
    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint, or leave the earlier file and warn.

        Args:
            checkpoint: What to write.
            path: The file.
            storage_options: Not taken, as by Lightning's own plugin.

        Raises:
            TypeError: If ``storage_options`` are given.
            OSError: If the path is none that could ever be written, such as one below a file.
        """
        if storage_options is not None or _is_remote(path):
            TorchCheckpointIO().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        self._clear(path.parent)
        try:
            with writing(path) as draft, _DeferringFile(draft) as file:
                torch.save(checkpoint, cast(IO[bytes], file))
                file.settle()
        except OSError as error:
            if error.errno not in SURVIVED:
                raise
            self._fail(path, error)
        else:
            self._recover(path)
            self._warn_of_code(path)

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint: tensors and plain values alone.

        Args:
            path: The file.
            map_location: Where to put tensors; on the CPU by default.
            weights_only: Taken for Lightning's sake. A file that needs ``False`` is refused.

        Raises:
            FileNotFoundError: If there is no such file.
            RefusedFile: If it is no whole checkpoint, or asks for anything but tensors and plain values.
        """
        location = "cpu" if map_location is None else map_location
        if _is_remote(path):
            filesystem = get_filesystem(path)
            if not filesystem.exists(path):
                raise FileNotFoundError(f"there is no checkpoint {path}; look at the path.")
            with filesystem.open(str(path), "rb") as file:
                return read_checkpoint(file, map_location=location)
        return read_checkpoint(path, map_location=location)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, unless it was to make room for one that could not be written.

        Args:
            path: The file, or the folder of a strategy that writes folders.
        """
        if self.failed is not None and not _is_remote(path):
            self._spared.append(Path(path))
            return
        TorchCheckpointIO().remove_checkpoint(path)

    def _clear(self, folder: Path) -> None:
        if folder not in self._cleared:
            self._cleared.add(folder)
            clear_drafts(folder)

    def _fail(self, path: Path, error: OSError) -> None:
        if self.failed is None:
            there = "the earlier file of that name is whole" if path.exists() else "earlier checkpoints are kept"
            rank_zero_warn(
                f"{path} could not be written ({error.strerror or error}): {there}, and the training goes on without "
                "a new one. Free space on the disk or make the folder writable before the next checkpoint is due."
            )
        self.failed = path

    def _recover(self, written: Path) -> None:
        self.failed = None
        spared, self._spared = self._spared, []
        for path in spared:
            if path != written:
                TorchCheckpointIO().remove_checkpoint(path)

    def _warn_of_code(self, path: Path) -> None:
        if self._looked:
            return
        self._looked = True
        names = get_unsafe_globals_in_checkpoint(path)
        if names:
            rank_zero_warn(
                f"{path} holds {', '.join(names[:3])}, and only tensors and plain values are loaded again; keep plain "
                "values in hyper-parameters and in the states of callbacks, or call "
                f"torch.serialization.add_safe_globals([{names[0].rpartition('.')[2]}]) before loading."
            )


def with_safe_checkpoints(settings: Mapping[str, Any]) -> list[Any] | None:
    """Give the plugins of a Trainer with a :class:`SafeCheckpointIO`, unless its settings have another of that kind.

    Args:
        settings: The arguments of the Trainer, as objects.
    """
    given = settings.get("plugins")
    plugins = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    # a strategy may have been given one of its own, and Lightning takes only one
    own = getattr(settings.get("strategy"), "_checkpoint_io", None)
    taken = own is not None or any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    # strategies for TPUs write in a way of their own
    if not taken and not XLAAccelerator.is_available():
        plugins.append(SafeCheckpointIO())
    return plugins or None


class _DeferringFile(io.RawIOBase):
    """A file that takes everything, and says at the end what it could not write.

    ``torch.save`` writes from C++, which turns an error of a file into one that names no reason, and may end the
    process when it then closes its archive.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self._error: OSError | None = None

    def close(self) -> None:
        super().close()
        with suppress(OSError):
            self._file.close()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:  # noqa: ANN401
        if self._error is None:
            try:
                self._file.write(content)
            except OSError as error:
                self._error = error
        return len(content)

    def settle(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error
        self._file.close()


def _is_remote(path: str | Path) -> bool:
    return "://" in str(path)

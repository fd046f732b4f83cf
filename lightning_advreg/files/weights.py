"""Weights as safetensors: a file of numbers and text that any program reads, and from which a network is rebuilt."""

import hashlib
import importlib
import json
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_advreg import __version__
from lightning_advreg.files.atomic import writing
from lightning_advreg.files.checkpoints import check_version
from lightning_advreg.files.differences import check_fit
from lightning_advreg.files.refused import RefusedFile, first_line
from lightning_advreg.files.tensors import check_file

NETWORKS = "lightning_advreg.networks"
"""The package whose classes :func:`load_network` builds unless it is told of more."""

_REMEDY = "take it from where it was exported again"
_NETWORK, _CHANGES, _TIED = "network", "changes", "tied"


def export_weights(module: nn.Module, path: str | os.PathLike[str], *, config: str | None = None) -> Path:
    """Write the weights of a network as a safetensors file, as a whole or not at all.

    The file also says, as text: the class of the network and its arguments, if it is one of this library's; the version
    of this library; which names share one tensor (tied weights, of which one copy is stored); and the SHA-256 of the
    configuration, if one is given. Tensors are stored contiguous and with the layout that PyTorch has by default.

    Args:
        module: A network, or a LightningModule with a ``network`` (of a GAN: its ``generator_ema`` or ``generator``).
        path: The file; its folder is made.
        config: The text of the configuration that the network was trained with.

    Returns:
        The path.

    Raises:
        ValueError: If there is nothing to write, or a tensor that safetensors cannot hold, such as a sparse one.
        OSError: If it cannot be written; the file that was there is as it was.

    Example:
        >>> import tempfile
        >>> from lightning_advreg.networks import MNISTConvNet
        >>> network = MNISTConvNet(image_size=8, width=4, hidden=8)
        >>> path = export_weights(network, Path(tempfile.mkdtemp(), "weights.safetensors"))
        >>> again = load_network(path)
        >>> type(again).__name__, torch.equal(again.features[0].weight, network.features[0].weight)
        ('MNISTConvNet', True)
    """
    network = network_of(module)
    weights, tied = _separate(network.state_dict(keep_vars=True))
    if not weights and not tied:
        raise ValueError(f"{type(network).__name__} has no weights to export; give a network that has some.")
    metadata = {"format": "pt", "lightning_advreg": __version__, _TIED: json.dumps(tied)}
    described = _describe(network)
    if described is not None:
        metadata[_NETWORK] = json.dumps(described)
    changes = _changes(module) or _changes(network)
    if changes:
        metadata[_CHANGES] = json.dumps(changes)
    if config is not None:
        metadata["config_sha256"] = hashlib.sha256(config.encode()).hexdigest()
    path = Path(path)
    try:
        with writing(path) as draft:
            draft.touch()
            mode = draft.stat().st_mode
            save_file(weights, draft, metadata=metadata)
            # it makes files that nobody but their owner may read
            draft.chmod(mode & 0o777)
    except SafetensorError as error:
        # it says why a disk could not be written in words of its own
        raise OSError(f"{path} could not be written: {first_line(error)}; free space, or give another path.") from error
    return path


def load_weights(network: nn.Module, path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> None:
    """Put the weights of a safetensors file into a network, in place, whole or not at all.

    Args:
        network: The network, or a LightningModule with one; it stays where it is.
        path: The file, of :func:`export_weights` or of any other program.
        device: Where to read the file to.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it is no whole safetensors file, or was written by a newer version of this library.
        UnfitWeights: If a name or a shape differs from the network's; no weight has been changed then.
    """
    weights, _ = read_weights(path, device=device)
    target = network_of(network)
    check_fit(type(target).__name__, target.state_dict(), weights, str(path))
    target.load_state_dict(weights)


def load_network(
    path: str | os.PathLike[str],
    *,
    allow_packages: Sequence[str] = (NETWORKS,),
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Rebuild a network from a file of :func:`export_weights` alone.

    Args:
        path: The file.
        allow_packages: The packages whose classes may be built. The file names one; that of another package is
            refused before it is imported.
        device: Where to put the network.

    Returns:
        The network, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it is no whole safetensors file, names no network, or one of a package that is not allowed, or
            arguments that its class does not take.
        UnfitWeights: If the weights do not fit the network that it names.
    """
    weights, metadata = read_weights(path, device=device)
    described = _json(metadata, _NETWORK, path)
    if not described:
        raise RefusedFile(
            f"{path} does not say how to build its network, since that was none of this library; build it yourself, "
            "and call load_weights(network, path)."
        )
    cls = _class(str(described.get("class_path")), path, allow_packages)
    arguments = described.get("init_args")
    if not isinstance(arguments, dict):
        raise RefusedFile(f"{path} is damaged: it names no arguments of {cls.__name__}; {_REMEDY}.")
    try:
        network = cls(**arguments)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise RefusedFile(
            f"{path} names arguments that {cls.__name__} does not take: {first_line(error)}; {_REMEDY}, or build the "
            "network yourself and call load_weights(network, path)."
        ) from error
    changes = _json(metadata, _CHANGES, path)
    _change(network, changes, path)
    if any(name.startswith("changed_by.") for name in weights):
        # the note of a change that was made to the network itself, not to the module around it
        importlib.import_module(f"{NETWORKS}.changes").note_changes(network, changes)
    check_fit(cls.__name__, network.state_dict(), weights, str(path))
    network.load_state_dict(weights)
    return network.to(device).eval()


def read_weights(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: The file.
        device: Where to put the tensors.

    Returns:
        The weights by name, tied ones under each of their names, and the text beside them.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it is no whole safetensors file, or was written by a newer version of this library.
    """
    path = Path(path)
    check_file(path, "safetensors file", _REMEDY)
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        raise RefusedFile(f"{path} is no whole safetensors file: {first_line(error)}; {_REMEDY}.") from error
    check_version(metadata.get("lightning_advreg"), str(path))
    tied = _json(metadata, _TIED, path)
    if not all(isinstance(kept, str) and kept in weights for kept in tied.values()):
        raise RefusedFile(f"{path} is damaged: it names tied weights that it does not hold; {_REMEDY}.")
    return weights | {name: weights[kept] for name, kept in tied.items()}, metadata


def network_of(module: nn.Module) -> nn.Module:
    """Give the network that a module is exported as.

    Args:
        module: A LightningModule of this library, whose network or averaged generator it is; any other is itself.
    """
    if hasattr(module, "load_from_checkpoint"):
        for name in ("network", "generator_ema", "generator"):
            found = getattr(module, name, None)
            if isinstance(found, nn.Module):
                return found
    return module


def _separate(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give each tensor memory of its own, and name the tied ones, which are the same tensor throughout."""
    weights: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is a tensor of layout {tensor.layout}, which safetensors cannot hold.")
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        # a clone, so that views of one storage are written one by one; strides of channels_last would be lost
        weights[name] = tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
    return weights, tied


def _describe(network: nn.Module) -> dict[str, Any] | None:
    cls, arguments = type(network), getattr(network, "init_args", None)
    if not isinstance(arguments, Mapping) or "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
        return None
    try:
        plain = json.loads(json.dumps(dict(arguments), default=_number))
    except (TypeError, ValueError):
        return None
    package = importlib.import_module(NETWORKS) if cls.__module__.startswith(f"{NETWORKS}.") else None
    place = NETWORKS if getattr(package, cls.__qualname__, None) is cls else cls.__module__
    return {"class_path": f"{place}.{cls.__qualname__}", "init_args": plain}


def _number(value: object) -> int | float:
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _changes(module: nn.Module) -> dict[str, Any]:
    noted = importlib.import_module(f"{NETWORKS}.changes").noted_changes(module)
    return json.loads(json.dumps(noted)) if noted else {}


def _change(network: nn.Module, changes: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    replace = importlib.import_module(f"{NETWORKS}.norm_surgery").replace_norms_
    for text, arguments in changes.items():
        try:
            replace(network, **arguments)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RefusedFile(f"{path} names {text}, which cannot be made: {first_line(error)}; {_REMEDY}.") from error


def _class(class_path: str, path: str | os.PathLike[str], allowed: Sequence[str]) -> type[nn.Module]:
    package, _, name = class_path.rpartition(".")
    if not any(package == each or package.startswith(f"{each}.") for each in allowed):
        raise RefusedFile(
            f"{path} is of a network {class_path}, which is outside of {', '.join(allowed)}. Nothing was imported. If "
            f"you trust it, call load_network(path, allow_packages=[..., {package!r}])."
        )
    try:
        cls = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise RefusedFile(f"{path} is of a network {class_path}, which there is not: {first_line(error)}.") from error
    # what a package has imported from elsewhere is not its own
    own = getattr(cls, "__module__", "")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)) or not any(
        own == each or own.startswith(f"{each}.") for each in allowed
    ):
        raise RefusedFile(f"{path} is of {class_path}, which is no network of {', '.join(allowed)}; {_REMEDY}.")
    return cls


def _json(metadata: Mapping[str, str], key: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        content = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise RefusedFile(f"{path} is damaged: its {key} is no JSON: {first_line(error)}; {_REMEDY}.") from error
    if not isinstance(content, dict):
        raise RefusedFile(f"{path} is damaged: its {key} is no JSON object; {_REMEDY}.")
    return content

"""The random generators of a process, taken down as plain values and put back."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

State = dict[str, Any]


def random_state(device: torch.device | str = "cpu") -> State:
    """Take down the generators that training may draw from: Python's, NumPy's, PyTorch's on the CPU and on a device.

    Args:
        device: The device of this process; other devices are left alone.

    Returns:
        Plain values and byte tensors, 10 KB, which ``torch.load(weights_only=True)`` reads.

    Example:
        >>> state = random_state()
        >>> first = random.random(), np.random.rand(), torch.rand(1).item()
        >>> set_random_state(state)
        >>> (random.random(), np.random.rand(), torch.rand(1).item()) == first
        True
    """
    version, words, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    state: State = {
        "python": {"version": version, "words": _packed(words), "gauss": gauss},
        "numpy": {
            "words": _packed(numpy["state"]["key"]),
            "position": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
    """Put generators back; those that were not taken down, such as those of another kind of device, stay as they are.

    Args:
        state: What :func:`random_state` gave.
        device: The device of this process.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        _set(state, device)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the stored state of the random generators is damaged ({type(error).__name__}); continue from another "
            "checkpoint."
        ) from error


def _set(state: Mapping[str, Any], device: torch.device | str) -> None:
    if "python" in state:
        python = state["python"]
        random.setstate((python["version"], tuple(_unpacked(python["words"]).tolist()), python["gauss"]))
    if "numpy" in state:
        numpy = state["numpy"]
        np.random.set_state(
            ("MT19937", _unpacked(numpy["words"]), numpy["position"], numpy["has_gauss"], numpy["gauss"])
        )
    # a checkpoint may have been loaded onto a device, and generators take bytes of the CPU alone
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _packed(words: Any) -> Tensor:  # noqa: ANN401
    return torch.from_numpy(np.asarray(words, dtype="<u4").view(np.uint8).copy())


def _unpacked(words: Tensor) -> "np.ndarray[Any, np.dtype[np.uint32]]":
    return words.cpu().numpy().view("<u4").astype(np.uint32)

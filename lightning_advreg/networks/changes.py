"""What was changed in a network after it was built, as a note that travels with its weights."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

NAME = "changed_by"
"""The name of the submodule that holds the note."""


class Changes(nn.Module):
    """A note of changes to the layers of a module, with an empty entry of its state dict for each.

    The text of a change, such as ``NormAblation('group')``, is part of the entry's name. So whoever loads the weights
    into a module without the change finds it named among the unexpected keys, even where none of this library's code
    runs; and weights without it do not pass for weights that were trained with it, though many kinds of layers have
    parameters of the same names.

    Attributes:
        made: The arguments of each change by its text.
        explains: Whether weights of a module that was changed in another way, or not at all, are refused with a
            sentence; otherwise they are missing and unexpected keys.

    Example:
        >>> module = nn.Linear(2, 2)
        >>> _ = note_changes(module, {"NormAblation('group')": {"kind": "group"}})
        >>> list(module.state_dict())
        ['weight', 'bias', "changed_by.NormAblation('group')"]
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, dict[str, Any]] = {}
        self.explains = False

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination |= {f"{prefix}{text}": torch.zeros(0) for text in self.made}

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        stored = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
        if self.explains and set(stored) != set(self.made):
            raise ValueError(_mismatch(stored, list(self.made)))
        missing_keys += [f"{prefix}{text}" for text in self.made if text not in stored]
        unexpected_keys += [f"{prefix}{text}" for text in stored if text not in self.made]

    def extra_repr(self) -> str:
        """Show the changes."""
        return ", ".join(self.made)


def note_changes(module: nn.Module, made: Mapping[str, dict[str, Any]]) -> Changes:
    """Note what was changed in a module, in place of an earlier note.

    Args:
        module: The module, which gets a submodule ``changed_by``.
        made: The arguments of each change, as plain values, by its text.

    Returns:
        The note.
    """
    if not isinstance(getattr(module, NAME, None), Changes):
        module.add_module(NAME, Changes())
    note = cast(Changes, getattr(module, NAME))
    note.made = dict(made)
    return note


def noted_changes(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Give the arguments of the changes noted in a module by their texts; none where there is no note.

    Example:
        >>> noted_changes(nn.Linear(1, 1))
        {}
    """
    note = getattr(module, NAME, None)
    return dict(note.made) if isinstance(note, Changes) else {}


def changes_in(state_dict: Mapping[str, object]) -> list[str]:
    """Give the texts of the changes that a state dict was made with.

    Example:
        >>> changes_in({"weight": 0, "changed_by.NormAblation('none')": 0})
        ["NormAblation('none')"]
    """
    return [key.removeprefix(f"{NAME}.") for key in state_dict if key.startswith(f"{NAME}.")]


def _mismatch(stored: Sequence[str], own: Sequence[str]) -> str:
    given = ", ".join(own)
    if not stored:
        return (
            f"these weights were trained without {given}: they belong to the layers as the network was built. Take "
            f"{given} off the callbacks, or give weights that were trained with it."
        )
    return (
        f"these weights were trained with {', '.join(stored)}, and the layers of this module were changed by {given} "
        f"instead; give the Trainer callbacks=[{', '.join(stored)}]."
    )

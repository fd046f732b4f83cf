"""HAT: TRADES, with labels beyond the ball from a network that was trained without attacks."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.attacks import Attack, Model, in_mode
from lightning_advreg.attacks.model_state import underlying_module
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.files import RefusedFile, read_tensors
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.trades import TRADES
from lightning_advreg.recorded import Recorded
from lightning_advreg.values import Number, to_float


class HAT(Objective, Recorded, nn.Module):
    """Helper-based adversarial training (Rade & Moosavi-Dezfooli 2022), which wins back clean accuracy.

    The loss is

    ``CE(f(x), y) + beta * KL(f(x) || f(x_adv)) + gamma * CE(f(x + distance * (x_adv - x)), y_help)``,

    with ``y_help = argmax g(x_adv)`` for a helper network g that was trained without attacks. The helper examples lie
    outside the ball, and are not clipped to [0, 1]. As in TRADES the attack is put on the loss ``kl`` and must begin at
    a random point. Clean, attacked and helper images go through the network one after the other.

    The helper runs in eval mode without gradients, whatever happens to the module that holds this objective. It is not
    copied: the network given is itself frozen. Checkpoints hold its weights, unless they came from a file, from which
    they are read again. It lives on the device of the module that holds the objective; on its own, move the objective
    with ``to(device)``.

    Args:
        helper: The standard-trained network, from images in [0, 1] to logits; another than the one in training.
        helper_weights: A file with its weights: a state_dict, or a checkpoint of a module of this library (keys
            ``network.``). None takes ``helper`` as it is.
        beta: The weight of KL, at least 0.
        gamma: The weight of the helper examples, at least 0.
        distance: How far they lie, as a multiple of the attack's perturbation, at least 0.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no weights of such a network, or a number is out of its range.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> helper = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))
        >>> x, y = torch.rand(2, 1, 1, 3), torch.tensor([0, 2])
        >>> HAT(helper)(torch.nn.Flatten(), x, y, PGD(eps=0.1)).loss.shape
        torch.Size([])
    """

    sees_clean = True

    def __init__(
        self,
        helper: nn.Module,
        helper_weights: str | Path | None = None,
        *,
        beta: Number = 2.5,
        gamma: Number = 0.5,
        distance: Number = 2.0,
    ) -> None:
        super().__init__()
        self.trades = TRADES(beta=beta)
        self.gamma = to_float(gamma, "gamma", minimum=0)
        self.distance = to_float(distance, "distance", minimum=0)
        if helper_weights is not None:
            # as text, which a checkpoint can hold
            self.init_args["helper_weights"] = os.fspath(helper_weights)
            _load(helper, Path(helper_weights))
            self.register_state_dict_post_hook(_leave_out_helper)
            self.register_load_state_dict_pre_hook(_fill_in_helper)
        self.helper = helper.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the helper, which stays in eval mode."""
        super().train(mode)
        self.helper.eval()
        return self

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Attack the batch, and ask the helper what it sees there; gives ``x_adv`` and ``y_help`` (int64)."""
        if underlying_module(model) is self.helper:
            raise ValueError("helper is the network in training, which is frozen by that; give a network of its own.")
        (x_adv,) = self.trades.craft(model, x, y, attack)
        # in_mode: train() of the helper itself may have been called since
        with torch.no_grad(), in_mode(self.helper, "eval"):
            return x_adv, self.helper(x_adv).argmax(1)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the loss of TRADES and that of the helper examples."""
        x_adv, y_help = crafted
        output = self.trades.loss(model, x, y, (x_adv,))
        logits_help = working_precision(model(x + self.distance * (x_adv - x)))
        return output._replace(loss=output.loss + self.gamma * F.cross_entropy(logits_help, y_help))


def _leave_out_helper(module: nn.Module, state: dict[str, object], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}helper.")]:
        del state[name]


def _fill_in_helper(module: nn.Module, state: dict[str, object], prefix: str, *others: object) -> None:
    assert isinstance(module, HAT)
    state.update({f"{prefix}helper.{name}": value for name, value in module.helper.state_dict().items()})


def _load(helper: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"helper_weights: there is no file {str(path)!r}; train the helper without attacks first, and give the "
            "path of its checkpoint."
        )
    remedy = "save weights with torch.save(helper.state_dict(), path)"
    try:
        stored = read_tensors(path, "file of weights", remedy=remedy)
    except RefusedFile as error:
        raise RefusedFile(f"helper_weights: {error}") from error
    state = stored.get("state_dict", stored) if isinstance(stored, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError(
            f"helper_weights: {str(path)!r} holds a {type(stored).__name__}, not weights by name; save them with "
            "torch.save(helper.state_dict(), path)."
        )
    nested = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    # a network may itself have a part called network
    if nested and not helper.state_dict().keys() <= state.keys():
        state = nested
    try:
        helper.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"helper_weights: {str(path)!r} does not fit {type(helper).__name__}; build the helper with the arguments "
            f"it was trained with. {error}"
        ) from error

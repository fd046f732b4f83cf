"""Accuracy of a model under attacks that the metric itself runs."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_advreg.attacks import Attack, Model, borrowed
from lightning_advreg.checks import check_types
from lightning_advreg.metrics.inputs import check_mask, hits
from lightning_advreg.metrics.worst_case import NamedAccuracies

CLEAN = "clean"
"""The key of the accuracy without attack."""


class AccuracyUnderAttack(NamedAccuracies):
    """Attacks every batch it is given, and counts clean images, each attack's images, and the worst case.

    The worst case chooses for every image among its attacked versions and the image itself, so it counts images that
    are right without attack and under every attack. The model runs in evaluation mode with its parameters frozen, and
    is left as it was found, also under ``no_grad`` and ``inference_mode``. States are int64 sums over batches and
    processes.

    Args:
        attacks: Attacks by name; a single one goes by the name of its class in lower case. ``clean`` and
            ``worst_case`` are taken.

    Attributes:
        attacks: The attacks by name.
        names: ``clean`` and the names of the attacks.
        correct: Correct images under each name, and under all of them, int64 of shape ``(len(names) + 1,)``.
        total: Images counted so far, int64.

    Raises:
        TypeError: If an attack cannot be called.
        ValueError: If there is no attack, a name is empty or taken, or an attack is targeted.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
        >>> _ = torch.nn.init.eye_(model[1].weight)
        >>> x = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.6, 0.5, 0.0, 0.0]]).view(2, 1, 2, 2)
        >>> accuracy = AccuracyUnderAttack(PGD(eps=0.1, step_size=0.05))
        >>> accuracy.update(model, x, torch.tensor([0, 0]))
        >>> accuracy.compute()
        {'clean': tensor(1.), 'pgd': tensor(0.5000), 'worst_case': tensor(0.5000)}
    """

    def __init__(self, attacks: Mapping[str, Attack] | Attack) -> None:
        if not isinstance(attacks, Mapping):
            attacks = {type(attacks).__name__.lower(): attacks}
        if not attacks:
            raise ValueError("attacks must name at least one attack, such as {'pgd20': PGD(steps=20)}, got none.")
        if CLEAN in attacks:
            raise ValueError(f"the name {CLEAN!r} is that of images without attack; rename this attack.")
        for name, attack in attacks.items():
            if not callable(attack):
                raise TypeError(
                    f"attacks[{name!r}] must be an attack, called as attack(model, x, y), got {attack!r}; give an "
                    "object such as PGD(steps=20)."
                )
            if getattr(attack, "targeted", False):
                raise ValueError(
                    f"attacks[{name!r}] is targeted and would move images towards their labels; set targeted=False."
                )
        super().__init__((CLEAN, *attacks))
        self.attacks = dict(attacks)

    def update(self, model: Model, x: Tensor, y: Tensor, counted: Tensor | None = None) -> None:
        """Attack a batch with every attack, and count it.

        Args:
            model: Any callable from [0, 1] images to logits ``(N, K)``.
            x: Images in [0, 1], floating point, of shape ``(N, C, H, W)``.
            y: Labels, integers of shape ``(N,)``.
            counted: Which images to count, bool of shape ``(N,)``; all by default. The others are attacked as well.

        Raises:
            TypeError: If ``x`` is not floating point or ``y`` is not integer.
            ValueError: If shapes disagree, a mask is not bool, or an attack finds the batch out of range.
        """
        check_types(x, y)
        if counted is not None:
            check_mask("counted", counted, len(x))
        outcomes = {CLEAN: _correct(model, x, y)}
        for name, attack in self.attacks.items():
            outcomes[name] = _correct(model, attack(model, x, y), y)
        self._count(outcomes, counted)


def _correct(model: Model, x: Tensor, y: Tensor) -> Tensor:
    with borrowed(model), torch.no_grad():
        # a clone is no inference tensor, which a model could not change in place here
        return hits(model(x.detach().clone()), y)

"""What the metrics of generated images share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_advreg.metrics.gan_features import Features

Origin: TypeAlias = Literal["real", "generated", "train", "held_out"]
"""Where images come from: the real ones that generated ones are compared with, or, where a metric tells them apart, the
images that the generator was trained on and those kept from it."""

_GENERATED = "generated_"


class GenerationMetric(Metric, ABC):
    """A figure for generated images, from the features of an extractor.

    States are named after the origin of what they hold, so that the reference may stay while the generator changes:
    :meth:`forget_generated`. A subclass sets ``origins`` and ``name``, and writes ``update`` and ``compute``.

    Attributes:
        origins: The origins that ``update`` must see before ``compute``.
        name: The name of the figure; where ``compute`` gives several, they have names of their own.
        inception_names: What figures are called where the extractor is the Inception network of the papers.
        needs_logits: Whether the extractor must be a classifier.
        needs_labels: Whether the generated images must have been asked for by class.
    """

    full_state_update = False
    is_differentiable = False

    origins: tuple[Origin, ...] = ("real", "generated")
    name: ClassVar[str]
    inception_names: ClassVar[Mapping[str, str]] = {}
    needs_logits: bool = False
    needs_labels: bool = False

    @abstractmethod
    def update(self, seen: Features, origin: Origin) -> None:
        """Take the features of a batch.

        Args:
            seen: What the extractor gives.
            origin: Where the images come from, one of ``origins``.

        Raises:
            ValueError: If the metric has no use for this origin, or lacks something.
        """

    def figures(self, *, inception: bool = False) -> dict[str, Tensor]:
        """Give the results by name, whether ``compute`` gives one or several.

        Args:
            inception: Use the names that papers give to figures of the Inception network, such as ``fid``.
        """
        result = self.compute()
        named = {self.name: result} if isinstance(result, Tensor) else dict(result)
        return {self.inception_names.get(key, key) if inception else key: value for key, value in named.items()}

    def forget_generated(self) -> None:
        """Begin anew with the generated images, and keep the others."""
        for state, default in self._defaults.items():
            if state.startswith(_GENERATED):
                setattr(self, state, [] if isinstance(default, list) else default.detach().clone().to(self.device))
        self._computed = None

    def reference(self) -> dict[str, Tensor]:
        """Give what is known of all but the generated images, by the name of the state."""
        return {state: joined(self, state) for state in self._defaults if not state.startswith(_GENERATED)}

    def load_reference_(self, states: Mapping[str, Tensor], rank: int = 0, size: int = 1) -> None:
        """Take what :meth:`reference` gave, in place.

        Args:
            states: The states by name.
            rank: This process. What is summed over processes goes to the first, what is joined is dealt out.
            size: The number of processes.
        """
        for state, default in self._defaults.items():
            if state.startswith(_GENERATED):
                continue
            value = states[state].to(self.device)
            if isinstance(default, list):
                setattr(self, state, [value[rank::size]])
            else:
                setattr(self, state, value if rank == 0 else torch.zeros_like(value))
        self._computed = None

    def _check_origin(self, origin: Origin) -> None:
        if origin not in self.origins:
            raise ValueError(
                f"{type(self).__name__} takes images of the origins {', '.join(self.origins)}, got {origin!r}."
            )

    def _logits(self, seen: Features) -> Tensor:
        if seen.logits is None:
            raise ValueError(
                f"{type(self).__name__} needs an extractor that knows classes; use ClassifierFeatures, or leave the "
                "metric out."
            )
        return seen.logits


def joined(metric: Metric, state: str) -> Tensor:
    """Give a state as one tensor, whether it is a list of batches, joined already, or a sum."""
    value = getattr(metric, state)
    if isinstance(value, Tensor):
        return value
    return torch.cat(value) if value else torch.empty(0, device=metric.device)


def of_size(state: Tensor, *shape: int) -> Tensor:
    """Give a sum, as zeros of its shape where nothing was added yet: sizes are known from the first batch on."""
    return state if state.numel() else state.new_zeros(shape)

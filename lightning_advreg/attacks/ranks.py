"""The processes that share one evaluation."""

from typing import TypeVar

import torch.distributed

Value = TypeVar("Value")


class Alone:
    """One process that does all the work."""

    rank = 0
    size = 1

    def gather(self, value: Value) -> list[Value]:
        """Give the values of all processes, by rank."""
        return [value]


class ProcessGroup(Alone):
    """The processes of ``torch.distributed``'s default group, which all evaluate the same images together."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def gather(self, value: Value) -> list[Value]:
        """Give the values of all processes, by rank; every process must call this."""
        values: list[Value | None] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

"""How long a backward pass waits for the gradients of other processes."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

MEASURED = (
    "From the moment a process has all its gradients until the last of them is summed over all processes: the part of "
    "the all-reduce that no computation hides, and waiting for slower processes. Not in it: the slowing down of "
    "computation by what is sent meanwhile, SyncBatchNorm, copies of buffers, metrics."
)
"""What the figure is, in words."""

_MOST_EVENTS = 512


class Waiting:
    """A communication hook that averages gradients as DDP does by itself, and times the wait for the last of them.

    On the CPU every backward pass is timed by the clock. On a GPU the first 512 of an epoch are, by events in its
    streams that are read when the epoch is over, so that no step waits for the host; the others count as their mean.

    Args:
        ddp: The wrapped module.

    Attributes:
        unmeasured: Why nothing is measured, or None.
    """

    def __init__(self, ddp: object) -> None:
        self.unmeasured: str | None = None
        self._seconds, self._calls = 0.0, 0
        self._events: list[tuple[Any, Any]] = []
        if not isinstance(ddp, DistributedDataParallel):
            self.unmeasured = "the strategy is not DDP"
            return
        try:
            # DDP reads the annotations of a hook, and takes GradBucket alone, which builds without distribution lack
            ddp.register_comm_hook(None, lambda state, bucket: self._hook(bucket))
        except RuntimeError as error:
            # DDP takes one hook, and this run has one of its own, such as that of PowerSGD
            self.unmeasured = str(error).splitlines()[0]

    def take(self) -> float | None:
        """Give the seconds of waiting since the last call, or None where they are not measured."""
        if self.unmeasured is not None:
            return None
        if self._events:
            self._events[-1][1].synchronize()
            timed = sum(max(ready.elapsed_time(done), 0.0) for ready, done in self._events) / 1000
            self._seconds = timed * self._calls / len(self._events)
        seconds = self._seconds
        self._seconds, self._calls, self._events = 0.0, 0, []
        return seconds

    def _hook(self, bucket: Any) -> torch.futures.Future[Tensor]:  # noqa: ANN401 a GradBucket
        gradients: Tensor = bucket.buffer()
        ready = self._ready(gradients) if bucket.is_last() else None
        # as DDP does without a hook: a product, where a division would round otherwise
        gradients.mul_(1.0 / dist.get_world_size())
        work = dist.all_reduce(gradients, async_op=True)
        assert work is not None

        def summed(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            if ready is not None:
                ready()
            return future.value()[0]

        return work.get_future().then(summed)

    def _ready(self, gradients: Tensor) -> Callable[[], None]:
        self._calls += 1
        if gradients.device.type != "cuda":
            start = perf_counter()

            def waited() -> None:
                self._seconds += perf_counter() - start

            return waited
        if len(self._events) >= _MOST_EVENTS:
            return lambda: None
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()

        def noted() -> None:
            # the stream of the moment is one that follows the sum
            end.record()
            self._events.append((begin, end))

        return noted

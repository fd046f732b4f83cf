"""Compiled passes of a network in training, and the way back where a compiler fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_advreg.modules.engine import first_line

Pass = Callable[..., Any]
_BACKEND = "inductor"


class Programs:
    """The passes of a network, compiled: one program for attacks and one for training.

    The network stays the same object, in which nothing is stored: within :meth:`at_work` a call of it leads here. So
    state dicts, copies, checkpoints, and what recognises the network by identity see no difference. Copies of this
    object, and other processes, compile for themselves.

    - The program for attacks is that of frozen parameters: PyTorch compiles the gradient of whatever required one.
    - Weights and buffers are inputs of the programs, so that both follow the network. So are the modes of layers: a
      program that meets new ones is compiled once more.
    - Sizes are fixed, which gives the fastest code. Batches smaller than the largest of a program so far, such as the
      last one of an epoch, run without one, rather than wait for one of their own.
    - Networks may take other tensors beside the images, such as labels, and give several.
    - A program is tried, there and back, before it is used. Buffers and random numbers are as if it had not been.

    Args:
        cuda_graphs: On CUDA, replay the program for attacks as a CUDA graph. That of training stays out: what a graph
            gives is overwritten by its next replay, and gradients of weights have to outlive it.
    """

    def __init__(self, *, cuda_graphs: bool = False) -> None:
        self.cuda_graphs = cuda_graphs
        self.drop()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Programs, cuda_graphs=self.cuda_graphs), ()

    def drop(self) -> None:
        """Forget the programs, and failures."""
        self._network: nn.Module | None = None
        self._programs: dict[str, Pass] = {}
        self._failed = False
        self._batch: tuple[int, ...] = ()
        # the largest batch of each program
        self._shapes: dict[str, tuple[int, ...]] = {}

    @contextmanager
    def at_work(self, network: nn.Module, x: Tensor) -> Iterator[None]:
        """Run calls of a network on batches of this shape compiled, where they are to be differentiated.

        Args:
            network: The network; one that is compiled already is left alone.
            x: What the network is called with first, such as the images ``(N, C, H, W)`` of a training batch.
        """
        if self._failed or network._compiled_call_impl is not None or "_orig_mod" in network._modules:
            yield
            return
        if network is not self._network:
            self.drop()
            self._network = network
        self._batch = tuple(x.shape)
        network._compiled_call_impl = partial(self._call, network)
        try:
            yield
        finally:
            network._compiled_call_impl = None

    def _call(self, network: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if self._failed or kwargs or not self._suits(args):
            return network._call_impl(*args, **kwargs)
        training = any(parameter.requires_grad for parameter in network.parameters())
        name = "training" if training else "attack"
        if not (training or args[0].requires_grad) or not self._is_largest(name):
            return network._call_impl(*args)
        try:
            if name not in self._programs:
                self._programs[name] = self._compiled(network, args, graphs=not training and args[0].is_cuda)
            return self._programs[name](*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            # layers in other modes than at the trial
            self._give_up(network, error)
        return network._call_impl(*args)

    def _suits(self, args: tuple[Any, ...]) -> bool:
        tensors = bool(args) and all(isinstance(value, Tensor) for value in args)
        return tensors and torch.is_grad_enabled() and args[0].shape == self._batch

    def _is_largest(self, name: str) -> bool:
        known = self._shapes.get(name, (0,))
        if self._batch[1:] != known[1:] or self._batch[0] > known[0]:
            self._shapes[name] = self._batch
        return self._shapes[name] == self._batch

    def _compiled(self, network: nn.Module, args: tuple[Tensor, ...], *, graphs: bool) -> Pass:
        if self.cuda_graphs and not args[0].is_cuda:
            rank_zero_warn(f"cuda_graphs has no effect on device {args[0].device.type!r}.")
        program: Pass = torch.compile(
            _pass_of(network),
            dynamic=False,
            backend=_BACKEND,
            mode="reduce-overhead" if graphs and self.cuda_graphs else None,
        )
        try:
            _try(program, network, args)
        except Exception as error:  # compilers fail in any way: none installed, an operation they cannot lower
            self._give_up(network, error)
            eager: Pass = network._call_impl
            return eager
        return program

    def _give_up(self, network: nn.Module, error: Exception) -> None:
        self._failed = True
        # what happened, rather than where
        reason = getattr(error, "inner_exception", error)
        rank_zero_warn(f"{type(network).__name__} is trained without torch.compile: {first_line(reason)}.")


def _pass_of(network: nn.Module) -> Pass:
    def run(*args: Tensor) -> Any:  # noqa: ANN401
        return network._call_impl(*args)

    # programs belong to code, of which there is to be one for each: their number is limited, and they end with it
    return FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)


def _try(program: Pass, network: nn.Module, args: tuple[Tensor, ...]) -> None:
    x = args[0]
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        try:
            leaf = x.detach().clone().requires_grad_(x.requires_grad)
            given = program(leaf, *args[1:])
            total = sum(value.sum() for value in (given if isinstance(given, tuple) else (given,)) if value is not None)
            torch.autograd.grad(total, [*wanted, leaf] if x.requires_grad else wanted, allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

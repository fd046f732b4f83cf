"""How the passes of training are made fast."""

from dataclasses import dataclass, fields

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How the passes of training are made fast; the results are those of plain training, up to rounding.

    In a ``GAN``, besides: the discriminator scores real and generated images in one pass, where it neither mixes images
    nor draws random numbers nor changes buffers, and no penalty differentiates by them; and the default optimizers are
    PyTorch's fused ones, unless gradients are clipped. The images that the discriminator's step generates, and passes
    that a penalty differentiates twice, are not compiled.

    What else makes training fast is Lightning's and the data's: ``precision="bf16-mixed"`` of the Trainer,
    ``loader="resident"`` of the DataModules, and ``fused=True`` of PyTorch's optimizers.

    Args:
        attack_copy: On the CPU, attack a copy of the network that shares its weights and is faster: BatchNorm folded,
            activations in place, convolutions with fewer multiplications. It is left out under autocast, where it does
            not agree with the network, and where the attack wants another mode than ``eval``. A GAN has no attacks.
        channels_last: Keep the channels of a pixel side by side in memory, in images and in weights of convolutions.
            Left out, with a warning, where the network looks at its memory (``view`` where ``flatten`` would do).
            Random numbers that are drawn for maps, as in dropout, fall on other positions.
        compile: Compile the passes of training with ``torch.compile``: one program for attacks, with the gradient of
            the images alone, and one for training; of a GAN's discriminator, the first is that of the generator's
            step. It takes a minute or two at the start. Evaluation, batches of another size, passes without gradient,
            and objectives with ``double_backward`` run as without. Dropout draws other random numbers than without.
            Where the compiler fails, a warning says why, and training goes on without.
        cuda_graphs: On CUDA, replay the program for attacks as a CUDA graph, which spares small networks the launch of
            every kernel; in a GAN, that of the discriminator in the generator's step.

    Raises:
        TypeError: If a switch is not a bool.
        ValueError: If ``cuda_graphs`` is on and ``compile`` is off.

    Example:
        >>> from lightning_advreg import AdversarialClassifier
        >>> from lightning_advreg.networks import MNISTConvNet
        >>> compiled = AdversarialClassifier(MNISTConvNet(), engine=Engine(compile=True))
        >>> plain = AdversarialClassifier(MNISTConvNet(), engine=None)
    """

    attack_copy: bool = True
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(getattr(self, field.name), bool):
                raise TypeError(f"{field.name} must be true or false, got {getattr(self, field.name)!r}.")
        if self.cuda_graphs and not self.compile:
            raise ValueError("cuda_graphs=True replays compiled programs; set compile=True as well.")


NO_ENGINE = Engine(attack_copy=False)
"""Everything switched off: what ``engine=None`` stands for."""


def channels_last(x: Tensor) -> Tensor:
    """Give images ``(N, C, H, W)`` with the channels of a pixel side by side in memory; other shapes as they are.

    Example:
        >>> channels_last(torch.rand(2, 3, 4, 4)).stride()
        (48, 1, 12, 3)
    """
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def lay_out_(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Lay the 4-d weights and buffers of a network out in memory, in place; their values and names stay.

    Args:
        network: The network.
        memory_format: ``torch.channels_last`` or ``torch.contiguous_format``.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dim() == 4:
            # the data, so that the parameter stays the object that an optimizer may hold already
            tensor.data = tensor.data.contiguous(memory_format=memory_format)


def keeps_channels_last_(network: nn.Module, *inputs: Tensor) -> bool:
    """Try a network that was laid out for channels-last images, and lay it out as usual where it refuses them.

    Args:
        network: The network.
        *inputs: What it is called with: some images ``(N, C, H, W)``, or noise, and labels where it takes them.

    Returns:
        Whether the layout stays.
    """
    try:
        network(*map(channels_last, inputs))
    except RuntimeError as error:
        lay_out_(network, torch.contiguous_format)
        # an error that has nothing to do with the layout comes up again here
        network(*inputs)
        rank_zero_warn(
            f"{type(network).__name__} is trained without channels_last: {first_line(error)}. To use it, write "
            "x.flatten(1) where the network says x.view(len(x), -1)."
        )
        return False
    return True


def first_line(error: Exception) -> str:
    """Give the first line of an error's message, without its full stop, or the name of its class."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")

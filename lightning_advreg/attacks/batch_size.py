"""How many images to attack at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_advreg.attacks.model_state import Model

_ON_CPU = 128
_LARGEST = 4096
_SHARE_OF_MEMORY = 0.7
_PIXELS_OF_CIFAR = 3 * 32 * 32


def fitting_batch_size(model: Model, x: Tensor, device: torch.device) -> int:
    """Choose a batch size for attacks on images like these.

    On a GPU, the memory of one forward and backward pass is measured for 4 and for 8 images, and the largest power of
    two that takes at most 70 % of what is free is chosen, up to 4,096. Elsewhere larger batches are not faster: 128
    images of 32 x 32 x 3, as many pixels of others, but at least 16 images and at most 512.

    Args:
        model: The frozen network, on ``device``.
        x: The images, of shape ``(N, ...)``, on any device.
        device: Where the attack runs.
    """
    if device.type != "cuda":
        return max(16, min(512, _ON_CPU * _PIXELS_OF_CIFAR // x[0].numel()))
    few, more = (_peak(model, x[:1].expand(count, *x.shape[1:]).to(device), device) for count in (4, 8))
    return largest_batch(max(1.0, (more - few) / 4), _SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0])


def largest_batch(bytes_per_image: float, free_bytes: float) -> int:
    """Give the largest power of two, in [1, 4096], of images that fit.

    Example:
        >>> largest_batch(bytes_per_image=1e6, free_bytes=3e8)
        256
    """
    size = _LARGEST
    while size > 1 and size * bytes_per_image > free_bytes:
        size //= 2
    return size


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a device has no memory left."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def halving(run: Callable[[Tensor], None], rows: Tensor, limit: int) -> int:
    """Run something on rows, in halves where they do not fit the memory.

    Args:
        run: What to do; it must leave no trace when it runs out of memory.
        rows: Indices of shape ``(N,)``.
        limit: How many rows fit, as far as is known.

    Returns:
        How many rows fit, as far as is known now.

    Raises:
        RuntimeError: If a single row does not fit.
    """
    waiting = list(rows.split(limit))
    while waiting:
        part = waiting.pop(0)
        try:
            run(part)
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error) or len(part) == 1:
                raise
        # outside the except block, whose traceback would keep the tensors of the failed attempt alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        limit = min(limit, (len(part) + 1) // 2)
        waiting = [half for whole in (part, *waiting) for half in whole.split(limit)]
    return limit


def attack_what_fits(
    attack: Callable[[Model, Tensor, Tensor], Tensor], model: Model, x: Tensor, y: Tensor, limit: int
) -> tuple[Tensor, int]:
    """Attack a batch, in halves where it does not fit the memory.

    The result is that of the whole batch, up to rounding, for attacks that draw no random numbers; halves of a batch
    that does not fit draw others than the whole would have.

    Args:
        attack: The attack, called with model, images and labels.
        model: The network.
        x: Images ``(N, ...)``.
        y: Labels ``(N,)``.
        limit: How many images fit, as far as is known.

    Returns:
        The attacked images, and how many fit, as far as is known now.

    Raises:
        RuntimeError: If a single image does not fit.

    Example:
        >>> x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)
        >>> x_adv, fits = attack_what_fits(lambda model, x, y: x + 1, torch.nn.Identity(), x, y, limit=3)
        >>> int(x_adv.sum()), fits
        (10, 3)
    """
    parts: list[Tensor] = []

    def run(rows: Tensor) -> None:
        # views, so that a batch that fits is attacked as it lies in memory
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        parts.append(attack(model, x[part], y[part]))

    fits = halving(run, torch.arange(len(x)), limit)
    return parts[0] if len(parts) == 1 else torch.cat(parts), fits


def _peak(model: Model, x: Tensor, device: torch.device) -> float:
    torch.cuda.reset_peak_memory_stats(device)
    leaf = x.detach().clone().requires_grad_()
    logits = model(leaf)
    if logits.requires_grad:
        torch.autograd.grad(logits.float().sum(), leaf, allow_unused=True)
    return float(torch.cuda.max_memory_allocated(device))

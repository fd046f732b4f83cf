"""Common corruptions: changes that nobody chose to fool the model, for the other half of a robustness report."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.attacks.base import Attack
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.checks import check_batch

CorruptionName: TypeAlias = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "saturation",
    "fog",
    "elastic",
    "pixelate",
    "jpeg",
    "posterize",
]
"""The kinds of corruption."""

_SMALLEST_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """A common corruption at one of five strengths (Hendrycks & Dietterich 2019, section 4).

    It is called like an attack and never looks at the model or the labels, so it fits wherever an attack is evaluated.
    Strengths are those of CIFAR-10-C, in pixels of images about 32 pixels wide, with four exceptions: ``saturation``
    only fades to grey, ``motion_blur`` grows from severity 3 to 4, and ``elastic`` and ``posterize`` have scales of
    this library. Images are not bit-identical with CIFAR-10-C: random numbers, rounding to 8 bits and borders differ.
    Compare results with results of this class.

    With images ``x``, a strength ``c`` that depends on the severity, and ``n ~ N(0, 1)`` per pixel and channel, every
    result clipped to [0, 1]:

    * ``gaussian_noise``: ``x + c n``. ``speckle_noise``: ``x + c x n``. ``shot_noise``: ``Poisson(c x) / c``.
      ``impulse_noise``: a share c of the values becomes 0 or 1.
    * ``gaussian_blur``: standard deviation c. ``defocus_blur``: a disk, smoothed. ``motion_blur``: half of a Gaussian
      along a line within 45 degrees of the horizontal, one per image. ``zoom_blur``: the mean of x and of its
      enlargements by 1, 1.01, ... up to c.
    * ``brightness``: c is added to the value of HSV, its largest channel. ``contrast``: ``m + c (x - m)`` with the mean
      m of each channel. ``saturation``: the same with the grey image as m; images of one channel stay as they are.
    * ``fog``: smooth noise of several octaves in [0, 1] is added, times c, and the result scaled back to x's maximum.
    * ``elastic``: a smooth random displacement, its root mean square c of the image's height and width.
    * ``pixelate``: each side is cut into blocks, c times as many as pixels, and each block takes its mean. ``jpeg``:
      quality c. ``posterize``: the upper c bits.

    Args:
        kind: Which corruption.
        severity: Its strength, 1 to 5.
        seed: Draw from a stream of this seed, the same at each call, and leave the caller's random generators
            untouched. With None, draw from the default generators. Has no effect on kinds without random numbers.

    Raises:
        ValueError: If ``kind`` is unknown or ``severity`` is not 1, 2, 3, 4 or 5.

    Example:
        >>> x = torch.full((2, 3, 32, 32), 0.5)
        >>> corrupted = Corruption(kind="gaussian_noise", severity=5)(None, x, torch.tensor([0, 1]))
        >>> round(float((corrupted - x).std()), 2)
        0.1
    """

    kind: CorruptionName
    severity: int = 3
    seed: int | None = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}, got {self.kind!r}.")
        if self.severity not in (1, 2, 3, 4, 5):
            raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {self.severity!r}.")

    def __call__(self, model: Model | None, x: Tensor, y: Tensor) -> Tensor:
        """Corrupt a batch.

        Args:
            model: Not used.
            x: Images in [0, 1], floating point, of shape ``(N, C, H, W)``, with sides of 8 pixels or more. For
                ``saturation`` and ``jpeg`` C must be 1 or 3.
            y: Labels, integers of shape ``(N,)``, not used.

        Returns:
            Corrupted images with the shape, dtype and device of ``x``, in [0, 1], detached.

        Raises:
            TypeError: If ``x`` is not floating point or ``y`` is not integer.
            ValueError: If pixels lie outside [0, 1] or shapes do not fit.
        """
        check_batch(x, y)
        if x.dim() != 4 or min(x.shape[2:]) < _SMALLEST_SIDE:
            raise ValueError(
                f"corruptions need images (N, C, H, W) of at least {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels, got shape "
                f"{tuple(x.shape)}."
            )
        if self.kind in ("saturation", "jpeg") and x.shape[1] not in (1, 3):
            raise ValueError(f"{self.kind} needs images of 1 or 3 channels, got {x.shape[1]}; leave this kind out.")
        corrupt, strengths = _KINDS[self.kind]
        stream = nullcontext() if self.seed is None else seeded(self.seed, x.device)
        # autocast would blur in half precision
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(x.device.type, enabled=False), stream:
            # pixels may lie outside the box by the rounding of resizing, and there is no Poisson number of mean < 0
            # and random numbers are drawn in the order of memory
            clean = working_precision(x.detach()).clamp(0, 1).contiguous()
            return corrupt(clean, strengths[self.severity - 1]).clamp(0, 1).to(x.dtype)


def common_corruptions(
    severities: Sequence[int] = (1, 2, 3, 4, 5), kinds: Sequence[CorruptionName] | None = None
) -> dict[str, Corruption]:
    """Give corruptions by names such as ``gaussian_noise_3``, for metrics and callbacks that take attacks by name.

    Args:
        severities: Which strengths, of 1 to 5.
        kinds: Which kinds; all by default.

    Raises:
        ValueError: If a kind is unknown or a severity is not 1, 2, 3, 4 or 5.

    Example:
        >>> list(common_corruptions(severities=(1, 5), kinds=("fog", "jpeg")))
        ['fog_1', 'fog_5', 'jpeg_1', 'jpeg_5']
    """
    return {
        f"{kind}_{severity}": Corruption(kind=kind, severity=severity)
        for kind in (get_args(CorruptionName) if kinds is None else kinds)
        for severity in severities
    }


def _torchvision() -> ModuleType:
    # not at the top: this import takes many times longer than that of all attacks
    from torchvision.transforms.v2 import functional

    return functional


def _gaussian_noise(x: Tensor, scale: float) -> Tensor:
    return x + scale * torch.randn_like(x)


def _shot_noise(x: Tensor, photons: float) -> Tensor:
    return torch.poisson(x * photons) / photons


def _impulse_noise(x: Tensor, share: float) -> Tensor:
    draw = torch.rand_like(x)
    return torch.where(draw < share, (draw < share / 2).to(x.dtype), x)


def _speckle_noise(x: Tensor, scale: float) -> Tensor:
    return x + scale * x * torch.randn_like(x)


def _gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    return _torchvision().gaussian_blur(x, [9, 9], [sigma, sigma])


def _defocus_blur(x: Tensor, radius_and_smoothing: tuple[float, float]) -> Tensor:
    radius, smoothing = radius_and_smoothing
    place = torch.arange(-3, 4, dtype=x.dtype, device=x.device)
    disk = (place**2 + place.unsqueeze(1) ** 2 <= radius**2).to(x.dtype)
    kernel = _torchvision().gaussian_blur(disk.expand(1, 1, 7, 7) / disk.sum(), [3, 3], [smoothing, smoothing])
    padded = F.pad(x, (3, 3, 3, 3), mode="reflect")
    return F.conv2d(padded, kernel.expand(x.shape[1], 1, 7, 7), groups=x.shape[1])


def _motion_blur(x: Tensor, sigma: float) -> Tensor:
    angle = (torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) - 0.5) * (torch.pi / 2)
    direction = torch.cat([angle.cos(), angle.sin()], dim=3)
    weights = torch.exp(-(torch.arange(4 * sigma + 1) ** 2) / (2 * sigma**2)).tolist()
    return sum((w * _moved(x, i * direction) for i, w in enumerate(weights)), torch.zeros_like(x)) / sum(weights)


def _zoom_blur(x: Tensor, percent: int) -> Tensor:
    tv = _torchvision()
    zoomed = [tv.affine(x, 0, [0, 0], 1 + p / 100, [0, 0], tv.InterpolationMode.BILINEAR) for p in range(percent + 1)]
    return torch.stack([x, *zoomed]).mean(0)


def _brightness(x: Tensor, amount: float) -> Tensor:
    value = x.amax(1, keepdim=True)
    brighter = (value + amount).clamp(max=1)
    # hue and saturation are ratios of channels, and stay; black has none and becomes grey
    return torch.where(value > 0, x * (brighter / value.clamp(min=torch.finfo(x.dtype).tiny)), brighter)


def _contrast(x: Tensor, factor: float) -> Tensor:
    return torch.lerp(x.mean((2, 3), keepdim=True), x, factor)


def _saturation(x: Tensor, factor: float) -> Tensor:
    return _torchvision().adjust_saturation(x, factor)


def _fog(x: Tensor, amount_and_decay: tuple[float, float]) -> Tensor:
    amount, decay = amount_and_decay
    height, width = x.shape[2:]
    fog = x.new_zeros(len(x), 1, height, width)
    for octave in range(1, min(height, width).bit_length()):
        noise = torch.rand(len(x), 1, 2**octave, 2**octave, dtype=x.dtype, device=x.device)
        fog += F.interpolate(noise, (height, width), mode="bilinear", align_corners=True) / decay**octave
    low, high = fog.amin((2, 3), keepdim=True), fog.amax((2, 3), keepdim=True)
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * (fog - low) / (high - low)) * brightest / (brightest + amount)


def _elastic(x: Tensor, share: float) -> Tensor:
    height, width = x.shape[2:]
    # a random number every 8 pixels, and smooth between them
    coarse = torch.randn(len(x), 2, height // 8 + 2, width // 8 + 2, dtype=x.dtype, device=x.device)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    smooth = smooth / smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
    return _moved(x, share * smooth.permute(0, 2, 3, 1) * x.new_tensor([width, height]))


def _pixelate(x: Tensor, share: float) -> Tensor:
    rows, columns = (_block_mean(x, side, int(side * share)) for side in x.shape[2:])
    return rows @ x @ columns


def _block_mean(x: Tensor, side: int, blocks: int) -> Tensor:
    """Give the symmetric matrix that replaces each of ``side`` pixels by the mean of its block."""
    block = (2 * torch.arange(side, device=x.device) + 1) * blocks // (2 * side)
    same = (block == block.unsqueeze(1)).to(x.dtype)
    return same / same.sum(1)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    tv = _torchvision()
    # by way of PIL: torchvision's own codec for tensors is deprecated since 0.29
    pixels = (255 * x).round().to("cpu", torch.uint8)
    decoded = [tv.pil_to_tensor(tv.jpeg(tv.to_pil_image(image), quality)) for image in pixels]
    return torch.stack(decoded).to(x) / 255


def _posterize(x: Tensor, bits: int) -> Tensor:
    return _torchvision().posterize(x, bits)


def _moved(x: Tensor, offset: Tensor) -> Tensor:
    """Sample images at each pixel's place plus an offset (x, y) in pixels, of a shape that fits ``(N, H, W, 2)``."""
    height, width = x.shape[2:]
    rows, columns = (torch.arange(side, dtype=x.dtype, device=x.device) for side in (height, width))
    place = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1) + offset
    # pixels to [-1, 1], from the centre of the first to that of the last
    grid = 2 * place / x.new_tensor([width - 1, height - 1]) - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


_KINDS: dict[str, tuple[Callable[[Tensor, Any], Tensor], tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": (_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))),
    "motion_blur": (_motion_blur, (1.0, 1.5, 2.0, 2.25, 2.5)),
    "zoom_blur": (_zoom_blur, (5, 10, 15, 20, 25)),
    "brightness": (_brightness, (0.05, 0.10, 0.15, 0.20, 0.30)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "saturation": (_saturation, (0.7, 0.5, 0.3, 0.1, 0.0)),
    "fog": (_fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "elastic": (_elastic, (0.01, 0.02, 0.03, 0.04, 0.05)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
    "posterize": (_posterize, (6, 5, 4, 3, 2)),
}

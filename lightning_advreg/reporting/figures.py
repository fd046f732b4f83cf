"""What attacks do to images, and how a figure becomes a file."""

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_advreg.files import writing
from lightning_advreg.reporting.style import DPI, INK, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RIGHT, _WRONG = "#00795A", "#C04000"
_LONGEST_NAME = 12


def adversarial_examples_figure(
    x: Tensor,
    x_adv: Tensor,
    labels: Tensor,
    predictions: Tensor,
    predictions_adv: Tensor,
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Draw clean images, perturbations and attacked images in three rows, one column an image.

    Each perturbation is scaled by its own largest change, which is said above it, around mid-grey. Above the clean and
    the attacked image stands the predicted class, with a tick in green where it is right and a cross in red where not.

    Args:
        x: Clean images in [0, 1], of shape ``(N, 1, H, W)`` or ``(N, 3, H, W)``; 4 to 16 of them look best.
        x_adv: Attacked images, of the shape of ``x``.
        labels: True classes, integers of shape ``(N,)``.
        predictions: Classes predicted for ``x``, integers of shape ``(N,)``.
        predictions_adv: Classes predicted for ``x_adv``, integers of shape ``(N,)``.
        class_names: A name for each class; numbers are shown without.

    Returns:
        The figure.

    Raises:
        ValueError: If shapes disagree, there is no image, or a class has no name.

    Example:
        >>> import torch
        >>> x, y = torch.rand(2, 1, 8, 8), torch.tensor([3, 8])
        >>> len(adversarial_examples_figure(x, x, y, y, y).axes)
        6
    """
    from matplotlib.figure import Figure

    if x.dim() != 4 or x.shape[1] not in (1, 3) or len(x) == 0 or x_adv.shape != x.shape:
        raise ValueError(
            "x and x_adv must have one shape, (N, 1, H, W) or (N, 3, H, W) with N >= 1, got "
            f"{tuple(x.shape)} and {tuple(x_adv.shape)}."
        )
    classes = {"labels": labels, "predictions": predictions, "predictions_adv": predictions_adv}
    for name, values in classes.items():
        if values.shape != x.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(x)},), one per image, got {tuple(values.shape)}.")
    truth, clean, attacked = (_names(values, class_names) for values in classes.values())
    right, right_adv = (predictions == labels).tolist(), (predictions_adv == labels).tolist()
    x, x_adv = x.detach().float().cpu(), x_adv.detach().float().cpu()
    change = x_adv - x
    size = change.abs().flatten(1).amax(1)
    perturbation = 0.5 + 0.5 * change / size.clamp(min=1e-12).view(-1, 1, 1, 1)

    figure = Figure(figsize=(1.1 * len(x) + 0.45, 4.3), dpi=DPI, layout="constrained")
    axes = figure.subplots(3, len(x), squeeze=False)
    for column in range(len(x)):
        top, middle, bottom = axes[:, column]
        _show(top, x[column], *_verdict(clean[column], right[column]))
        _show(middle, perturbation[column], f"±{255 * size[column].item():.3g}/255", INK)
        _show(bottom, x_adv[column], *_verdict(attacked[column], right_adv[column]))
        label = f"label: {truth[column]}"
        top.annotate(label, (0.5, 1), (0, 18), "axes fraction", "offset points", ha="center", size=7, color=INK)
    for axis, text in zip(axes[:, 0], ("clean", "perturbation", "attacked"), strict=True):
        axis.set_ylabel(text, fontsize=9, color=INK)
    return figure


def save_figure(figure: "Figure", path: str | PathLike[str]) -> None:
    """Write a figure, and make its folder if there is none.

    Args:
        figure: A matplotlib figure.
        path: The file; its ending names the format, such as png, svg or pdf.
    """
    with writing(path) as draft:
        figure.savefig(draft, dpi=DPI)


def _names(classes: Tensor, class_names: Sequence[str] | None) -> list[str]:
    indices: list[int] = classes.tolist()
    if class_names is None:
        return [str(index) for index in indices]
    if not 0 <= min(indices) <= max(indices) < len(class_names):
        raise ValueError(
            f"class_names has {len(class_names)} names, but there are classes from {min(indices)} to {max(indices)}; "
            "give one name per class."
        )
    return [shortened(class_names[index], _LONGEST_NAME) for index in indices]


def _verdict(predicted: str, right: bool) -> tuple[str, str]:
    return (f"✓ {predicted}", _RIGHT) if right else (f"✗ {predicted}", _WRONG)


def _show(axis: Any, image: Tensor, title: str, colour: str) -> None:  # noqa: ANN401
    axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=8, color=colour, pad=4)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("#BBBBBB")

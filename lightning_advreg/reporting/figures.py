"""Figures of attacks: what they do to images, and accuracy against the budget."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120
"""Dots per inch of every figure."""

# Okabe & Ito (2008): told apart with any colour vision. Their yellow is left out, too pale on white.
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_RIGHT, _WRONG, _INK = "#00795A", "#C04000", "#333333"
_LONGEST_NAME = 12
_NORM_LABELS = {"linf": r"$L_\infty$", "l2": "$L_2$", "l1": "$L_1$"}


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
        _show(middle, perturbation[column], f"±{255 * size[column].item():.3g}/255", _INK)
        _show(bottom, x_adv[column], *_verdict(attacked[column], right_adv[column]))
        label = f"label: {truth[column]}"
        top.annotate(label, (0.5, 1), (0, 18), "axes fraction", "offset points", ha="center", size=7, color=_INK)
    for axis, text in zip(axes[:, 0], ("clean", "perturbation", "attacked"), strict=True):
        axis.set_ylabel(text, fontsize=9, color=_INK)
    return figure


def accuracy_curve_figure(
    eps: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    chance: float | None = None,
    *,
    attack: str = "",
    norm: str = "linf",
) -> "Figure":
    """Draw accuracy against the budget of the attack, one line for each model or attack.

    Args:
        eps: Budgets in pixel units on [0, 1], in ascending order. Those of Linf are shown as multiples of 1/255.
        curves: For each name in the legend, the accuracies in [0, 1] at these budgets.
        chance: The accuracy of guessing, in [0, 1], drawn as a dotted line.
        attack: The attack's name, for the title.
        norm: The norm of the budget: ``linf``, ``l2`` or ``l1``.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, lengths differ, an accuracy lies outside [0, 1], budgets do not ascend, or the
            norm is unknown.

    Example:
        >>> figure = accuracy_curve_figure([0, 8 / 255], {"PGD-AT": [0.84, 0.52]}, chance=0.1, attack="PGD-20")
        >>> figure.axes[0].get_ylabel()
        'accuracy (%)'
    """
    from matplotlib.figure import Figure

    _check_curves(eps, curves, chance, norm)
    unit = 255 if norm == "linf" else 1
    budgets = [unit * value for value in eps]
    figure = Figure(figsize=(5.6, 3.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for index, (name, values) in enumerate(curves.items()):
        colour, marker = _PALETTE[index % len(_PALETTE)], _MARKERS[index % len(_MARKERS)]
        percent = [100 * value for value in values]
        axes.plot(budgets, percent, color=colour, marker=marker, label=name, lw=1.8, ms=5, clip_on=False, zorder=3)
    if chance is not None:
        axes.axhline(100 * chance, color=_INK, ls=":", lw=1.2, label=f"chance ({100 * chance:g} %)")
    axes.set_ylim(0, 100)
    axes.set_xlim(min(budgets), max(budgets) if len(budgets) > 1 else None)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel(_NORM_LABELS[norm] + (r" budget $\epsilon$ (1/255)" if unit == 255 else r" budget $\epsilon$"))
    axes.set_ylabel("accuracy (%)")
    if attack:
        axes.set_title(f"Accuracy under {attack}", fontsize=11)
    axes.grid(color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    return figure


def save_figure(figure: "Figure", path: str | PathLike[str]) -> None:
    """Write a figure, and make its folder if there is none.

    Args:
        figure: A matplotlib figure.
        path: The file; its ending names the format, such as png, svg or pdf.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _names(classes: Tensor, class_names: Sequence[str] | None) -> list[str]:
    indices: list[int] = classes.tolist()
    if class_names is None:
        return [str(index) for index in indices]
    if not 0 <= min(indices) <= max(indices) < len(class_names):
        raise ValueError(
            f"class_names has {len(class_names)} names, but there are classes from {min(indices)} to {max(indices)}; "
            "give one name per class."
        )
    names = [class_names[index] for index in indices]
    return [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]


def _verdict(predicted: str, right: bool) -> tuple[str, str]:
    return (f"✓ {predicted}", _RIGHT) if right else (f"✗ {predicted}", _WRONG)


def _show(axis: Any, image: Tensor, title: str, colour: str) -> None:  # noqa: ANN401
    axis.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=8, color=colour, pad=4)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color("#BBBBBB")


def _check_curves(eps: Sequence[float], curves: Mapping[str, Sequence[float]], chance: float | None, norm: str) -> None:
    if norm not in _NORM_LABELS:
        raise ValueError(f"norm must be one of {', '.join(_NORM_LABELS)}, got {norm!r}.")
    if not curves or not eps:
        raise ValueError("there must be at least one budget in eps and one curve in curves.")
    if list(eps) != sorted(eps):
        raise ValueError(f"eps must ascend, got {list(eps)}.")
    for name, values in {**curves, **({} if chance is None else {"chance": [chance] * len(eps)})}.items():
        if len(values) != len(eps):
            raise ValueError(f"curve {name!r} must have one accuracy per budget, {len(eps)}, got {len(values)}.")
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"accuracies must be fractions in [0, 1], got {list(values)} for {name!r}; divide by 100.")

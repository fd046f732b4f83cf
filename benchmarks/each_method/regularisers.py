"""The studies of penalties, constraints, augmentations, norms, dropout, and what else works against overfitting."""

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.callbacks import Callback

from benchmarks.each_method.regularised import EPOCHS, FewImages, network_of_digits, pretrained, small_resnet
from benchmarks.each_method.study import Row, Study
from lightning_advreg.augmentations import Augmentation, AugMix, CutMix, Cutout, InputNoise, MixUp, TrivialAugment
from lightning_advreg.callbacks import ActivationNoise, AdaptiveGradientClipping, BatchAugmentation
from lightning_advreg.constraints import (
    AdaptiveBound,
    CubicSparsity,
    MagnitudePruning,
    MaxNorm,
    NonNegative,
    Orthogonal,
    Parseval,
    SpectralProjection,
    WeightClip,
)
from lightning_advreg.penalties import (
    L1,
    L2,
    L2SP,
    ActivityL1,
    ConfidencePenalty,
    ElasticNet,
    GroupLasso,
    InputGradient,
    Jacobian,
    JensenShannon,
    Orthogonality,
    SpectralNormPenalty,
)

BASELINE = Row("none", lambda seed: {})
_SLOW = "The network is so small that the augmentation takes most of the time."
_NOTES = {
    "AugMix": _SLOW,
    "JensenShannon": _SLOW,
    "MaxNorm": "Where a row equals the baseline, no unit reaches the bound.",
}
_CHOSEN = "Strengths were chosen before looking, and not tuned."


def studies(setting: FewImages | None = None) -> list[Study]:
    """Give the studies of regularisers."""
    setting = FewImages() if setting is None else setting

    def study(name: str, *rows: Row, note: str = "") -> Study:
        parts = (_CHOSEN, note or _NOTES.get(name, ""))
        return Study(name, setting, (BASELINE, *rows), " ".join(part for part in parts if part))

    epochs = setting.epochs
    return [
        *(study(name, *rows) for name, rows in _penalties().items()),
        Study(
            "L2SP",
            setting,
            tuple(
                Row(name, partial(_fine_tuned, penalty=penalty))
                for name, penalty in {
                    "none, fine-tuned": None,
                    "L2 0.01, fine-tuned": lambda: L2(0.01),
                    "L2SP 0.01, fine-tuned": lambda: L2SP(0.01),
                    "L2SP 0.1, fine-tuned": lambda: L2SP(0.1),
                }.items()
            ),
            f"{_CHOSEN} All rows begin with a network trained on 1,437 digits upside down: no good place to stay.",
        ),
        *(study(name, *rows) for name, rows in _constraints(epochs).items()),
        *(study(name, *rows) for name, rows in _augmentations().items()),
        study(
            "ActivationNoise",
            _callback("noise 0.3", lambda: ActivationNoise(0.3, "network.classifier.1")),
            _callback("relative noise 0.3", lambda: ActivationNoise(0.3, "network.classifier.1", multiplicative=True)),
            _callback("relative noise 1", lambda: ActivationNoise(1, "network.classifier.1", multiplicative=True)),
            note="On the hidden layer.",
        ),
        study(
            "AdaptiveGradientClipping",
            *(_callback(f"clipping {c}", partial(AdaptiveGradientClipping, c)) for c in (0.01, 0.04, 0.16)),
        ),
        study("LabelSmoothing", *(Row(f"smoothing {s}", partial(_with, label_smoothing=s)) for s in (0.05, 0.1, 0.3))),
        study("Norms", *(_network(norm, norm=norm) for norm in ("batch", "group", "layer", "instance"))),
        study(
            "Dropout",
            *(_network(f"dropout {p}", dropout=p) for p in (0.2, 0.5)),
            *(_network(f"spatial dropout {p}", spatial_dropout=p) for p in (0.1, 0.2)),
            _network("dropblock 0.1", dropblock=0.1),
        ),
        Study(
            "DropPath",
            setting,
            (
                Row("none, thin PreActResNet18", lambda seed: {"network": small_resnet}),
                Row("drop_path 0.2", lambda seed: {"network": partial(small_resnet, drop_path=0.2)}),
            ),
            f"{_CHOSEN} A PreActResNet18 of width 4, since the CNN of the other tables has no residual branches.",
        ),
    ]


def _penalties() -> dict[str, list[Row]]:
    return {
        "L1": [_penalty(f"weight {w}", partial(L1, w)) for w in (1e-4, 1e-3)],
        "L2": [_penalty(f"weight {w}", partial(L2, w)) for w in (1e-3, 1e-2)],
        "ElasticNet": [_penalty(f"l1 {a}, l2 {b}", partial(ElasticNet, a, b)) for a, b in ((1e-4, 1e-3), (1e-3, 1e-2))],
        "GroupLasso": [_penalty(f"weight {w}", partial(GroupLasso, w)) for w in (1e-4, 1e-3)],
        "Orthogonality": [_penalty(f"weight {w}", partial(Orthogonality, w)) for w in (1e-3, 1e-2)],
        "SpectralNormPenalty": [_penalty(f"weight {w}", partial(SpectralNormPenalty, w)) for w in (0.01, 0.1)],
        "ActivityL1": [_penalty(f"weight {w}", partial(ActivityL1, w, layers="classifier.1")) for w in (0.01, 0.1)],
        "ConfidencePenalty": [_penalty(f"weight {w}", partial(ConfidencePenalty, w)) for w in (0.1, 0.5)],
        "InputGradient": [_penalty(f"weight {w}", partial(InputGradient, w)) for w in (0.1, 1)],
        "Jacobian": [_penalty(f"weight {w}", partial(Jacobian, w)) for w in (0.01, 0.1)],
        "JensenShannon": [_penalty(f"weight {w}", partial(JensenShannon, w)) for w in (1, 12)],
    }


def _constraints(epochs: int = EPOCHS) -> dict[str, list[Row]]:
    def half_way(share: float) -> CubicSparsity:
        return CubicSparsity(end=share, epochs=epochs / 2)

    return {
        "MaxNorm": [
            *(_constraint(f"bound {b}", partial(MaxNorm, b)) for b in (1, 2, 3)),
            _constraint("AdaptiveBound from 3, a tenth at it", lambda: MaxNorm(AdaptiveBound(3))),
        ],
        "WeightClip": [_constraint(f"bound {b}", partial(WeightClip, b)) for b in (0.05, 0.1, 0.2)],
        "NonNegative": [
            _constraint("all weights", NonNegative),
            _constraint("the last layer", partial(NonNegative, pattern="classifier.3.*")),
        ],
        "SpectralProjection": [_constraint(f"bound {b}", partial(SpectralProjection, b)) for b in (1, 2)],
        "Orthogonal": [_constraint("gain 1", Orthogonal)],
        "Parseval": [_constraint(f"beta {b}", partial(Parseval, beta=b)) for b in (1e-3, 1e-2)],
        "MagnitudePruning": [
            _constraint(f"sparsity {s}, from the start", partial(MagnitudePruning, s)) for s in (0.5, 0.9)
        ]
        + [
            _constraint(f"sparsity {s}, grown over half", lambda s=s: MagnitudePruning(half_way(s)))  # type: ignore[misc]
            for s in (0.5, 0.9)
        ],
    }


def _augmentations() -> dict[str, list[Row]]:
    return {
        "InputNoise": [_augmented(f"std {s}", InputNoise(std=s)) for s in (0.1, 0.2)],
        "MixUp": [_augmented(f"alpha {a}", MixUp(alpha=a)) for a in (0.2, 1)],
        "CutMix": [_augmented(f"alpha 1, probability {p}", CutMix(alpha=1, probability=p)) for p in (0.5, 1)],
        "Cutout": [_augmented(f"size {s}", Cutout(size=s, fill=0)) for s in (2, 4)],
        "AugMix": [_augmented(f"severity {s}", AugMix(severity=s)) for s in (1, 3)],
        "TrivialAugment": [_augmented("each image by itself", TrivialAugment())],
    }


def _with(seed: int, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    return arguments


def _fine_tuned(seed: int, penalty: Callable[[], Any] | None) -> dict[str, Any]:
    return {"network": partial(pretrained, seed), "penalties": [] if penalty is None else [penalty()]}


def _penalty(name: str, make: Callable[[], Any]) -> Row:
    return Row(name, lambda seed: {"penalties": [make()]})


def _constraint(name: str, make: Callable[[], Any]) -> Row:
    return Row(name, lambda seed: {"constraints": [make()]})


def _callback(name: str, make: Callable[[], Callback]) -> Row:
    return Row(name, lambda seed: {"callbacks": [make()]})


def _augmented(name: str, augmentation: Augmentation) -> Row:
    return _callback(name, lambda: BatchAugmentation([augmentation]))


def _network(name: str, **arguments: Any) -> Row:  # noqa: ANN401
    return Row(name, lambda seed: {"network": partial(network_of_digits, **arguments)})

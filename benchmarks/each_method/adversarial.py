"""Adversarial training on the digits: the setting, and the studies of objectives and weight perturbations."""

import statistics
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import Adam

from benchmarks.each_method.study import Column, Row, Study, Values
from benchmarks.each_method.training import Clock, PacedSetting, fit, seed_all
from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import APGD, FGSM, NFGSM, PGD, AttackSchedule, AutoAttack, WorstOf, attack_in_stages
from lightning_advreg.callbacks import WeightAverage
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.objectives import (
    ALP,
    GAT,
    HAT,
    LIET,
    MART,
    PGDAT,
    PGI,
    TRADES,
    AdversarialMixup,
    AverageOverAttacks,
    FreeAT,
    GradAlign,
    NuAT,
)
from lightning_advreg.perturbations import ASAM, AWP, SAM, WeightNoise
from lightning_advreg.schedules import Piecewise, Ramp

CLEARLY = 2.0
"""Points of accuracy by which a row must exceed the baseline to be called better."""
EPS, EPS_L2, EPOCHS, WARMUP, TARGETS = 0.2, 0.5, 12, 3, 3
ATTACK = PGD(eps=EPS, step_size=0.05, steps=7)
_L2 = PGD(norm="l2", eps=EPS_L2, step_size=0.125, steps=7)


class AdversarialTraining(PacedSetting):
    """The small CNN on 1,437 digits, under attack in every step.

    Args:
        epochs: Of training.
        images: How many test images to attack; None for all 360.
        pace_epochs: Epochs of the baseline that each cost is measured against.
        l2: Whether to attack in L2 too.
    """

    options = ""

    def __init__(
        self, epochs: int = EPOCHS, images: int | None = None, pace_epochs: int = 1, *, l2: bool = False
    ) -> None:
        super().__init__(epochs, pace_epochs)
        self.images, self.l2 = images, l2
        in_l2 = [Column("pgd50_l2", f"PGD-50, L2 eps {EPS_L2}", "%")] if l2 else []
        self.columns: Sequence[Column] = [
            Column("clean", "clean", "%"),
            Column("pgd50", f"PGD-50, eps {EPS}", "%"),
            Column("worst", "after APGD-CE and APGD-T too", "%"),
            *in_l2,
            Column("cost", "time of training", "x"),
        ]

    @property
    def title(self) -> str:
        """Head the section of the page."""
        return "Adversarial training against two norms" if self.l2 else "Adversarial training"

    @property
    def task(self) -> str:
        """Say what is trained and measured."""
        both = f", and in L2 with eps {EPS_L2}" if self.l2 else ""
        return (
            f"8x8 digits, {self.epochs} epochs, Linf eps {EPS}{both}, {self.images or 360} test images; PGD-50 with 2 "
            f"restarts, and what is left after APGD-CE and APGD-T ({TARGETS} targets) as well"
        )

    def measure(self, row: Row, seed: int) -> Values:
        """Train, attack, and keep the time."""
        clock = Clock()
        network = self._trained(row, seed, self.epochs, clock)
        self._spent = sum(clock.seconds)
        data = DigitsDataModule(eval_batch_size=360)
        data.setup("test")
        x, y = (part[: self.images] for part in next(iter(data.test_dataloader())))
        pgd = PGD(eps=EPS, step_size=0.02, steps=50, restarts=2, stop_at_success=True)
        stages = {"pgd50": pgd, "apgd-ce": APGD(eps=EPS), "apgd-t": _targeted()}
        outcome = attack_in_stages(network, x, y, stages, seed=seed, batch_size=360)
        share = 100 / len(x)
        values: Values = {
            "clean": share * int(outcome.clean.sum()),
            "pgd50": share * outcome.standing_after("pgd50"),
            "worst": share * outcome.standing_after("apgd-t"),
        }
        if self.l2:
            pgd_l2 = PGD(norm="l2", eps=EPS_L2, step_size=0.05, steps=50, restarts=2, stop_at_success=True)
            in_l2 = attack_in_stages(network, x, y, {"pgd": pgd_l2}, seed=seed, batch_size=360)
            values["pgd50_l2"] = share * in_l2.standing_after("pgd")
        return {key: None if value is None else round(value, 3) for key, value in values.items()}

    def remark(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Name the rows that are better than the baseline under PGD alone, which is a sign of gradient masking."""
        means = {row["name"]: {key: statistics.fmean(row["values"][key]) for key in ("pgd50", "worst")} for row in rows}
        first = means[rows[0]["name"]]
        masked = [
            name
            for name, mean in means.items()
            if mean["pgd50"] > first["pgd50"] + CLEARLY and mean["worst"] <= first["worst"]
        ]
        if not masked:
            return ""
        named = "; ".join(masked)
        return (
            f"Better than the baseline under PGD alone and not under APGD-T too, a sign of gradient masking: {named}."
        )

    def _trained(self, row: Row, seed: int, epochs: int, clock: Clock) -> nn.Module:
        arguments: dict[str, Any] = row.build(seed)
        callbacks: Sequence[Callback] = arguments.pop("callbacks", ())
        epochs = max(1, epochs // arguments.pop("divide_epochs", 1))
        seed_all(seed)
        arguments = {"attack": ATTACK, "eps_warmup_epochs": min(WARMUP, epochs), **arguments}
        module = AdversarialClassifier(
            _network(), optimizer=partial(Adam, lr=3e-3), lr_scheduler=LinearOneCycle, **arguments
        )
        fit(module, _data(seed), epochs, clock, callbacks)
        return module.network.eval()


def _targeted() -> APGD:
    apgd = AutoAttack(eps=EPS, version="fast").stages(10)["apgd-t"]
    assert isinstance(apgd, APGD)
    return APGD(eps=EPS, loss=apgd.loss, targets=TARGETS)


def _network() -> MNISTConvNet:
    return MNISTConvNet(image_size=8, width=16)


def _data(seed: int) -> DigitsDataModule:
    return DigitsDataModule(batch_size=64, val_size=0, seed=seed, loader="resident")


@cache
def _helper(seed: int) -> nn.Module:
    """Give a network trained without attacks, for HAT."""
    seed_all(seed)
    module = RegularizedClassifier(_network(), optimizer=partial(Adam, lr=3e-3), lr_scheduler=LinearOneCycle)
    fit(module, _data(seed), EPOCHS, Clock())
    return module.network


def _row(name: str, **makers: Any) -> Row:  # noqa: ANN401
    """Give a row whose arguments that are functions of the seed are called for each run."""
    return Row(name, lambda seed: {key: m(seed) if callable(m) and _lazy(m) else m for key, m in makers.items()})


def _lazy(maker: Any) -> bool:  # noqa: ANN401
    return getattr(maker, "__name__", "") == "<lambda>"


BASELINE = _row("PGDAT")
_RS, _BATCH = FGSM(eps=EPS, random_start=True), FGSM(eps=EPS, model_mode="batch_stats")
_FGSM = FGSM(eps=EPS)
_CHOSEN = "Hyper-parameters were chosen before looking, from the papers and the docstrings, and not tuned."


def studies(setting: AdversarialTraining | None = None, in_l2: AdversarialTraining | None = None) -> list[Study]:
    """Give the studies of adversarial training."""
    setting = AdversarialTraining() if setting is None else setting
    in_l2 = AdversarialTraining(l2=True) if in_l2 is None else in_l2

    def study(name: str, *rows: Row, note: str = "") -> Study:
        return Study(name, setting, (BASELINE, *rows), " ".join(part for part in (_CHOSEN, note) if part))

    several = (
        _row("PGDAT, the worse of Linf and L2", attack=WorstOf([ATTACK, _L2])),
        _row(
            "AverageOverAttacks, Linf and L2", attack=WorstOf([ATTACK, _L2]), objective=lambda _: AverageOverAttacks()
        ),
    )
    return [
        study(
            "PGDAT",
            _row("label smoothing 0.1", objective=PGDAT(label_smoothing=0.1)),
            _row("clean weight 0.5", objective=PGDAT(clean_weight=0.5)),
            _row("FGSM", attack=_FGSM),
            _row("FGSM-RS", attack=_RS),
            _row("N-FGSM, noise 1", attack=NFGSM(eps=EPS, noise=1.0)),
        ),
        study("TRADES", *(_row(f"TRADES, beta {b}", objective=TRADES(beta=b)) for b in (2, 6))),
        study("MART", *(_row(f"MART, beta {b}", objective=MART(beta=b)) for b in (2, 5))),
        study("ALP", *(_row(f"ALP, weight {w}", objective=ALP(weight=w)) for w in (0.5, 2))),
        study(
            "HAT",
            _row("HAT, beta 2.5, gamma 0.5", objective=lambda seed: HAT(_helper(seed))),
            note="The time of training leaves out that of the helper, a network trained without attacks.",
        ),
        study(
            "AdversarialMixup",
            *(_row(f"AdversarialMixup, alpha {a}", objective=AdversarialMixup(alpha=a)) for a in (0.2, 1)),
        ),
        study(
            "GradAlign",
            _row("FGSM", attack=_FGSM),
            *(_row(f"GradAlign, weight {w}", attack=_FGSM, objective=GradAlign(weight=w)) for w in (0.2, 2)),
        ),
        study(
            "FreeAT",
            _row("FreeAT, 4 replays, a quarter of the epochs", objective=lambda _: FreeAT(replays=4), divide_epochs=4),
            _row("FreeAT, 4 replays, all epochs", objective=lambda _: FreeAT(replays=4)),
            note="Each replay is an optimizer step, which weighs more than a step of an attack on so small a network.",
        ),
        study("NuAT", *(_row(f"NuAT, weight {w}", attack=_FGSM, objective=NuAT(weight=w)) for w in (1, 4))),
        study(
            "GAT",
            *(_row(f"GAT, weight {w}, start 1", attack=_FGSM, objective=GAT(weight=w, start=1)) for w in (5, 15)),
        ),
        study(
            "LIET",
            _row("LIET, weight 100", attack=_BATCH, objective=lambda _: LIET()),
            _row(
                "LIET, weight 20, smoothing 0.4, noise 0 to 1",
                attack=_BATCH,
                objective=lambda _: LIET(weight=20, label_smoothing=0.4, noise_min=0, noise_max=1),
            ),
            note="The second row has the settings that the authors give for large eps.",
        ),
        study(
            "PGI",
            _row("PGI, weight 1", attack=_BATCH, objective=lambda _: PGI(weight=1)),
            _row("PGI, weight 10", attack=_BATCH, objective=lambda _: PGI(weight=10)),
        ),
        Study("AverageOverAttacks", in_l2, (BASELINE, *several), _CHOSEN),
        study("AWP", *(_row(f"AWP, gamma {g}", weight_perturbation=AWP(gamma=g)) for g in (0.005, 0.01))),
        study("SAM", *(_row(f"SAM, rho {r}", weight_perturbation=SAM(rho=r)) for r in (0.05, 0.1))),
        study("ASAM", *(_row(f"ASAM, rho {r}", weight_perturbation=ASAM(rho=r)) for r in (0.5, 1))),
        study(
            "WeightNoise", *(_row(f"WeightNoise, std {s}", weight_perturbation=WeightNoise(std=s)) for s in (0.05, 0.1))
        ),
        study(
            "WeightAverage",
            _row("EMA, decay 0.95", callbacks=lambda _: [WeightAverage(0.95, swap_at_end=True)]),
            _row("EMA, decay 0.99", callbacks=lambda _: [WeightAverage(0.99, swap_at_end=True)]),
            _row("SWA, last quarter", callbacks=lambda _: [WeightAverage(None, 9, swap_at_end=True)]),
            note="Learning rates fall to 0 over training, which leaves an average little to add.",
        ),
        study(
            "AttackSchedule",
            *(_row(name, eps_warmup_epochs=0, attack_schedule=schedule) for name, schedule in _schedules().items()),
            note=f"The baseline has a warm-up of {WARMUP} epochs, as all rows of the other methods.",
        ),
    ]


def _schedules() -> Mapping[str, AttackSchedule | None]:
    steps = Piecewise(milestones=[(0, 1), (4, 3), (8, 7)])
    return {
        "no schedule": None,
        "eps grows over 6 epochs": AttackSchedule(eps_factor=Ramp(epochs=6)),
        "1, 3, 7 steps": AttackSchedule(steps=steps),
        "1, 3, 7 steps, eps grows over 3 epochs": AttackSchedule(eps_factor=Ramp(epochs=3), steps=steps),
    }

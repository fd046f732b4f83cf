"""Ablations: every combination of a few choices, trained and tested with several seeds, and compared."""

from lightning_advreg.ablation.conduct import Ablation
from lightning_advreg.ablation.launchers import Launcher, Ray, Serial
from lightning_advreg.ablation.paired import PairedDifference, holm, paired_difference
from lightning_advreg.ablation.plan import Axis, Cell, Override, Plan, Variant, read_variants
from lightning_advreg.ablation.results import Outcome
from lightning_advreg.ablation.runs import Run, make_runs

__all__ = [
    "Ablation",
    "Axis",
    "Cell",
    "Launcher",
    "Outcome",
    "Override",
    "PairedDifference",
    "Plan",
    "Ray",
    "Run",
    "Serial",
    "Variant",
    "holm",
    "make_runs",
    "paired_difference",
    "read_variants",
]

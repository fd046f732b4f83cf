"""Ablations: every combination of a few choices, trained and tested with several seeds, and compared."""

from lightning_advreg.ablation.cluster import Ray
from lightning_advreg.ablation.conduct import Ablation
from lightning_advreg.ablation.launchers import Launcher
from lightning_advreg.ablation.local import Local
from lightning_advreg.ablation.paired import PairedDifference, holm, paired_difference
from lightning_advreg.ablation.plan import Axis, Cell, Override, Plan, Variant, read_variants
from lightning_advreg.ablation.results import Outcome
from lightning_advreg.ablation.runs import Run, make_runs

__all__ = [
    "Ablation",
    "Axis",
    "Cell",
    "Launcher",
    "Local",
    "Outcome",
    "Override",
    "PairedDifference",
    "Plan",
    "Ray",
    "Run",
    "Variant",
    "holm",
    "make_runs",
    "paired_difference",
    "read_variants",
]

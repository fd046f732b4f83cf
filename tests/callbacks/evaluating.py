"""The callback RobustEvaluation at work, in short."""

import json

from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import RobustEvaluation

from .foreign import Foreign, loader, trainer

PGD3 = PGD(eps=0.05, step_size=0.03, steps=3)
NAME = "robust_evaluation"


def callback(attacks=PGD3, **settings):
    return RobustEvaluation(attacks, **{"masking": False, "curve_eps": [], **settings})


def run(tmp_path, evaluating, data=None, module=None, verbose=False, **settings):
    module = Foreign(seed=1) if module is None else module
    return trainer(tmp_path, evaluating, **settings).test(module, data or loader(20), verbose=verbose)


def results(folder, suffix=""):
    return json.loads((folder / f"{NAME}{suffix}.json").read_text())


def pictures(folder):
    return sorted(path.name for path in (folder / "images").glob("*.png"))


PICTURES = ["test_accuracy_curve_000000.png", "test_per_class_000000.png", "test_robust_evaluation_examples_000000.png"]

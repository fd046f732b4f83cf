"""A cell of an ablation has the results of one process when two train and test it together."""

import os

import pytest

from lightning_advreg.ablation import Axis, Plan, make_runs, worker
from lightning_advreg.ablation.folders import prepare, read_json
from tests.ablation.parts import BASE

# nothing is drawn, and the images of a step are those of one process; 33 cannot be shared by two
CHANGES = ["--data.val_size=33", "--trainer.limit_val_batches=1.0", "--trainer.limit_train_batches=1.0"]
CALLBACKS = """
    - {class_path: MultiGPUScaling, init_args: {constant_global_batch: true}}
    - class_path: RobustAccuracy
      init_args: {attacks: {fgsm: {class_path: FGSM, init_args: {eps: 0.05}}}}
"""


def execute(folder, *flags):
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / f"base-{os.environ.get('RANK', 0)}.yaml"
    single = "  callbacks: [{class_path: ModelCheckpoint, init_args: {save_last: true}}]\n"
    several = f"  callbacks:\n    - {{class_path: ModelCheckpoint, init_args: {{save_last: true}}}}{CALLBACKS}"
    assert single in BASE
    base.write_text(BASE.replace(single, several))
    arguments = ("--config", str(base), *CHANGES, "--trainer.max_epochs=2", *flags)
    plan = Plan(arguments=arguments, axes=(Axis.parse("dropout=0,0.3"),), seeds=(1,))
    run = make_runs(plan, folder)[0]
    prepare(run.folder, run.config)
    worker.execute(run.folder)
    return run.folder


def in_pair(folder):
    execute(folder, "--trainer.devices=2", "--trainer.strategy=ddp")


def test_two_processes_give_the_results_of_one(tmp_path, pair):
    (found,) = pair.glob("*/1/result.json")
    found, expected = read_json(found), read_json(execute(tmp_path) / "result.json")
    assert (found["device"][0], expected["device"][0], found["starts"]) == ("2", "1", 1)
    metrics = {name for name in expected["metrics"] if name.startswith(("val/", "test/"))}
    assert {"val/loss", "val/robust_acc/fgsm", "test/acc", "test/robust_acc/fgsm"} <= metrics
    for name in metrics:
        exact = "acc" in name
        value = pytest.approx(expected["metrics"][name], rel=0 if exact else 1e-5, abs=0)
        assert found["metrics"][name] == value, name
    assert 0.1 < found["metrics"]["test/robust_acc/fgsm"] < found["metrics"]["test/acc"]

"""Folders as runs and ablations leave them, small."""

import json

import numpy as np
import yaml
from PIL import Image

MODEL = {
    "class_path": "lightning_advreg.AdversarialClassifier",
    "init_args": {
        "network": {"class_path": "lightning_advreg.networks.MNISTConvNet", "init_args": {"width": 32}},
        "penalties": [{"class_path": "lightning_advreg.penalties.L2", "init_args": {"weight": 0.001}}],
    },
}
RATE = {"accuracy": 0.5, "interval": [0.4, 0.6], "correct": 50, "images": 100}
CURVE = {
    "attack": {"attack": "APGD", "steps": 50},
    "norm": "linf",
    "points": [{"eps": 0.0, **RATE, "accuracy": 0.9, "interval": [0.85, 0.95]}, {"eps": 8 / 255, **RATE}],
}
SIGN = {"name": "zero_gradients", "value": 1, "threshold": 0, "message": "The input gradient is exactly zero."}
ALARM = {"name": "start_plateau", "epoch": 1, "step": 9, "message": "Epoch 1: training has not left its plateau."}


def start(begun="2026-01-01T00:00:00+00:00", **more):
    versions = {"python": "3.11.0", "lightning_advreg": "0.1.0", "torch": "2.9.0", "lightning": "2.6.6"}
    return {"started": begun, "devices": "1 x cpu", "processor": "Fast One", "threads": 2, "seed": 3,
            "command": ["fit", "--config", "quickstart"], "versions": versions, **more}  # fmt: skip


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_picture(path, size=(64, 48), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write_run(folder, *, model=MODEL, epochs=3, max_epochs=3):
    folder.mkdir(parents=True)
    config = {"seed_everything": 0, "trainer": {"max_epochs": max_epochs}, "model": model}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = ["epoch,step,train/loss,val/acc"]
    for epoch in range(epochs):
        rows += [f"{epoch},{10 * epoch + 4},{2 - epoch / 2},", f"{epoch},{10 * epoch + 9},,{0.5 + epoch / 10}"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_test(folder, begun="2026-01-02T00:00:00+00:00"):
    write_json(folder / "test/results.json", {"metrics": {"test/acc": 0.875, "test/robust_acc/pgd": 0.375}})
    write_json(folder / "test/environment.json", {"starts": [start(begun)]})
    attack = {**RATE, "attack": {"attack": "PGD", "norm": "linf", "eps": 8 / 255}, "stages": {"pgd": RATE}}
    evaluation = {"clean": RATE, "worst_case": RATE, "attacks": {"pgd": attack}, "curve": CURVE}
    write_json(folder / "test/robust_evaluation.json", {**evaluation, "gradient_masking": [SIGN]})
    return folder


def write_ablation(folder, cell="dropout=0.3"):
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text(f'cell,seed,test/acc\n"{cell}",0,0.9\n')
    table = f"# Ablation\n\n| cell | clean acc |\n| :-- | --: |\n| {cell} | 90.00 % |\n\nMean over 1 seed.\n"
    (folder / "table.md").write_text(table)
    write_picture(folder / "plots/main_effects.png")
    return folder

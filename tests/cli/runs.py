"""Short runs of the command line, in the test's own folder."""

from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10

from lightning_advreg.cli import main
from lightning_advreg.config_files import configs_folder

from ..data.sources import trust_cifar, write_cifar, write_idx

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SHORT = [
    *QUIET,
    *("--trainer.max_epochs", "1"),
    *("--trainer.num_sanity_val_steps", "0"),
    *("--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1"),
    *("--trainer.log_every_n_steps", "1"),
    *("--data.init_args.batch_size", "4"),
]
CONFIGS = sorted(str(path.relative_to(configs_folder()).with_suffix("")) for path in configs_folder().rglob("*.yaml"))
RUNS = [name for name in CONFIGS if "/" not in name]


def write_data(folder, monkeypatch, name):
    """Write a small data set of the kind a configuration reads; give the flags that point there."""
    if name.startswith("cifar10"):
        write_cifar(folder, CIFAR10)
        trust_cifar(monkeypatch, CIFAR10)
    elif name.startswith("mnist"):
        write_idx(folder, "MNIST")
    else:
        return []
    return ["--data.init_args.data_dir", str(folder), "--data.init_args.val_size", "8"]


def run(command, name, *flags):
    return main([command, "--config", name, *SHORT, *flags])


def root(name):
    return Path("runs", name)


def refused(capsys, *arguments):
    """What the command line says when it refuses: its own error, or that of the class it was building."""
    with pytest.raises((SystemExit, ValueError, TypeError, FileNotFoundError)) as caught:
        main(list(arguments))
    assert getattr(caught.value, "code", 1) != 0
    return capsys.readouterr().err + str(caught.value)

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lightning_advreg import RegularizedClassifier, __version__
from lightning_advreg.attacks import PGD
from lightning_advreg.cli import main
from lightning_advreg.config_files import configs_folder, find_configs
from lightning_advreg.constraints import MaxNorm
from lightning_advreg.penalties import L2

from .runs import QUIET, SHORT, refused, root, run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# --config


def test_shipped_configurations_are_found_by_name():
    path = str(configs_folder() / "quickstart.yaml")
    for name in ("quickstart", "quickstart.yaml", "configs/quickstart", "configs/quickstart.yaml"):
        assert find_configs(["fit", "--config", name]) == ["fit", "--config", path]
        assert find_configs(["fit", "-c", name]) == ["fit", "-c", path]
        assert find_configs(["fit", f"--config={name}"]) == ["fit", f"--config={path}"]
    overlay = str(configs_folder() / "logger" / "wandb.yaml")
    assert find_configs(["-c", "quickstart", "-c", "logger/wandb"]) == ["-c", path, "-c", overlay]


def test_other_arguments_stay_as_they_are():
    arguments = ["fit", "--trainer.max_epochs", "1", "--model", "quickstart", "--ckpt_path=quickstart", "--config"]
    assert find_configs(arguments) == arguments
    assert find_configs([]) == []


def test_a_file_of_that_name_wins():
    Path("quickstart.yaml").write_text("seed_everything: 5\n")
    Path("configs").mkdir()
    assert find_configs(["--config", "quickstart.yaml"]) == ["--config", "quickstart.yaml"]
    assert find_configs(["--config", "quickstart"]) == ["--config", str(configs_folder() / "quickstart.yaml")]
    assert find_configs(["--config", "configs/quickstart.yaml"])[1].startswith(str(configs_folder()))
    assert find_configs(["--config", "{seed_everything: 1}"]) == ["--config", "{seed_everything: 1}"]


@pytest.mark.parametrize(("name", "near"), [("mnist_pdg", "mnist_pgd"), ("configs/quikstart.yaml", "quickstart")])
def test_an_unknown_name_brings_the_nearest_ones(name, near):
    with pytest.raises(SystemExit, match=f"there is no configuration {name}; nearest of those that come along: {near}"):
        main(["fit", "--config", name])


def test_a_name_like_no_other_brings_the_command_that_lists_them():
    with pytest.raises(SystemExit, match=r"no configuration zzzzzzzz; `lightning-advreg configs` lists them"):
        main(["fit", "--config", "zzzzzzzz"])


# the program


def test_the_version_and_the_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert {"fit", "validate", "test", "predict"} <= set(capsys.readouterr().out.replace(",", " ").split())
    done = subprocess.run(
        [sys.executable, "-m", "lightning_advreg", "--version"],
        capture_output=True,
        text=True,
        check=True,
        # the folder the package lies in, whether or not it is installed
        env={**os.environ, "PYTHONPATH": str(Path(main.__code__.co_filename).parents[1])},
    )
    assert done.stdout.strip() == f"lightning-advreg {__version__}"
    assert done.stderr == ""


def test_arguments_come_from_the_process_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lightning-advreg", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.strip() == f"lightning-advreg {__version__}"


def test_a_plain_fit_names_classes_without_their_path():
    cli = main(
        [
            *("fit", "--model", "RegularizedClassifier", "--model.network", "MNISTConvNet"),
            *("--model.network.image_size", "8", "--model.network.width", "4", "--data", "DigitsDataModule"),
            *SHORT,
        ]
    )
    assert type(cli.model) is RegularizedClassifier
    assert Path("runs", "metrics.csv").is_file()


def test_a_module_of_the_users_own_runs_too():
    name = "lightning.pytorch.demos.boring_classes"
    flags = ["--model", f"{name}.BoringModel", "--data", f"{name}.BoringDataModule", "--trainer.fast_dev_run", "true"]
    cli = main(["fit", *flags, *QUIET])
    assert type(cli.model).__name__ == "BoringModel"


def test_the_logger_can_be_switched_off():
    cli = run("fit", "digits_regularized", "--trainer.logger", "false")
    assert cli.trainer.loggers == []
    assert not list(root("digits_regularized").glob("metrics*.csv"))


def test_the_logger_of_the_user_comes_on_top():
    flags = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "mine", "--trainer.logger.name", "x"]
    cli = run("fit", "digits_regularized", *flags)
    assert [logger.save_dir for logger in cli.trainer.loggers] == [str(root("digits_regularized")), "mine"]
    assert list(Path("mine", "x").rglob("metrics.csv"))
    assert (root("digits_regularized") / "metrics.csv").is_file()


# numbers


def test_fractions_are_numbers_in_flags_and_in_yaml():
    Path("mine.yaml").write_text(
        """
model:
  class_path: AdversarialClassifier
  init_args:
    network: {class_path: MNISTConvNet, init_args: {image_size: 8, width: 4}}
    attack: {class_path: PGD, init_args: {eps: 8/255, step_size: 2/255, steps: 1}}
    penalties: [{class_path: L2, init_args: {weight: 1/1000}}]
    constraints: [{class_path: MaxNorm, init_args: {bound: 7/2}}, {class_path: WeightClip, init_args: {bound: 1/2}}]
    eps_warmup_epochs: 1/2
data: DigitsDataModule
trainer:
  callbacks: [{class_path: RobustAccuracy, init_args: {attacks: {fgsm: {class_path: FGSM, init_args: {eps: 1/255}}}}}]
"""
    )
    model = main(["fit", "--config", "mine.yaml", *SHORT]).model
    assert model.attack == PGD(eps=8 / 255, step_size=2 / 255, steps=1)
    assert model.penalties == {"l2": L2(0.001)}
    assert [limit.bound for limit in model.constraints] == [3.5, 0.5]
    assert model.eps_warmup_epochs == 0.5
    flags = ["--model.attack.eps", "1/5", "--model.attack.step_size=1/50", "--model.penalties.weight", "1/4"]
    flags += ["--model.constraints+=MaxNorm", "--model.constraints.bound=9/2", "--model.eps_warmup_epochs=3/4"]
    model = main(["fit", "--config", "mine.yaml", *SHORT, *flags]).model
    assert model.attack == PGD(eps=0.2, step_size=0.02, steps=1)
    assert model.penalties == {"l2": L2(0.25)}
    assert model.constraints[-1] == MaxNorm(4.5)
    assert model.eps_warmup_epochs == 0.75
    kept = yaml.safe_load(Path("runs", "config.yaml").read_text())
    assert kept["model"]["init_args"]["attack"]["init_args"]["eps"] == "1/5"


@pytest.mark.parametrize(("eps", "message"), [("-1", "eps must be at least 0"), ("8:255", "eps must be a number")])
def test_a_bad_eps_is_refused_in_a_flag_and_in_yaml(eps, message, capsys):
    assert message in refused(capsys, "fit", "--config", "quickstart", *SHORT, f"--model.attack.eps={eps}")
    text = (configs_folder() / "quickstart.yaml").read_text()
    Path("bad.yaml").write_text(text.replace("PGD, init_args: {eps: 0.2,", f'PGD, init_args: {{eps: "{eps}",'))
    assert message in refused(capsys, "fit", "--config", "bad.yaml", *SHORT)


BAD_FLAGS = {
    "budget": (
        "digits_regularized",
        ["--model.constraints+=Budget", "--model.constraints.parameters=10"],
        ("network exceeds its budget", "10 allowed"),
    ),
    "generator": (
        "digits_gan",
        ["--model.generator_constraints+=Budget", "--model.generator_constraints.parameters=10"],
        ("generator exceeds its budget",),
    ),
    "classes": ("quickstart", ["--model.network.num_classes=7"], ("has 10 classes", "num_classes=10")),
    "shape": (
        "digits_gan",
        ["--model.generator.image_shape=[1, 9, 9]"],
        ("generator makes images of shape (1, 9, 9), the data has (1, 8, 8)",),
    ),
    "discriminator": (
        "digits_gan",
        ["--model.discriminator.image_shape=[1, 9, 9]"],
        ("(N, 1, 9, 9)",),
    ),
    "n_critic": ("digits_gan", ["--model.n_critic=0"], ("n_critic must be an integer of at least 1, got 0",)),
    "ema_decay": ("digits_gan", ["--model.ema_decay=1"], ("ema_decay must be less than 1",)),
    "warmup": ("quickstart", ["--model.lr_scheduler.warmup=2"], ("warmup must be in [0, 1)",)),
    "a missing data folder": (
        "mnist_pgd",
        ["--data.data_dir=nowhere"],
        ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "nowhere", "--data.init_args.download true"),
    ),
    "an empty split": ("quickstart", ["--data.val_size=1437"], ("val_size", "1437")),
    "an unknown class": ("quickstart", ["--model.attack=PGB"], ("PGB",)),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_input_is_refused(case, capsys):
    name, flags, words = BAD_FLAGS[case]
    message = refused(capsys, "fit", "--config", name, *SHORT, *flags)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.full((20, 8, 8), 255.0), np.arange(20) % 10, ("must lie in [0, 1]", "divide by 255")),
        (np.zeros((20, 8, 8), np.int64), np.arange(20) % 10, ("must be uint8, or floating point in [0, 1]",)),
        (np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10 - 1, ("labels", "-1")),
        (np.zeros((20, 8, 8), np.uint8), np.arange(20), ("gives outputs of shape (1, 10)", "20 classes")),
    ],
    ids=["pixels", "integers", "negative labels", "labels"],
)
def test_bad_arrays_are_refused(x, y, words, capsys):
    np.savez("bad.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    flags = ["--data", "ArrayDataModule", "--data.path", "bad.npz", "--data.batch_size", "4"]
    message = refused(capsys, "fit", "--config", "quickstart", *QUIET, *flags)
    for word in words:
        assert word in message


def test_own_data_through_the_same_configuration():
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 10
    np.savez("mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    flags = ["--data", "ArrayDataModule", "--data.path", "mine.npz", "--data.augment", "true", "--data.val_size", "8"]
    cli = run("fit", "cifar10_regularized_resnet18", "--model.network.width", "4", *flags)
    assert type(cli.datamodule).__name__ == "ArrayDataModule"


def test_the_installed_program_ends_with_status_0(tmp_path):
    # in-process tests of `main` cannot see what the console script makes of its value
    program = Path(sys.executable).with_name("lightning-advreg")
    if not program.exists():
        pytest.skip("the package is not installed beside this Python")
    flags = ["--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu"]
    done = subprocess.run(
        [program, "fit", "--config", "quickstart", *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""Every configuration that comes along runs, shortened, on data of the real format."""

import csv
import json

import pytest
import torch
import yaml

from lightning_advreg.config_files import configs_folder

from .runs import CONFIGS, RUNS, root, run, write_data

SMALLER = {
    # a ResNet on the CPU takes its time
    "cifar10_pgd_resnet18": ["--model.init_args.network.init_args.width", "4"],
    # compiling would take longer than all other configurations together; tests/modules/test_engine_compile.py does it
    "cifar10_linf_speedrun": ["--model.init_args.network.init_args.width", "4", "--model.engine.compile", "false"],
    "cifar10_regularized_resnet18": ["--model.init_args.network.init_args.width", "4"],
    "mnist_gan_few_images": ["--data.init_args.train_size", "40", "--trainer.check_val_every_n_epoch", "1"],
    "mnist_regularized": ["--data.init_args.train_size", "40"],
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def flags_of(name, folder, monkeypatch):
    return [*write_data(folder, monkeypatch, name), *SMALLER.get(name, [])]


def columns(path):
    with open(path) as file:
        return next(csv.reader(file))


@pytest.mark.parametrize("name", RUNS)
def test_it_fits_and_its_checkpoint_is_tested(name, tmp_path, monkeypatch, capsys):
    flags = flags_of(name, tmp_path / "data", monkeypatch)
    fitted = run("fit", name, *flags)
    assert f"Everything is in {root(name)}" in capsys.readouterr().out
    settings = yaml.safe_load((configs_folder() / f"{name}.yaml").read_text())
    last = check_fit(root(name), settings, fitted)
    before = (root(name) / "metrics.csv").read_text()
    tested = run("test", name, *flags, "--ckpt_path", str(last))
    assert f"Everything is in {root(name) / 'test'}" in capsys.readouterr().out
    check_test(root(name), settings, last)
    assert (root(name) / "metrics.csv").read_text() == before
    for key, value in fitted.model.state_dict().items():
        assert torch.equal(value, tested.model.state_dict()[key])
    # a module made from the file alone has the same weights
    loaded = type(fitted.model).load_from_checkpoint(last)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in fitted.model.state_dict().items())


def check_fit(folder, settings, cli):
    assert cli.trainer.current_epoch == 1
    assert settings["trainer"]["default_root_dir"] == str(folder)
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert kept["model"]["class_path"].rpartition(".")[2] == settings["model"]["class_path"]
    assert kept["trainer"]["limit_train_batches"] == 2
    gan = settings["model"]["class_path"] == "GAN"
    promised = {"train/d_loss", "train/g_loss", "val/d_real"} if gan else {"train/loss", "val/acc"}
    assert promised <= set(columns(folder / "metrics.csv"))
    last = folder / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    assert stored["hyper_parameters"]["_class_path"].endswith(settings["model"]["class_path"])
    return last


def check_test(folder, settings, checkpoint):
    results = json.loads((folder / "test" / "results.json").read_text())
    assert results["checkpoint"] == str(checkpoint)
    gan = settings["model"]["class_path"] == "GAN"
    expected = {"test/d_real", "test/d_fake"} if gan else {"test/loss", "test/acc"}
    for callback in settings["trainer"]["callbacks"]:
        if callback["class_path"] == "RobustAccuracy":
            expected |= {f"test/robust_acc/{attack}" for attack in callback["init_args"]["attacks"]}
    assert results["metrics"].keys() == expected


def test_a_picture_is_left(tmp_path, monkeypatch):
    flags = ["--trainer.callbacks", "GeneratedSamples", "--trainer.callbacks.num_images", "4"]
    run("fit", "digits_gan", *flags)
    assert [path.name for path in (root("digits_gan") / "images").iterdir()] == ["samples_000001.png"]


def test_overlays_are_no_runs_of_their_own():
    ablations = ["cifar10_norms", "digits", "mnist", "mnist_gan", "mnist_gan_extra"]
    evaluations = ["autoattack", "autoattack_fast", "gan"]
    overlays = [f"ablations/{name}" for name in ablations] + [f"eval/{name}" for name in evaluations]
    scaling = [f"scaling/{name}" for name in ("eight_gpus", "one_gpu", "slurm", "torchrun", "two_nodes")]
    assert [name for name in CONFIGS if "/" in name] == [*overlays, "logger/wandb", *scaling]


@pytest.mark.parametrize(("overlay", "name"), [("autoattack_fast", "autoattack_fast"), ("autoattack", "autoattack")])
@pytest.mark.filterwarnings("error:The search runs on")
def test_autoattack_on_top_of_a_configuration(overlay, name):
    flags = ["--trainer.callbacks.max_samples", "3", "--trainer.callbacks.masking", "false"]
    if overlay == "autoattack":
        # the whole suite, shortened
        attack = "{class_path: AutoAttack, init_args: {eps: 1/5, steps: 3, queries: 5}}"
        flags += ["--trainer.callbacks.attacks", f"{{{name}: {attack}}}"]
    cli = run("test", "digits_adversarial", "--config", f"eval/{overlay}", *flags)
    folder = root("digits_adversarial") / "test"
    evaluation = json.loads((folder / "robust_evaluation.json").read_text())
    attack = evaluation["attacks"][name]
    # norm and eps are those of training
    assert (attack["attack"]["norm"], attack["attack"]["eps"]) == (cli.model.attack.norm, cli.model.attack.radius)
    assert attack["images"] == 3
    metrics = json.loads((folder / "results.json").read_text())["metrics"]
    logged = {f"test/robust_acc/{part}" for part in (name, "worst_case", *(f"{name}/{s}" for s in attack["stages"]))}
    assert logged <= metrics.keys()
    assert len(list((folder / "images").glob("*.png"))) == 3
    assert [type(callback).__name__ for callback in cli.trainer.callbacks].count("RobustEvaluation") == 1


def test_a_second_run_keeps_the_metrics_of_the_first():
    folder = root("digits_regularized")
    folder.mkdir(parents=True)
    # what two earlier runs left, of which somebody removed the first
    (folder / "metrics_2.csv").write_text("second")
    (folder / "metrics.csv").write_text("third")
    run("fit", "digits_regularized")
    assert len(list(folder.glob("metrics*.csv"))) == 3
    assert [(folder / f"metrics_{i}.csv").read_text() for i in (1, 2)] == ["third", "second"]
    last = (folder / "metrics.csv").read_text()
    run("fit", "digits_regularized")
    assert (folder / "metrics_3.csv").read_text() == last


def test_weights_and_biases_offline_twice_in_the_same_folder(monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for count in (1, 2):
        cli = run("fit", "quickstart", "--config", "logger/wandb")
        # the run has ended with the command
        assert wandb.run is None
        assert len(list(root("").glob("wandb/offline-run-*"))) == count
    assert [type(logger).__name__ for logger in cli.trainer.loggers] == ["RunLogger", "ResumableWandbLogger"]
    # the files stay where they lie without it
    assert (root("quickstart") / "metrics.csv").is_file()
    assert (root("quickstart") / "config.yaml").is_file()
    assert (root("quickstart") / "checkpoints" / "last.ckpt").is_file()


def test_a_second_run_keeps_the_checkpoints_of_the_first_under_another_name():
    folder = root("digits_regularized")
    run("fit", "digits_regularized")
    first = (folder / "checkpoints" / "last.ckpt").read_bytes()
    run("fit", "digits_regularized", "--seed_everything", "1")
    assert (folder / "checkpoints_1" / "last.ckpt").read_bytes() == first
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() != first
    # a run that goes on stays where it is
    last = folder / "checkpoints" / "last.ckpt"
    run("fit", "digits_regularized", "--ckpt_path", str(last), "--trainer.max_epochs", "2")
    assert not (folder / "checkpoints_2").exists()
    assert torch.load(last, weights_only=True)["global_step"] == 4

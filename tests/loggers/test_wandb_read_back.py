"""One run on the command line, stopped, continued and tested, and what W&B wrote of it without a network."""

import json
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_advreg.cli import main

from .reading import read

wandb = pytest.importorskip("wandb")

KEY = "0123456789abcdef0123456789abcdef01234567"
SHORT = [
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
    *("--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"),
    *("--trainer.log_every_n_steps", "1", "--data.init_args.batch_size", "8"),
]
PGD = "{class_path: PGD, init_args: {eps: 0.2, step_size: 0.1, steps: 2}}"
EVALUATION = [
    *("--config", "eval/autoattack_fast", "--trainer.callbacks.masking", "false", "--trainer.callbacks.version"),
    *("standard", "--trainer.callbacks.attacks", f"{{pgd: {PGD}, far: {PGD.replace('0.2', '0.4')}}}"),
    *("--trainer.callbacks.curve_eps", "[0, 0.1, 0.3]"),
]
# what W&B writes by itself: the program, its interpreter and folder, the terminal, and where it holds files to be sent
BY_ITSELF = ("environment", "output", "output_raw", "artifact", "stats")


def closed_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("someone")
    home, work = folder / "home", folder / "home" / "work"
    work.mkdir(parents=True)
    root, last = work / "mine", work / "mine" / "checkpoints" / "last.ckpt"
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        # the process that W&B has started for all of its runs stays
        for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        # there is a key, and no network
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
        patch.setenv("WANDB_SILENT", "true")
        patch.setattr("lightning_advreg.loggers.wandb_logger.rank_zero_info", said.append)

        def run(command, *flags):
            arguments = [command, "--config", "digits_adversarial", "--config", "logger/wandb", *SHORT, *flags]
            main([*arguments, "--trainer.default_root_dir", str(root)])

        pictures = ["--trainer.callbacks+", f"{{class_path: AdversarialExamples, init_args: {{attack: {PGD}}}}}"]
        pictures += ["--trainer.callbacks.every_n_epochs", "1"]
        run("fit", "--trainer.max_epochs", "1", *pictures)
        notes = [json.loads((root / "wandb_run.json").read_text())]
        run("fit", "--trainer.max_epochs", "2", "--ckpt_path", str(last))
        run("test", "--ckpt_path", str(last), *EVALUATION)
        notes.append(json.loads((root / "wandb_run.json").read_text()))
        gan = ["fit", "--config", "digits_gan", "--config", "logger/wandb", *SHORT, "--trainer.max_epochs", "2"]
        gan += ["--trainer.callbacks", "GeneratedSamples", "--trainer.callbacks.num_images", "4"]
        main(gan)
        left = {name: os.environ[name] for name in os.environ if name.startswith("WANDB_")}
        segments = [read(path) for path in sorted(work.glob("runs/wandb/offline-run-*"), key=_order)]
    return SimpleNamespace(
        home=home, work=work, root=root, said=said, notes=notes, left=left, segments=segments, last=last
    )


def _order(folder):
    return (folder / "logs" / "debug.log").stat().st_mtime_ns


def test_a_run_that_goes_on_and_its_test_are_one_run(runs):
    ids = [segment.run.run_id for segment in runs.segments]
    assert len(ids) == 4 and len(set(ids[:3])) == 1 and ids[3] != ids[0]
    assert all(re.fullmatch(r"[0-9a-f]{8}", each) for each in ids)
    assert [segment.run.resume for segment in runs.segments[:3]] == [True] * 3
    expected = {"id": ids[0], "project": "lightning-advreg", "entity": None, "offline": True}
    assert runs.notes == [expected, expected]
    assert [segment.run.display_name for segment in runs.segments] == ["mine"] * 3 + ["digits_gan"]


def test_it_is_said_in_one_line_that_and_why_it_is_offline(runs):
    assert len(runs.said) == 4
    for line, segment in zip(runs.said, runs.segments, strict=True):
        folder = segment.folder.relative_to(runs.work)
        assert line == (
            f"Weights & Biases is offline, since 127.0.0.1 does not answer: `wandb sync {folder}` sends the run later, "
            "without checkpoints, which stay where they are."
        )


def test_the_environment_stays_as_it_was(runs):
    # Lightning's offline=True would leave WANDB_MODE to whatever runs next in the process
    assert runs.left.keys() == {"WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_SILENT", "WANDB_SERVICE"}
    assert wandb.run is None


def test_the_whole_configuration_is_sent_without_paths(runs):
    fitted, continued, tested, _ = runs.segments
    kept = yaml.safe_load((runs.root / "config.yaml").read_text())
    for segment in (fitted, continued):
        assert segment.config["config"].keys() == kept.keys() | {"config"}
        assert segment.config["config"]["config"] == [".../digits_adversarial.yaml", ".../wandb.yaml"]
        assert segment.config["config"]["trainer"]["default_root_dir"] == "mine"
    assert continued.config["config"]["ckpt_path"] == "mine/checkpoints/last.ckpt"
    assert fitted.config["config"]["model"] == json.loads(json.dumps(kept["model"]))
    # hyper-parameters of the module, by which the page filters
    assert fitted.config["attack"]["init_args"]["eps"] == 0.2
    # the test tells of itself, and leaves what the training told
    assert "config" not in tested.config
    assert tested.config["test_config"]["ckpt_path"] == "mine/checkpoints/last.ckpt"


def test_metrics_stand_at_the_batches_of_the_whole_run(runs):
    fitted, continued, tested, gan = runs.segments
    for segment in runs.segments:
        assert segment.axes["*"] == "trainer/global_step"
        assert all("trainer/global_step" in row for row in segment.history)
    assert fitted.steps("train/loss") == [0, 1] and continued.steps("train/loss") == [2, 3]
    assert continued.steps("val/robust_acc/pgd20") == [3]
    # the test is that of the checkpoint after four batches
    assert {row["trainer/global_step"] for row in tested.history} == {4}
    # two optimizers, one batch
    assert gan.steps("train/d_loss") == [0, 1, 2, 3]


def test_pictures_and_films_stand_there_too(runs):
    fitted, _, _, gan = runs.segments
    assert fitted.steps("val/adversarial_examples") == [2]
    assert gan.steps("samples") == [2, 4] and gan.steps("samples_over_time") == [4]
    images = runs.work / "runs" / "digits_gan" / "images"
    (path,) = gan.media("samples")
    # files are numbered by epochs
    with Image.open(path) as sent, Image.open(images / "samples_000002.png") as written:
        assert np.array_equal(np.asarray(sent.convert("RGB")), np.asarray(written.convert("RGB")))
    (path,) = gan.media("samples_over_time")
    assert path.read_bytes() == (images / "samples.gif").read_bytes()


def test_the_evaluation_is_a_table_and_a_chart(runs):
    tested = runs.segments[2]
    report = json.loads((runs.root / "test" / "robust_evaluation.json").read_text())
    rows = tested.table("test/robust_accuracy")
    rates = {"none": report["clean"], "pgd": report["attacks"]["pgd"], "far": report["attacks"]["far"]}
    rates["worst case"] = report["worst_case"]
    assert rows == [
        {"attack": name, "accuracy": rate["accuracy"], "low": rate["interval"][0], "high": rate["interval"][1]}
        | {"images": rate["images"]}
        for name, rate in rates.items()
    ]
    points = tested.table("test/accuracy_over_eps_table")
    assert [(point["eps"], point["accuracy"]) for point in points] == [
        (point["eps"], point["accuracy"]) for point in report["curve"]["points"]
    ]
    assert [point["eps"] for point in points] == pytest.approx([0, 0.1, 0.3])
    drawn = tested.config["_wandb"]["visualize"]["test/accuracy_over_eps"]["panel_config"]
    assert drawn["fieldSettings"]["x"] == "eps" and drawn["fieldSettings"]["y"] == "accuracy"


def test_no_key_anywhere_and_no_path_but_where_wandb_writes_them_itself(runs):
    own = re.compile("|".join(map(re.escape, (str(runs.work), str(runs.home), str(runs.home.parent)))))
    for segment in runs.segments:
        for path in segment.folder.rglob("*"):
            assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
        for kind, record in segment.records:
            assert kind in BY_ITSELF or not own.search(str(record)), record
        for path in (segment.folder / "files" / "media").rglob("*.json"):
            assert not own.search(path.read_text())


def test_checkpoints_are_not_sent_offline(runs):
    sent = [record.artifact for segment in runs.segments for kind, record in segment.records if kind == "artifact"]
    assert {artifact.type for artifact in sent} == {"run_table"}
    assert torch.load(runs.last, weights_only=True)["global_step"] == 4
    assert Path(runs.root, "metrics.csv").is_file()

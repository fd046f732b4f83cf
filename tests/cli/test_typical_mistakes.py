"""Mistakes that people make with ``lightning-advreg fit``: each is answered in under 10 lines of 80 columns."""

import sys
from pathlib import Path

# first, so that its log goes to a stream that outlives each test
import lightning.pytorch  # noqa: F401
import pytest
import torch

from lightning_advreg.__main__ import console
from lightning_advreg.refusals import one_line_errors

QUICKSTART = ["--config", "quickstart"]
ATTACK = "--model.attack.init_args"

MISTAKES = {
    "wrong class": ([*QUICKSTART, "--model.attack", "PGB"], "did you mean PGD?"),
    "missing value": (["--config", "no_network.yaml"], "add it to the init_args of RegularizedClassifier."),
    "flag without value": ([*QUICKSTART, "--trainer.max_epochs"], "--trainer.max_epochs needs a value, and has none"),
    "eps too large": ([*QUICKSTART, f"{ATTACK}.eps", "8"], "eps of PGD is 8, but pixels are in [0, 1] and no Linf"),
    "negative eps": ([*QUICKSTART, f"{ATTACK}.eps", "-1"], "eps must be at least 0, got -1"),
    "no number": ([*QUICKSTART, f"{ATTACK}.eps", "8//255"], "a fraction such as 8/255, got '8//255'"),
    "wrong norm": ([*QUICKSTART, f"{ATTACK}.norm", "l7"], "norm of PGD must be one of 'linf', 'l2', 'l1', got 'l7'."),
    "wrong path": (["--config", "sub/mnie.yaml"], "there is no file sub/mnie.yaml; the folder has mine.yaml, or give"),
    "wrong type": ([*QUICKSTART, f"{ATTACK}.steps", "ten"], "steps of PGD must be of type int, got 'ten'; give"),
    "unknown key": (["--config", "sub/mine.yaml"], "did you mean trainer.max_epochs"),
    "unknown argument": ([*QUICKSTART, f"{ATTACK}.epsilon", "0.1"], "PGD has no argument 'epsilon'; did you mean eps?"),
    "unknown config": (["--config", "mnist_pdg"], "nearest of those that come along: mnist_pgd,"),
    "no flag": (["quickstart"], "a configuration is given by --config quickstart."),
    "missing data folder": (
        ["--config", "mnist_pgd", "--data.init_args.data_dir", "nowhere"],
        "Set data_dir, now 'nowhere', to the folder that contains MNIST/raw, or set download=True",
    ),
    "wrong checkpoint": ([*QUICKSTART, "--ckpt_path", "nowhere.ckpt"], "there is no checkpoint"),
    "no checkpoint": ([*QUICKSTART, "--ckpt_path", "text.ckpt"], "text.ckpt is no checkpoint: it begins with"),
    "batch size 0": ([*QUICKSTART, "--data.init_args.batch_size", "0"], "batch_size must be at least 1, got 0."),
    "nothing": ([], "there is no data, model; give a configuration (--config quickstart)"),
    "wrong accelerator": ([*QUICKSTART, "--trainer.accelerator", "gpuu"], "Available names are: "),
    "wrong precision": ([*QUICKSTART, "--trainer.precision", "15"], "trainer.precision must be one of 64, 32, 16,"),
    "negative epochs": ([*QUICKSTART, "--trainer.max_epochs", "-3"], "`max_epochs` must be a non-negative integer"),
    "not a run": (["--resume", "nowhere"], "name one such as runs/quickstart, or give --config and --ckpt_path."),
}


@pytest.fixture(autouse=True)
def in_a_folder_with_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    Path("sub").mkdir()
    Path("sub", "mine.yaml").write_text("trainer: {max_epoch: 3}\n")
    Path("no_network.yaml").write_text("model: {class_path: RegularizedClassifier}\ndata: DigitsDataModule\n")
    Path("text.ckpt").write_text("hello")


def said_by(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-advreg", "fit", *arguments])
    with pytest.raises(SystemExit) as caught:
        console()
    assert caught.value.code not in (0, None)
    # what the interpreter writes where the status is a sentence
    return capsys.readouterr().err + (caught.value.code if isinstance(caught.value.code, str) else "")


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_answered_in_under_ten_lines(case, monkeypatch, capsys):
    arguments, remedy = MISTAKES[case]
    message = said_by(monkeypatch, capsys, arguments)
    assert remedy in message
    assert "Traceback" not in message and "usage:" not in message
    assert sum(-(-max(len(line), 1) // 80) for line in message.splitlines()) < 10


def test_a_missing_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: False)
    monkeypatch.setattr("lightning.pytorch.accelerators.MPSAccelerator.is_available", lambda: False)
    message = said_by(monkeypatch, capsys, [*QUICKSTART, "--trainer.accelerator", "gpu"])
    assert "set trainer.accelerator to cpu (--trainer.accelerator cpu)" in message


def test_a_wrong_budget_in_a_callback(monkeypatch, capsys):
    attack = "{class_path: RobustAccuracy, init_args: {attacks: {class_path: FGSM, init_args: {eps: 510/255}}}}"
    message = said_by(monkeypatch, capsys, [*QUICKSTART, "--trainer.callbacks", f"[{attack}]"])
    assert "eps of FGSM is 510/255, but pixels are in [0, 1]" in message and "write 2/255?" in message


def test_only_errors_on_purpose_are_shortened(monkeypatch):
    with pytest.raises(RuntimeError, match=r"mat1 and mat2"), one_line_errors():
        torch.nn.Linear(3, 2)(torch.zeros(1, 4))
    # an operation that fails in this library is a bug of this library, and needs its traceback
    scope = {"__name__": "lightning_advreg.attacks.mine"}
    exec("def wrong():\n    return int('x')\n\ndef meant():\n    raise ValueError('x is no number')\n", scope)
    with pytest.raises(ValueError, match=r"invalid literal"), one_line_errors():
        scope["wrong"]()
    line = r"^lightning-advreg: error: x is no number\nJSONARGPARSE_DEBUG=true in front"
    with pytest.raises(SystemExit, match=line), one_line_errors():
        scope["meant"]()
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match=r"x is no number"), one_line_errors():
        scope["meant"]()

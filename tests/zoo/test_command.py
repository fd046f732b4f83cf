"""The command ``zoo``: what it prints, copies and measures, and what it says of wrong arguments."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_advreg.files import load_network
from lightning_advreg.samples import main as samples
from lightning_advreg.zoo import load_model, measuring, model_card, models, weights_path
from lightning_advreg.zoo.command import listing, main


def refused(capsys, *arguments, of=main):
    with pytest.raises(SystemExit) as caught:
        of([*map(str, arguments)])
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_table_has_a_line_for_each_network(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert printed == listing() and max(map(len, lines)) <= 120
    assert [line.split()[0] for line in lines[1 : len(models()) + 1]] == list(models())
    trades = next(line for line in lines if line.startswith("mnist_trades "))
    for key in ("clean", "pgd40", "autoattack"):
        assert f" {100 * model_card('mnist_trades').figures[key].accuracy:.2f} %" in trades
    assert "Attacks are Linf, eps 0.3: mnist_max_norm, mnist_pgd_at, mnist_plain, mnist_trades" in lines


def test_the_table_and_a_card_need_no_torch(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    script = "import sys\nfrom lightning_advreg.zoo.command import main\nmain(sys.argv[1:])\n"
    script += "sys.exit(bool({'torch', 'numpy', 'lightning'} & set(sys.modules)))"
    for arguments in ([], ["mnist_trades"], ["mnist_trades", "--copy", "copy.safetensors"]):
        command = [sys.executable, "-c", script, *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "copy.safetensors").is_file()


def test_a_card_is_shown(capsys):
    assert main(["mnist_trades"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# mnist_trades\n") and model_card("mnist_trades").text in printed
    assert f"Weights: {weights_path('mnist_trades')}, " in printed


def test_weights_are_copied_and_nothing_is_overwritten(tmp_path, capsys):
    path = tmp_path / "mine" / "weights.safetensors"
    assert main(["mnist_pgd_at", "--copy", str(path)]) == 0
    assert f"The weights of mnist_pgd_at are in {path}" in capsys.readouterr().out
    assert path.read_bytes() == weights_path("mnist_pgd_at").read_bytes()
    ours, theirs = load_network(path).state_dict(), load_model("mnist_pgd_at").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert f"{path} exists, and is not overwritten" in refused(capsys, "mnist_pgd_at", "--copy", path)
    assert main(["mnist_pgd_at", "--copy", str(tmp_path)]) == 0
    assert (tmp_path / "mnist_pgd_at.safetensors").is_file()


def test_figures_are_measured_beside_those_of_the_card(capsys, monkeypatch):
    generator = load_model("mnist_dcgan_conditional")
    y = torch.arange(60) % 10
    with torch.no_grad():
        x = generator(torch.randn(60, generator.latent_dim, generator=torch.Generator().manual_seed(3)), y)
    monkeypatch.setattr(measuring, "images_to_test", lambda module, folder, download: (x, y))
    assert main(["mnist_plain", "--evaluate", "--images", "50", "--autoattack", "fast", "--no-progress"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mnist_plain, the first 50 test images, beside its card"
    rate = measuring.clean_rate(load_model("mnist_plain"), x[:50], y[:50])
    (clean,) = (line for line in lines if line.startswith("clean "))
    (same,) = (line for line in lines if line.startswith("clean, the images of AutoAttack "))
    assert f"{100 * model_card('mnist_plain').figures['clean_same'].accuracy:.2f} %" in same
    (autoattack,) = (line for line in lines if line.startswith("AutoAttack, Linf 0.3 (fast: an upper bound) "))
    assert clean.split()[1] == f"{100 * rate.accuracy:.2f}" and autoattack.split()[7] == "0.00"
    assert f"{100 * model_card('mnist_plain').figures['clean'].accuracy:.2f} %" in clean
    # other labels: neither figure meets the card
    monkeypatch.setattr(measuring, "images_to_test", lambda module, folder, download: (x, (y + 1) % 10))
    assert main(["mnist_plain", "--evaluate", "--images", "50", "--no-progress"]) == 0
    printed = capsys.readouterr().out
    assert "AutoAttack, Linf" not in printed and printed.endswith(
        "Intervals do not meet: clean, clean, the images of AutoAttack.\n"
    )


def test_samples_are_measured_in_the_features_of_the_card(capsys, monkeypatch):
    x, y = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    monkeypatch.setattr(measuring, "images_to_test", lambda module, folder, download: (x, y))
    assert main(["mnist_dcgan_conditional", "--evaluate", "--images", "40", "--no-progress"]) == 0
    printed = capsys.readouterr().out
    extractor = model_card("mnist_dcgan_conditional").facts["results"]["extractor"]["name"]
    assert printed.startswith(
        f"mnist_dcgan_conditional, 40 samples and 40 test images in the features of {extractor}\n"
    )
    (recognised,) = (line for line in printed.splitlines() if line.startswith("class_accuracy "))
    assert float(recognised.split()[1]) > 0.8


def test_samples_come_from_the_zoo(tmp_path, capsys):
    path = tmp_path / "made.npz"
    assert samples(["--zoo", "mnist_dcgan_conditional", "--num", "30", "--out", str(path), "--device", "cpu"]) == 0
    assert f"30 labelled images are in {path}" in capsys.readouterr().out
    stored = np.load(path)
    assert stored["label"].tolist() == [i % 10 for i in range(30)] and stored["image"].shape[:3] == (30, 28, 28)
    images = torch.from_numpy(stored["image"]).float().reshape(30, 1, 28, 28) / 255
    with torch.no_grad():
        read = load_model("mnist_plain")(images).argmax(1)
    assert (read == torch.arange(30) % 10).float().mean() > 0.8
    said = refused(capsys, "--zoo", "mnist_plain", "--num", 3, of=samples)
    assert said.endswith("--zoo mnist_plain is a classifier, not a generator; generators are mnist_dcgan_conditional.")
    assert "not allowed with argument" in refused(capsys, "--zoo", "a", "--ckpt_path", "b", "--num", 3, of=samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist_trade"], "there is no network 'mnist_trade' in the zoo; nearest: mnist_trades"),
        (["--evaluate"], "--copy and --evaluate are of one network; give its NAME in front."),
        (["mnist_plain", "--evaluate", "--copy", "a"], "are two commands; give one of them."),
        (["mnist_plain", "--evaluate", "--images", "0"], "--images must be at least 1, got 0."),
        (["mnist_plain", "--evaluate", "--data_dir", "nowhere"], "to the folder that contains MNIST/raw"),
    ],
)
def test_wrong_arguments_end_with_one_line(arguments, message, capsys):
    assert message in refused(capsys, *arguments)

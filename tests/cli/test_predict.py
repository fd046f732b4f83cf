"""`predict`: samples of a GAN, with no callback in the configuration."""

import numpy as np

from lightning_advreg.callbacks import SampleFile

from .runs import QUIET, root, run


def test_predict_leaves_samples_and_a_grid_in_the_run_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("fit", "digits_gan")
    run("predict", "digits_gan", "--ckpt_path", str(root("digits_gan") / "checkpoints" / "last.ckpt"))
    folder = root("digits_gan") / "predict"
    images = np.load(folder / "samples.npz")["image"]
    assert images.shape[1:] == (8, 8, 1) and images.dtype == np.uint8 and len(images) > 100
    assert images[0].std() > 0 and not np.array_equal(images[0], images[1])
    assert (folder / "images" / "predicted_samples_000000.png").is_file()
    assert (folder / "environment.json").is_file()
    assert str(folder) in capsys.readouterr().out


def test_predict_of_a_classifier_writes_predictions_and_no_samples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = run("predict", "digits_regularized", *QUIET)
    (path,) = tmp_path.rglob("predictions.npz")
    stored = np.load(path)
    assert stored["logits"].shape == (len(stored["label"]), 10) and len(stored["label"]) > 100
    assert stored["prediction"].tolist() == stored["logits"].argmax(1).tolist()
    assert str(path.parent.relative_to(tmp_path)) in capsys.readouterr().out
    assert not any(isinstance(callback, SampleFile) for callback in done.trainer.callbacks)
    assert not list(tmp_path.rglob("samples.npz"))

import numpy as np
import pytest
import torch

from lightning_advreg.callbacks import SampleFile

from .foreign import Foreign, loader, trainer


class Painter(Foreign):
    """As many images as the batch has, each of its number; the first three are out of range by rounding."""

    kind = "images"

    def predict_step(self, batch, batch_idx):
        levels = batch_idx * 4 + torch.arange(len(batch[0]))
        images = (levels / 255).view(-1, 1, 1, 1).repeat(1, 1, 8, 8) + 1e-4
        return {"images": images, "pair": (images, levels % 3), "logits": images.flatten(1)}[self.kind]


def written(tmp_path, kind, callback, count=10):
    module = Painter()
    module.kind = kind
    predicting = trainer(tmp_path, callback)
    predicting.predict(module, loader(count), return_predictions=False)
    return np.load(tmp_path / "samples.npz")


def test_all_images_are_in_the_file_in_order_and_the_first_in_a_grid(tmp_path):
    callback = SampleFile(num_shown=4)
    stored = written(tmp_path, "images", callback)
    assert stored.files == ["image"] and stored["image"].shape == (10, 8, 8, 1) and stored["image"].dtype == np.uint8
    assert stored["image"][:, 3, 3, 0].tolist() == list(range(10))
    assert callback.path == tmp_path / "samples.npz"
    assert [path.name for path in tmp_path.rglob("*.png")] == ["predicted_samples_000000.png"]


def test_labels_of_a_conditional_generator_are_in_the_file(tmp_path):
    stored = written(tmp_path, "pair", SampleFile())
    assert stored["label"].tolist() == [number % 3 for number in range(10)]


def test_a_conditional_generator_has_the_labels_of_the_batch(tmp_path):
    module = Painter()
    module.generator = torch.nn.Module()
    module.generator.num_classes = 2
    trainer(tmp_path, SampleFile()).predict(module, loader(10), return_predictions=False)
    expected = torch.cat([y for _, y in loader(10)])
    assert np.load(tmp_path / "samples.npz")["label"].tolist() == expected.tolist()


def test_a_second_run_begins_anew(tmp_path):
    callback = SampleFile()
    written(tmp_path, "images", callback)
    assert written(tmp_path, "images", callback, count=5)["image"].shape[0] == 5


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"predict_step of Painter gives Tensor; leave the callback out"):
        written(tmp_path, "logits", SampleFile())
    with pytest.raises(ValueError, match=r"num_shown must be an integer of at least 1, got 0"):
        SampleFile(num_shown=0)

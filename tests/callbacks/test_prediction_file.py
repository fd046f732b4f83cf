import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_advreg.callbacks import PredictionFile

from .foreign import Foreign, images, loader, trainer


class Classifier(Foreign):
    """A classifier that says what `predict` shall give."""

    given = staticmethod(lambda logits: logits)

    def predict_step(self, batch, batch_idx):
        return self.given(self(batch[0] if isinstance(batch, list) else batch))


def written(tmp_path, module, data):
    callback = PredictionFile()
    trainer(tmp_path, callback).predict(module, data, return_predictions=False)
    assert callback.path == tmp_path / "predictions.npz"
    return dict(np.load(callback.path))


def test_logits_classes_and_labels_of_every_image_in_order(tmp_path):
    module = Classifier()
    stored = written(tmp_path, module, loader(10))
    x, y = images(10)
    with torch.no_grad():
        logits = module.eval()(x).numpy()
    np.testing.assert_allclose(stored["logits"], logits, rtol=1e-5, atol=1e-6)
    assert stored["logits"].dtype == np.float32 and stored["prediction"].dtype == stored["label"].dtype == np.int64
    assert stored["prediction"].tolist() == logits.argmax(1).tolist()
    assert stored["label"].tolist() == y.tolist()


def test_images_without_labels(tmp_path):
    stored = written(tmp_path, Classifier(), DataLoader(images(5)[0], batch_size=2))
    assert sorted(stored) == ["logits", "prediction"] and stored["logits"].shape == (5, 2)


def test_half_precision_is_written_as_float32(tmp_path):
    module = Classifier()
    module.given = lambda logits: logits.bfloat16()
    assert written(tmp_path, module, loader(4))["logits"].dtype == np.float32


def test_a_second_run_begins_anew(tmp_path):
    written(tmp_path, Classifier(), loader(10))
    assert len(written(tmp_path, Classifier(), loader(6))["label"]) == 6


@pytest.mark.parametrize(
    ("given", "said"), [(lambda logits: logits[:, 0], r"gives shape \(4,\)"), (lambda logits: (logits,), "gives tuple")]
)
def test_what_are_no_logits_is_refused(tmp_path, given, said):
    module = Classifier()
    module.given = given
    with pytest.raises(TypeError, match=rf"predict_step of Classifier {said}; leave the callback out"):
        written(tmp_path, module, loader(4))

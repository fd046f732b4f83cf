import pytest

from lightning_advreg.data import DigitsDataModule

from .sources import build_cifar10


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"train_size": 0}, "train_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"val_size": -1}, "val_size must be a count of 0 or more, or a fraction"),
        ({"val_size": 1.0}, r"fraction in \[0, 1\), got 1.0"),
        ({"loader": "fast"}, "loader must be 'standard' or 'resident', got 'fast'"),
        ({"loader": "resident", "num_workers": 2}, "num_workers=2 has no use with loader='resident'"),
    ],
)
def test_arguments_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"val_size": 60}, "val_size=60 takes 60 of the 60 images"),
        ({"val_size": 0.999}, "val_size=0.999 takes 60 of the 60 images"),
        ({"val_size": 0.001}, "val_size=0.001 of 60 images is an empty validation set"),
        ({"train_size": 51}, "train_size=51 is more than the 50 images that val_size=10 leaves"),
    ],
)
def test_empty_splits(tmp_path, monkeypatch, kwargs, message):
    data = build_cifar10(tmp_path, monkeypatch, **{"val_size": 10, **kwargs})
    with pytest.raises(ValueError, match=message):
        data.setup("fit")

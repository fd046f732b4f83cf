"""Bad input of the two classifiers is refused before time is spent."""

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_advreg import AdversarialClassifier, RegularizedClassifier

from .parts import ForeignNet, adversarial, conv, digits, regularized, trainer


class WithoutNumClasses(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def loader(x=None, y=None):
    x = torch.rand(8, 1, 8, 8) if x is None else x
    return DataLoader(WithoutNumClasses(x, torch.arange(8) % 10 if y is None else y), batch_size=4)


BAD = {
    "pixels": ({"x": 255 * torch.rand(8, 1, 8, 8)}, ValueError, r"images must lie in \[0, 1\], got values from .*255"),
    "negative pixels": ({"x": torch.randn(8, 1, 8, 8)}, ValueError, r"images must lie in \[0, 1\].*Normalize"),
    "nan": ({"x": torch.full((8, 1, 8, 8), torch.nan)}, ValueError, r"images must lie in \[0, 1\]"),
    "integers": ({"x": torch.ones(8, 1, 8, 8, dtype=torch.uint8)}, TypeError, "floating point in .*got torch.uint8"),
    "labels": ({"y": torch.arange(8) + 3}, ValueError, r"labels must be in \[0, 10\), for 10 classes, got .* to "),
    "negative labels": ({"y": torch.arange(8) - 1}, ValueError, "got labels from -1 to 2"),
    "one-hot": ({"y": torch.eye(10)[:8]}, TypeError, "labels must be integer class indices, got torch.float32"),
}


@pytest.mark.parametrize("build", [adversarial, regularized])
@pytest.mark.parametrize("case", BAD)
def test_bad_batches_are_refused_in_training_validation_and_test(build, case):
    settings, error, message = BAD[case]
    # the first batch is what is checked
    bad, good = loader(**{k: v.flip(0) if case == "labels" else v for k, v in settings.items()}), loader()
    # shares of classes are what mixup trains on
    if (build, case) != (regularized, "one-hot"):
        with pytest.raises(error, match=message):
            trainer().fit(build(), bad, good)
    with pytest.raises(error, match=message):
        trainer(num_sanity_val_steps=1).fit(build(), good, bad)
    with pytest.raises(error, match=message):
        trainer().test(build(), bad, verbose=False)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (torch.eye(8), r"^labels that are shares of classes must have shape \(N, 10\), .* got \(4, 8\)"),
        (2 * torch.eye(10)[:8], r"^labels that are shares of classes must be at least 0 and sum to 1, got .* 0 to 2"),
        (torch.eye(10)[:8] * 3 - 0.2, r"^labels that are shares of classes must be at least 0 and sum to 1"),
    ],
)
def test_labels_that_are_no_shares_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        trainer().fit(regularized(), loader(y=shares), loader())


@pytest.mark.parametrize("classes", [5, 11])
def test_a_network_with_the_wrong_number_of_classes_is_refused(classes):
    message = rf"outputs of shape \(1, {classes}\), but the data has 10 classes; .*num_classes=10"
    with pytest.raises(ValueError, match=message):
        trainer().fit(RegularizedClassifier(ForeignNet(classes)), datamodule=digits())
    with pytest.raises(ValueError, match=message):
        trainer().test(AdversarialClassifier(conv(num_classes=classes)), datamodule=digits(), verbose=False)


def test_a_network_that_keeps_height_and_width_is_refused():
    with pytest.raises(ValueError, match="but the data has 10 classes"):
        trainer().fit(RegularizedClassifier(torch.nn.Conv2d(1, 10, 3)), datamodule=digits())


@pytest.mark.parametrize(
    ("value", "message"),
    [(1, "less than 1, got 1"), (-0.1, "at least 0, got -0.1"), ("a", "must be a number such as .* got 'a'")],
)
def test_label_smoothing_out_of_range_is_refused(value, message):
    with pytest.raises(ValueError, match=f"label_smoothing must be .*{message}|label_smoothing {message}"):
        RegularizedClassifier(ForeignNet(), label_smoothing=value)


def test_fractions_are_numbers():
    assert RegularizedClassifier(ForeignNet(), label_smoothing="1/4").label_smoothing == 0.25
    assert AdversarialClassifier(ForeignNet(), eps_warmup_epochs="5/2").eps_warmup_epochs == 2.5


@pytest.mark.parametrize("build", [adversarial, regularized])
def test_the_check_of_the_first_batch_leaves_no_trace(build):
    model = build()
    model.network.train()
    model.network.features[1].eval()
    model._trainer = trainer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    state = torch.get_rng_state()
    model.check_batch(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.network.training
    assert not model.network.features[1].training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())

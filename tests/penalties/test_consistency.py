"""The Jensen-Shannon penalty: its value and gradient, its passes, and in training."""

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import FGSM
from lightning_advreg.augmentations import AugMix, InputNoise, MixUp
from lightning_advreg.penalties import JensenShannon, TrainingPass
from lightning_advreg.penalties.consistency import jensen_shannon
from tests.modules import parts


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def slowly(*logits):
    """Eq. 4 of the paper, image by image."""
    p = [z.softmax(1) for z in logits]
    total = 0.0
    for n in range(len(p[0])):
        mean = sum(q[n] for q in p) / len(p)
        total = total + sum((q[n] * (q[n] / mean).log()).sum() for q in p) / len(p)
    return total / len(p[0])


def test_value_and_gradient_are_those_of_the_formula():
    logits = [torch.randn(6, 5, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    value, expected = jensen_shannon(logits), slowly(*logits)
    torch.testing.assert_close(value, expected)
    for a, b in zip(*(torch.autograd.grad(v, logits) for v in (value, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_it_is_zero_for_equal_predictions_and_finite_for_sure_ones():
    z = torch.randn(4, 3)
    assert jensen_shannon([z, z + 1.0, z]).item() == pytest.approx(0, abs=1e-6)
    sure = 1e4 * torch.eye(3).requires_grad_()
    value = jensen_shannon([sure, sure.roll(1, 0), sure.roll(2, 0)])
    assert value.item() == pytest.approx(torch.tensor(3.0).log().item())
    assert torch.autograd.grad(value, sure)[0].isfinite().all()


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return self.layers(x)


def test_views_take_one_pass_that_leaves_running_statistics_alone():
    network, x = Counted(), torch.rand(8, 1, 8, 8)
    logits = network(x)
    statistics = network.layers[2].running_mean.clone()
    (raw,) = JensenShannon(1.0, augmentation=InputNoise(std=0.2)).terms_of(TrainingPass(network, x, logits=logits))
    assert [len(seen) for seen in network.seen] == [8, 16]
    first, second = network.seen[1].chunk(2)
    assert not first.equal(second) and not first.equal(x)
    views = network.layers(network.seen[1])
    torch.testing.assert_close(raw, slowly(logits, *views.chunk(2)))
    assert network.layers[2].num_batches_tracked == 2 and not statistics.equal(network.layers[2].running_mean)


def test_the_gradient_reaches_the_weights_through_all_views():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x = torch.rand(8, 1, 8, 8)
    (grad,) = torch.autograd.grad(JensenShannon(12.0)(network, x), network[1].weight)
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("kind", [RegularizedClassifier, AdversarialClassifier])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_in_training(kind, precision):
    settings = {"attack": FGSM(eps=0.1)} if kind is AdversarialClassifier else {}
    model = kind(
        parts.conv(norm="batch"), penalties=[JensenShannon(12.0, augmentation=AugMix(shared_by=8))], **settings
    )
    run = parts.trainer(limit_train_batches=2, limit_val_batches=0, precision=precision)
    run.fit(model, datamodule=parts.digits())
    raw, weighted = (run.callback_metrics[f"train/penalty/jensenshannon{end}"].item() for end in ("_raw", ""))
    assert raw > 0 and weighted == pytest.approx(12 * raw)
    assert model.hparams["penalties"][0]["init_args"]["augmentation"]["init_args"]["shared_by"] == 8


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^weight must be at least 0, got -1"):
        JensenShannon(-1.0)
    with pytest.raises(ValueError, match=r"^augmentation must leave labels as they are, got MixUp"):
        JensenShannon(1.0, augmentation=MixUp())

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, Alone
from lightning_advreg.callbacks.convergence_measurements import FixedImages, Sight
from lightning_advreg.callbacks.convergence_monitor import ConvergenceMonitor
from lightning_advreg.callbacks.isolation import evaluation
from tests.modules.parts import conv, digits

from .foreign import images, loader, trainer
from .monitored import FREE, QUICK, Plain, names, watch


def test_a_loss_that_is_not_finite_is_caught_and_its_batch_named(tmp_path):
    class Broken(Plain):
        def training_step(self, batch, batch_idx):
            factor = float("nan") if self.global_step >= 6 else 1.0
            return super().training_step(batch, batch_idx) * factor

    monitor = ConvergenceMonitor(eps=0.05, **FREE)
    watch(tmp_path, Broken(), monitor, max_epochs=3)
    (alarm,) = monitor.alarms
    assert (alarm.name, alarm.epoch) == ("non_finite_loss", 1)
    assert "Epoch 1: the loss of batch 2 was infinite or not a number" in alarm.message


def test_a_loss_is_looked_at_within_long_epochs(tmp_path):
    class Broken(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("inf") if batch_idx == 3 else 1.0)

    monitor = ConvergenceMonitor(eps=0.05, action="stop", **FREE)
    run = watch(tmp_path, Broken(), monitor, train=loader(120, batch_size=1), max_epochs=1, limit_val_batches=0)
    assert names(monitor) == ["non_finite_loss"]
    assert run.global_step == 50
    assert "the loss of batch 3 was" in monitor.stop_reason


def test_losses_are_noted_without_a_look_at_the_device(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(
        "lightning_advreg.callbacks.convergence_measurements.LossWatch.first", lambda watch: looked.append(1)
    )
    watch(tmp_path, Plain(), ConvergenceMonitor(eps=0.05, **FREE), train=loader(99, batch_size=1), val=None)
    assert len(looked) == 2  # after 50 batches, and at the end


def test_a_plateau_is_caught_and_not_taken_for_masking(tmp_path):
    torch.manual_seed(0)
    module = AdversarialClassifier(
        conv(), attack=FGSM(eps=0.1), optimizer=partial(torch.optim.SGD, lr=0.0), eps_warmup_epochs=0
    )
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    monitor = ConvergenceMonitor(**FREE)
    trainer(tmp_path, monitor, max_epochs=2, **QUICK).fit(module, datamodule=digits(val_size=100))
    assert names(monitor) == ["start_plateau"]
    assert "(ln 10 = 2.3026)" in monitor.alarms[0].message


CPU = torch.device("cpu")


class Masked(Plain):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if self.how == "zero_gradients":
            # one image of all has no gradient
            return self.network(torch.where((x == self.victim).flatten(1).all(1).view(-1, 1, 1, 1), x.detach(), x))
        if self.how == "no gradients":
            return self.network(x.round().detach())
        if self.how == "random_logits":
            return self.network(x) + 1e-3 * torch.rand(len(x), 2)
        return self.network(x).softmax(1)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.network(batch[0]), batch[1])


@pytest.mark.parametrize("how", ["zero_gradients", "no gradients", "random_logits", "softmax_outputs"])
def test_gradient_masking_is_caught(tmp_path, how):
    module, monitor = Masked(how), ConvergenceMonitor(eps=0.01, **FREE)
    module.victim = images(12, seed=1)[0][5]
    watch(tmp_path, module, monitor, max_epochs=2)
    assert names(monitor) == ["zero_gradients" if how == "no gradients" else how]
    assert "Epoch 0: sign of gradient masking" in monitor.alarms[0].message
    if how == "zero_gradients":
        assert "exactly zero for 1 of 12 images" in monitor.alarms[0].message


def test_images_are_stored_as_bytes_where_that_is_exact():
    for x, dtype in (
        (torch.arange(256.0).view(4, 1, 8, 8) / 255, torch.uint8),
        (torch.rand(4, 1, 8, 8), torch.float32),
    ):
        fixed, again = FixedImages(), FixedImages()
        fixed.x, fixed.y = x, torch.arange(4)
        assert fixed.state_dict()["x"].dtype == dtype
        again.load_state_dict(fixed.state_dict())
        assert torch.equal(again.x, x)
        assert torch.equal(again.y, fixed.y)


def test_several_processes_find_what_one_finds():
    """Each attacks every other image; together they give the answers in the order of the images."""
    module, (x, y) = Plain(), images(11, seed=4)

    attack = FGSM(eps=0.1)
    with evaluation(module, CPU):
        alone = Sight(module, CPU, Alone(), 4)
        expected, clean = alone.outcomes(attack, x, y), alone.clean(x, y)
        said = [[], []]
        for rank in range(2):
            parts = [
                bool(module(attack(module, a, b)).argmax(1) == b) for a, b in zip(x.split(1), y.split(1), strict=True)
            ]
            said[rank] = parts[rank::2]

        class Ranks:
            size = 2

            def __init__(self, rank):
                self.rank = rank

            def gather(self, value):
                assert value == said[self.rank]
                return said

        for rank in range(2):
            assert Sight(module, CPU, Ranks(rank), 3).outcomes(attack, x, y) == expected
    assert 0 < sum(expected) < 11
    assert clean.images == 11
    assert clean.loss == pytest.approx(F.cross_entropy(module(x), y).item())

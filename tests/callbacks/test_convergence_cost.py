import pytest

from lightning_advreg.callbacks import convergence_cost
from lightning_advreg.callbacks.convergence_cost import CostLimit
from lightning_advreg.callbacks.convergence_measurements import Sight
from lightning_advreg.callbacks.convergence_monitor import ConvergenceMonitor

from .foreign import At, loader, trainer
from .monitored import MEASURED, QUICK, Plain


class Clock:
    """The time of a training whose epochs and looks take as long as they are told to."""

    def __init__(self, monkeypatch, epoch, image, start=0.0):
        self.time, self.epoch, self.image, self.start = 0.0, epoch, image, start
        self.looks, self.shares = [], []
        monkeypatch.setattr(convergence_cost, "perf_counter", lambda: self.time)
        monkeypatch.setattr(Sight, "see", self.see())

    def see(self):
        def see(sight, now, val, train, **settings):
            assert len(val[0]) == len(train[0])
            self.looks.append((now.epoch, len(val[0])))
            image = self.image(now.epoch) if callable(self.image) else self.image
            self.time += self.start + image * len(val[0])
            return MEASURED(sight, now, val, train, **settings)

        return see

    def run(self, tmp_path, monitor, epochs):
        def train(trainer, module):
            self.time += self.epoch(trainer.current_epoch) if callable(self.epoch) else self.epoch

        def note(trainer, module):
            self.shares.append(monitor.cost.spent / self.time)

        passing = At("on_train_epoch_start", train), At("on_validation_end", note)
        data = loader(130, batch_size=65), loader(130, batch_size=65, seed=1)
        trainer(tmp_path, monitor, *passing, max_epochs=epochs, **QUICK).fit(Plain(), *data)


@pytest.mark.parametrize(
    ("image", "looks"),
    [
        # 16 images to find out what one costs, and then 128 for 0.0256 s of 0.05 s
        (0.0002, [(0, 16), (0, 128), (1, 128), (2, 128)]),
        # 0.048 s for 128 images and 0.006 s for 16 are too much in the first epoch alone
        (0.000375, [(0, 16), (0, 64), (1, 128), (2, 128)]),
        # 64 images are 0.038 s
        (0.0006, [(0, 16), (0, 64), (1, 64), (2, 64)]),
        (0.0031, [(0, 16), (1, 16), (2, 16)]),
    ],
)
def test_the_share_of_the_time_is_never_exceeded(tmp_path, monkeypatch, image, looks):
    clock, monitor = Clock(monkeypatch, epoch=1.0, image=image), ConvergenceMonitor(eps=0.05, max_samples=128)
    clock.run(tmp_path, monitor, 3)
    assert clock.looks == looks
    assert max(clock.shares) <= 0.05
    assert monitor.cost.spent == pytest.approx(image * sum(count for _, count in looks))


def test_a_look_that_is_cold_at_first_grows_later(tmp_path, monkeypatch):
    """As on a GPU: as much time for 16 images as for 128."""
    clock, monitor = Clock(monkeypatch, 1.0, 1e-9, start=0.02), ConvergenceMonitor(eps=0.05, max_samples=128)
    clock.run(tmp_path, monitor, 5)
    assert clock.looks == [(0, 16), (1, 32), (2, 64), (3, 128), (4, 128)]
    assert max(clock.shares) <= 0.05


def test_epochs_that_do_not_pay_for_the_fewest_images_are_left_out(tmp_path, monkeypatch):
    clock, monitor = Clock(monkeypatch, 1.0, 0.008), ConvergenceMonitor(eps=0.05, max_samples=128)
    clock.run(tmp_path, monitor, 8)
    # 16 images cost 0.128 s, which 2.56 epochs pay for; the first look is taken unpaid
    assert clock.looks == [(0, 16), (3, 16), (6, 16)]


def test_a_debt_makes_looks_smaller_but_not_rarer(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, 1.0, lambda epoch: 0.002 if epoch == 2 else 0.0002)
    clock.run(tmp_path, ConvergenceMonitor(eps=0.05, max_samples=128), 9)
    # epoch 2 costs 0.256 s, as much as 5 epochs allow
    assert clock.looks[:4] == [(0, 16), (0, 128), (1, 128), (2, 128)]
    assert clock.looks[4:8] == [(3, 16), (4, 16), (5, 16), (6, 128)]
    assert clock.looks[8:] == [(7, 128), (8, 128)]
    assert clock.shares[2] > 0.05 > clock.shares[8]


def test_shorter_epochs_make_looks_smaller(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda epoch: 2.0 if epoch == 0 else 0.4, 0.0005)
    clock.run(tmp_path, ConvergenceMonitor(eps=0.05, max_samples=128), 7)
    # what the first epoch left over is used up, and then 32 images for 0.016 of 0.02 s
    assert [count for _, count in clock.looks] == [16, 128, 64, 64, 32, 32, 32, 32]
    assert max(clock.shares) <= 0.05


def test_no_limit_and_few_images_need_no_first_guess(tmp_path, monkeypatch):
    for monitor, count in (
        (ConvergenceMonitor(eps=0.05, max_samples=120, max_cost=1), 120),
        (ConvergenceMonitor(eps=0.05, max_samples=20), 20),
    ):
        clock = Clock(monkeypatch, 1.0, 0.001)
        clock.run(tmp_path, monitor, 2)
        assert clock.looks == [(0, count), (1, count)]


def test_a_look_broken_off_says_nothing_about_the_cost(tmp_path, monkeypatch):
    class Rounded(Plain):
        def forward(self, x):
            return self.network(x.round() if self.training else x.round().detach())

    clock, monitor = Clock(monkeypatch, 1.0, 0.0002), ConvergenceMonitor(eps=0.05, max_samples=128)
    monkeypatch.setattr("tests.callbacks.test_convergence_cost.Plain", Rounded)
    clock.run(tmp_path, monitor, 2)
    assert clock.looks == [(0, 16), (1, 16)]
    assert monitor.cost.images == 0
    assert monitor.cost.spent == pytest.approx(2 * 16 * 0.0002)


def test_the_number_of_images_is_logged(tmp_path):
    monitor, logged = ConvergenceMonitor(eps=0.05, max_samples=32, max_cost=1), []
    note = At("on_train_end", lambda trainer, module: logged.append(trainer.callback_metrics["monitor/images"].item()))
    run = trainer(tmp_path, monitor, note, max_epochs=1, **QUICK)
    run.fit(Plain(), loader(40, batch_size=40), loader(40, batch_size=40, seed=1))
    assert logged == [32]


def test_sizes_are_halves_and_no_fewer_than_16():
    limit = CostLimit(samples=100, share=0.05, images=100, seconds=1.0)
    assert limit.affordable(trained=21.0) == 100
    assert limit.affordable(trained=19.0) == 50
    assert limit.affordable(trained=5.1) == 25
    assert limit.affordable(trained=4.9) == 0

"""A run that is cut off anywhere, and continued, ends with the bits of one that was not."""

import pytest
from lightning.pytorch import Callback, seed_everything

from lightning_advreg.augmentations import InputNoise
from lightning_advreg.callbacks import BatchAugmentation, ExactResume, WeightAverage
from lightning_advreg.penalties import R1

from ..modules.parts import adversarial, digits, gan, regularized, trainer
from ..modules.test_resume import assert_same

EPOCHS = 3


class CutOff(RuntimeError):
    pass


class Cut(Callback):
    """Fail after so many batches, as abruptly as a test can."""

    def __init__(self, batches, *, at="on_train_batch_end"):
        self.left = batches
        setattr(self, at, self._count)

    def _count(self, *args):
        self.left -= 1
        if self.left == 0:
            raise CutOff


def fit(module, folder, data, *, seed=0, callbacks=(), ckpt_path=None, resume=None, **settings):
    seed_everything(seed, verbose=False)
    module = module()
    resume = resume or ExactResume(every_n_train_steps=1, every_n_minutes=None)
    fitting = trainer(
        **{"max_epochs": EPOCHS, "default_root_dir": folder, "callbacks": [*callbacks, resume], **settings}
    )
    fitting.fit(module, **data(), ckpt_path=ckpt_path, weights_only=True)
    return module, fitting


def assert_same_end(first, second):
    (module, fitted), (module_2, fitted_2) = first, second
    assert_same(dict(module.state_dict()), dict(module_2.state_dict()))
    for one, other in zip(fitted.optimizers, fitted_2.optimizers, strict=True):
        assert_same(one.state_dict(), other.state_dict())
    for one, other in zip(fitted.lr_scheduler_configs, fitted_2.lr_scheduler_configs, strict=True):
        assert_same(one.scheduler.state_dict(), other.scheduler.state_dict())
    assert (fitted.global_step, fitted.current_epoch) == (fitted_2.global_step, fitted_2.current_epoch)


def assert_continues(module, folder, data, batches, *, callbacks=lambda: (), at="on_train_batch_end", **settings):
    whole = fit(module, folder / "whole", data, callbacks=callbacks(), **settings)
    with pytest.raises(CutOff):
        fit(module, folder / "part", data, callbacks=[*callbacks(), Cut(batches, at=at)], **settings)
    path = folder / "part" / "resume.ckpt"
    rest = fit(module, folder / "part", data, seed=99, callbacks=callbacks(), ckpt_path=path, **settings)
    assert_same_end(whole, rest)
    return whole, rest


def own_data(**settings):
    return lambda: {"datamodule": digits(**settings)}


def gan_in_the_middle_of_things():
    return gan(accumulate_grad_batches=2, critic_penalties=[R1(1.0, every=3)])


CASES = {
    "adversarial": (adversarial, lambda: [WeightAverage(0.9)]),
    "regularized": (regularized, lambda: [BatchAugmentation([InputNoise(std=0.1)])]),
    "gan": (gan_in_the_middle_of_things, lambda: []),
}


@pytest.mark.parametrize("batches", [4, 6, 7, 8])
@pytest.mark.parametrize("kind", CASES)
def test_a_run_cut_off_anywhere_ends_with_the_same_bits(kind, batches, tmp_path):
    module, callbacks = CASES[kind]
    loader = "resident" if batches % 2 else "standard"
    data = own_data(loader=loader, augment=True)
    assert_continues(module, tmp_path, data, batches, callbacks=callbacks, val_check_interval=3)

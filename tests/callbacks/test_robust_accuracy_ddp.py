import json
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from lightning_advreg.attacks import FGSM
from lightning_advreg.callbacks import RobustAccuracy

from .foreign import Foreign, loader, trainer


class WriteMetrics(Callback):
    def __init__(self, folder):
        self.folder = str(folder)

    def on_validation_end(self, trainer, pl_module):
        robust = {name: value.item() for name, value in trainer.callback_metrics.items() if "robust" in name}
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps(robust))


def callbacks():
    return RobustAccuracy({"all": FGSM(eps=0.03)}), RobustAccuracy({"few": FGSM(eps=0.03)}, max_samples=5)


def in_pair(folder):
    run = trainer(folder, *callbacks(), WriteMetrics(folder), strategy="ddp", devices=2)
    run.validate(Foreign(seed=1), loader(7, batch_size=3), verbose=False)


@pytest.mark.filterwarnings("ignore:.*DistributedSampler.*")
def test_two_processes_count_every_image_once(tmp_path, pair):
    """The sampler repeats image 0 to share 7 images among 2 processes."""
    batches = loader(7, batch_size=3)
    (single,) = trainer(tmp_path, *callbacks()).validate(Foreign(seed=1), batches, verbose=False)
    expected = {name: value for name, value in single.items() if "robust" in name}
    assert 0 < expected["val/robust_acc/all"] < 1
    assert 0 < expected["val/robust_acc/few"] < 1
    for rank in range(2):
        assert json.loads((pair / f"{rank}.json").read_text()) == expected

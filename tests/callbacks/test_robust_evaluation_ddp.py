import pytest
import torch

from lightning_advreg.attacks import PGD, AutoAttack
from lightning_advreg.callbacks import RobustEvaluation

from .foreign import Foreign, loader, trainer


def evaluating():
    attacks = {"aa": AutoAttack(eps=0.05, steps=4, queries=10), "pgd": PGD(eps=0.05, step_size=0.02)}
    return RobustEvaluation(attacks, max_samples=19, batch_size=4, examples=0)


def in_pair(folder):
    run = trainer(folder, evaluating(), strategy="ddp", devices=2)
    run.test(Foreign(seed=1), loader(21, batch_size=3), verbose=False)


@pytest.mark.filterwarnings("ignore:.*DistributedSampler.*", "ignore:the DLR loss divides")
def test_two_processes_write_what_one_writes(tmp_path, pair):
    """The sampler repeats image 0 to share 21 images among 2 processes; attacks share the survivors anew."""
    # as the pair begins
    torch.manual_seed(0)
    batches = loader(21, batch_size=3)
    alone = evaluating()
    trainer(tmp_path / "one", alone).test(Foreign(seed=1), batches, verbose=False)
    assert 0 < alone.reports[0].worst_case.correct < alone.reports[0].clean.correct < 19
    one, two = ((folder / "robust_evaluation.json").read_text() for folder in (tmp_path / "one", pair))
    assert one == two
    assert sorted(path.name for path in (pair / "images").iterdir()) == [
        "test_accuracy_curve_000000.png",
        "test_per_class_000000.png",
    ]
    assert not (pair / "robust_evaluation_progress").exists()

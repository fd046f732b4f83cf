import pytest

from lightning_advreg.attacks import PGD, AutoAttack
from lightning_advreg.callbacks import RobustEvaluation

from .foreign import Foreign, loader, trainer


@pytest.mark.filterwarnings(
    "ignore:.*DistributedSampler.*", "ignore:.*fork.*:DeprecationWarning", "ignore:the DLR loss divides"
)
def test_two_processes_write_what_one_writes(tmp_path):
    """The sampler repeats image 0 to share 21 images among 2 processes; attacks share the survivors anew."""
    batches = loader(21, batch_size=3)

    def evaluating():
        attacks = {"aa": AutoAttack(eps=0.05, steps=4, queries=10), "pgd": PGD(eps=0.05, step_size=0.02)}
        return RobustEvaluation(attacks, max_samples=19, batch_size=4, examples=0)

    alone = evaluating()
    trainer(tmp_path / "one", alone).test(Foreign(seed=1), batches, verbose=False)
    assert 0 < alone.reports[0].worst_case.correct < alone.reports[0].clean.correct < 19
    run = trainer(tmp_path / "two", evaluating(), strategy="ddp_spawn", devices=2)
    run.test(Foreign(seed=1), batches, verbose=False)
    one, two = ((tmp_path / name / "robust_evaluation.json").read_text() for name in ("one", "two"))
    assert one == two
    assert sorted(path.name for path in (tmp_path / "two" / "images").iterdir()) == [
        "test_accuracy_curve_000000.png",
        "test_per_class_000000.png",
    ]
    assert not (tmp_path / "two" / "robust_evaluation_progress").exists()

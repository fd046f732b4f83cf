"""A test that is killed continues, and what it leaves behind is taken for nothing else."""

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_advreg.attacks import PGD

from .evaluating import NAME, PGD3, callback, results, run
from .foreign import Foreign, Probe, loader

pytestmark = [pytest.mark.usefixtures("no_pictures"), pytest.mark.filterwarnings("error:The search runs on")]


class Breaks:
    """An attack that changes nothing, counts its calls over all tests, and breaks off once."""

    def __init__(self, after, error):
        self._after, self._error, self._calls = after, error, 0

    def __call__(self, model, x, y):
        if self._calls == self._after:
            self._after = None
            raise self._error
        self._calls += 1
        return x


@pytest.mark.parametrize("error", [RuntimeError("killed"), KeyboardInterrupt()])
@pytest.mark.parametrize("break_off", [3, 8])
def test_an_interrupted_test_continues(tmp_path, error, break_off):
    data = [loader(20), loader(20, seed=1)]
    settings = {"batch_size": 2, "curve_eps": [0.02]}
    run(tmp_path / "whole", callback({"pgd": PGD3, "breaks": Breaks(None, None)}, **settings), data)
    breaks = Breaks(break_off, error)
    evaluating = callback({"pgd": PGD3, "breaks": breaks}, **settings)
    with pytest.raises((RuntimeError, SystemExit)):
        run(tmp_path / "broken", evaluating, data)
    # in the first of the loaders, or in the second
    finished = int(break_off == 8)
    assert len(list((tmp_path / "broken").glob(f"{NAME}_dataloader_?.json"))) == finished
    assert len(list((tmp_path / "broken" / f"{NAME}_progress").iterdir())) == 1 + finished
    assert breaks._calls == break_off
    # even if the run folder of the next test is another
    run(tmp_path / "broken", evaluating, data, logger=TensorBoardLogger(tmp_path / "broken"))
    again = tmp_path / "broken" / "lightning_logs" / "version_0"
    for index in range(2):
        assert results(again, f"_dataloader_{index}") == results(tmp_path / "whole", f"_dataloader_{index}")
    batches = sum(-(-report.clean.correct // 2) for report in evaluating.reports)
    assert breaks._calls == batches > break_off
    assert not (tmp_path / "broken" / f"{NAME}_progress").exists()


def test_progress_of_another_evaluation_is_no_hindrance(tmp_path):
    attacks = {"pgd": PGD3, "breaks": Breaks(8, RuntimeError("killed"))}
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, callback(attacks, batch_size=2, curve_eps=[0.02]), [loader(20), loader(20, seed=1)])
    left = set((tmp_path / f"{NAME}_progress").iterdir())
    assert len(left) == 2
    for evaluating, module in (
        (callback({**attacks, "pgd": PGD(eps=0.06, step_size=0.03)}, curve_eps=[0.02]), Foreign(seed=1)),
        (callback(attacks, curve_eps=[0.02]), Foreign(seed=2)),
        (callback(attacks, curve_eps=[0.02], seed=1), Foreign(seed=1)),
        (callback(attacks, curve_eps=[0.01]), Foreign(seed=1)),
    ):
        run(tmp_path, evaluating, module=module)
        assert set((tmp_path / f"{NAME}_progress").iterdir()) == left


def test_two_loaders_of_the_same_images(tmp_path):
    probe = Probe()
    evaluating = callback({"probe": probe})
    run(tmp_path, evaluating, [loader(8), loader(8)])
    # the second takes what the first has left
    assert len(probe.sizes) == 1
    assert evaluating.reports[0].as_dict() == evaluating.reports[1].as_dict()
    assert not (tmp_path / f"{NAME}_progress").exists()

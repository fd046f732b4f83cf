"""RobustEvaluation and AdversarialExamples where images come normalised: attacks and pictures are in pixels."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import PGD, Acceleration
from lightning_advreg.attacks.acceleration import search_model
from lightning_advreg.callbacks import AdversarialExamples, evaluation_pictures, pictures, robust_evaluation
from lightning_advreg.callbacks.isolation import Logits
from lightning_advreg.callbacks.pixel_units import PixelUnits
from lightning_advreg.networks import Normalize

from .evaluating import callback, run
from .foreign import Foreign, images, trainer

pytestmark = pytest.mark.filterwarnings("error:The search runs on")

MEAN, STD = (0.4,), (0.3,)
ATTACK = PGD(eps=0.1, step_size=0.05, steps=3, random_start=False)


def normalised(n, dtype=torch.float32):
    x, y = images(n)
    return DataLoader(TensorDataset(((x - 0.4) / 0.3).to(dtype), y), batch_size=16)


class FromPixels(Foreign):
    """The same network, with the normalisation inside."""

    def __init__(self):
        super().__init__()
        self.first = Normalize(MEAN, STD)

    def forward(self, x):
        return self.network(self.first(x))


def pixels(n):
    return DataLoader(TensorDataset(*images(n)), batch_size=16)


def test_the_report_is_that_of_a_network_from_pixels(tmp_path, monkeypatch):
    shown, figure = [], evaluation_pictures.adversarial_examples_figure
    monkeypatch.setattr(
        evaluation_pictures, "adversarial_examples_figure", lambda *args: shown.append(args) or figure(*args)
    )
    settings = {"masking": True, "curve_eps": [0, 0.05, 0.1], "class_names": ["left", "right"]}
    evaluating, inside = (callback(ATTACK, **settings, **units) for units in ({"mean": MEAN, "std": STD}, {}))
    run(tmp_path / "data", evaluating, normalised(64), Foreign())
    run(tmp_path / "inside", inside, pixels(64), FromPixels())
    report = evaluating.reports[0]
    assert report.worst_case == inside.reports[0].worst_case and report.per_class == inside.reports[0].per_class
    assert report.curve.rates == inside.reports[0].curve.rates and report.flags == inside.reports[0].flags
    assert 0 < report.worst_case.accuracy < report.clean.accuracy
    x, _ = images(64)
    assert report.x_adv.min() >= 0 and report.x_adv.max() <= 1
    assert (report.x_adv - x).abs().max() == pytest.approx(0.1, abs=1e-6)
    for one, other in zip(*shown, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_search_runs_on_the_same_copy_through_the_wrapper():
    (x, _), module = images(8), Foreign().eval()
    wrapped = PixelUnits(MEAN, STD, "RobustEvaluation").seen_by(Logits(module), torch.float32).eval()
    plain = search_model(Logits(module).eval(), Acceleration(), (x - 0.4) / 0.3)
    fast = search_model(wrapped, Acceleration(), x)
    assert not fast.exact and fast.acceleration == plain.acceleration
    torch.testing.assert_close(fast(x), module((x - 0.4) / 0.3), atol=1e-5, rtol=1e-5)
    half = search_model(wrapped, Acceleration(search_dtype="bfloat16"), x)
    assert half.acceleration.search_dtype == "bfloat16"


def test_progress_with_other_numbers_is_not_taken_up(tmp_path, monkeypatch):
    seen, evaluate = [], robust_evaluation.evaluate_robustness

    def watched(*args, checkpoint, **kwargs):
        seen.append(checkpoint)
        return evaluate(*args, checkpoint=checkpoint, **kwargs)

    monkeypatch.setattr(robust_evaluation, "evaluate_robustness", watched)
    # the same pixels for the attack, but not for the network
    monkeypatch.setattr(PixelUnits, "clean", lambda self, x: x)
    for mean in (MEAN, MEAN, (0.5,)):
        run(tmp_path, callback(ATTACK, mean=mean, std=STD), pixels(16), Foreign())
    assert seen[0] == seen[1] != seen[2]


def test_low_precision_and_wrong_numbers(tmp_path):
    units = {"mean": MEAN, "std": STD}
    evaluating = callback(ATTACK, acceleration=None, **units)
    run(tmp_path, evaluating, normalised(32, torch.bfloat16), Foreign().bfloat16())
    assert 0 <= evaluating.reports[0].worst_case.accuracy <= 1
    for make in (lambda **given: callback(ATTACK, **given), lambda **given: AdversarialExamples(ATTACK, **given)):
        name = type(make()).__name__
        with pytest.raises(ValueError, match=rf"{name} takes pixels .* first batch go from -0.29.* mean=\(...\), std="):
            run(tmp_path, make(mean=(0.1,), std=STD), normalised(16), Foreign())
        with pytest.raises(ValueError, match=f"mean and std of {name} have 3 values"):
            run(tmp_path, make(mean=(0.5,) * 3, std=(0.5,) * 3), normalised(16), Foreign())
        with pytest.raises(ValueError, match="mean and std must be given together"):
            make(mean=MEAN)


def test_pictures_are_of_pixels(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "adversarial_examples_figure", lambda *args: shown.append(args))
    monkeypatch.setattr(pictures, "log_image", lambda *args, **kwargs: None)
    module, (x, y) = Foreign(), images(16)
    trainer(tmp_path, AdversarialExamples(ATTACK, mean=MEAN, std=STD)).test(module, normalised(16), verbose=False)
    module.eval()
    network = nn.Sequential(Normalize(MEAN, STD), module.network)
    x_adv = ATTACK(network, x[:8], y[:8])
    ((clean, attacked, _, predictions, predictions_adv, _),) = shown
    torch.testing.assert_close(clean, x[:8], atol=1e-6, rtol=0)
    torch.testing.assert_close(attacked, x_adv, atol=1e-6, rtol=0)
    assert torch.equal(predictions, network(x[:8]).argmax(1))
    assert torch.equal(predictions_adv, network(x_adv).argmax(1))

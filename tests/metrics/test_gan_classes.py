"""What a classifier says of generated images: modes, classes asked for, score, paths."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.image.inception import InceptionScore as TheirScore

from lightning_advreg.metrics import ClassAccuracy, Features, InceptionScore, InterpolationSmoothness, ModeCount, slerp


def of_classes(classes, k=4, labels=None):
    logits = torch.eye(k)[torch.tensor(classes)]
    return Features(torch.zeros(len(classes), 1), logits, None if labels is None else torch.tensor(labels))


def plain(metric):
    return {name: value.item() for name, value in metric.figures().items()}


@pytest.mark.parametrize(
    ("classes", "modes", "divergence"),
    [
        ([2] * 8, 1, math.log(4)),
        ([0, 1, 2, 3] * 3, 4, 0),
        ([0, 0, 0, 1], 2, 0.75 * math.log(3) + 0.25 * math.log(1)),
    ],
)
def test_modes_against_uniform(classes, modes, divergence):
    metric = ModeCount()
    metric.update(of_classes(classes), "generated")
    assert plain(metric) == {"modes": modes, "mode_kl": pytest.approx(divergence, abs=1e-12)}


def test_modes_against_the_data():
    metric = ModeCount("real", at_least=2)
    # labels count where there are some, and the classifier's word where there are none
    metric.update(of_classes([3, 3], labels=[0, 1]), "real")
    metric.update(of_classes([1, 1]), "real")
    metric.update(of_classes([0, 1, 1, 1]), "generated")
    assert plain(metric) == {"modes": 1, "mode_kl": pytest.approx(0)}
    metric.update(of_classes([2] * 4), "generated")
    assert plain(metric) == {"modes": 2, "mode_kl": math.inf}


def test_class_accuracy():
    metric = ClassAccuracy()
    metric.update(of_classes([0, 1, 2, 3], labels=[0, 1, 2, 2]), "generated")
    metric.update(of_classes([1], labels=[0]), "generated")
    assert plain(metric) == {"class_accuracy": pytest.approx(0.6)}


def test_score_of_clear_and_even_predictions_is_the_number_of_classes():
    metric = InceptionScore(splits=1)
    metric.update(of_classes([0, 1, 2, 3] * 25)._replace(logits=100 * torch.eye(4).repeat(25, 1)), "generated")
    assert plain(metric) == {"score": pytest.approx(4), "score_std": 0}
    unclear = InceptionScore(splits=2)
    unclear.update(Features(torch.zeros(8, 1), torch.ones(8, 4)), "generated")
    assert plain(unclear) == {"score": pytest.approx(1), "score_std": pytest.approx(0, abs=1e-12)}


def test_score_agrees_with_torchmetrics():
    logits = 3 * torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    theirs = TheirScore(feature=nn.Identity(), splits=1)
    theirs.update(logits)
    metric = InceptionScore(splits=1)
    metric.update(Features(logits, logits), "generated")
    assert plain(metric)["score"] == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_score_shuffles_before_it_splits():
    """Processes that see classes in turn would else have parts of a single class each, with a score of 1."""
    metric = InceptionScore(splits=4)
    metric.update(Features(torch.zeros(400, 1), 100 * torch.eye(4).repeat_interleave(100, 0)), "generated")
    assert plain(metric)["score"] > 3.8


def test_figures_have_their_papers_names_for_the_inception_network_alone():
    metric = InceptionScore(splits=1)
    metric.update(of_classes([0, 1]), "generated")
    assert list(metric.figures()) == ["score", "score_std"]
    assert list(metric.figures(inception=True)) == ["inception_score", "inception_score_std"]


@pytest.mark.parametrize("spherical", [True, False])
def test_path_length_of_a_linear_generator(spherical):
    """Along a line, x = A z moves by |A (z1 - z0)| per unit of t; along a circle, noise keeps its length."""
    generator = torch.Generator().manual_seed(0)
    start, end = (torch.randn(50, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.rand(50, generator=generator)
    metric = InterpolationSmoothness(eps=1e-4, spherical=spherical)
    here, there = metric.path(start, end, t)
    metric.update(Features(2 * here), "generated", Features(2 * there))
    if spherical:
        unit = [x / x.norm(dim=1, keepdim=True) for x in (start, end)]
        here, there = metric.path(*unit, t)
        torch.testing.assert_close(here.norm(dim=1), torch.ones(50, dtype=torch.float64))
        angle = (unit[0] * unit[1]).sum(1).acos()
        torch.testing.assert_close((here * there).sum(1).acos(), 1e-4 * angle, rtol=1e-3, atol=0)
    else:
        expected = 4 * (end - start).square().sum(1).mean().item()
        assert plain(metric)["path_length"] == pytest.approx(expected, rel=1e-5)


def test_slerp_begins_and_ends_where_it_should_and_goes_straight_where_there_is_no_angle():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[-2.0, 0.5]])
    torch.testing.assert_close(slerp(a, b, torch.zeros(1)), a)
    torch.testing.assert_close(slerp(a, b, torch.ones(1)), b)
    torch.testing.assert_close(slerp(a, 3 * a, torch.full((1,), 0.5)), 2 * a)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="against must be 'uniform' or 'real', got 'data'"):
        ModeCount("data")
    with pytest.raises(ValueError, match="at_least must be at least 1, got 0"):
        ModeCount(at_least=0)
    with pytest.raises(ValueError, match="ModeCount takes images of the origins generated, got 'real'"):
        ModeCount().update(of_classes([0]), "real")
    with pytest.raises(ValueError, match="ModeCount needs an extractor that knows classes"):
        ModeCount().update(Features(torch.zeros(2, 2)), "generated")
    with pytest.raises(ValueError, match="needs the classes that images were asked for"):
        ClassAccuracy().update(of_classes([0]), "generated")
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        InceptionScore(splits=0)
    with pytest.raises(ValueError, match="ModeCount has seen no generated images"):
        ModeCount().compute()
    score = InceptionScore(splits=3)
    score.update(of_classes([0, 1]), "generated")
    with pytest.raises(ValueError, match="3 splits need as many images, got 2"):
        score.compute()
    with pytest.raises(ValueError, match="eps must be at least 1e-08, got 0"):
        InterpolationSmoothness(eps=0)
    with pytest.raises(ValueError, match="pairs must be at least 1, got 0"):
        InterpolationSmoothness(pairs=0)
    with pytest.raises(ValueError, match="a step further, as neighbours"):
        InterpolationSmoothness().update(of_classes([0]), "generated")

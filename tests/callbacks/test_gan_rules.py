"""The rules of the GAN monitor on invented courses, and its measurements against loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_advreg.callbacks.gan_measurements import GradientNorms, relative_spread, told_apart
from lightning_advreg.callbacks.gan_rules import (
    GANLook,
    discriminator_overpowering,
    mode_collapse,
    non_finite_gan_loss,
    non_finite_gan_weights,
    vanishing_generator_gradient,
)

GOOD = GANLook(epoch=2, step=80, judged=True, diversity=0.9, apart=0.8, gradient=1.0, d_loss=1.2)
EARLY = [0.5, 1.0, 1.0, 1.0, 30.0]


def course(count=4, **changes):
    return [replace(GOOD, **changes)] * count


def test_a_good_course_is_silent():
    for looks in (course(), course(1), course(diversity=0.3), course(apart=1.0), course(gradient=0.03)):
        assert mode_collapse(looks) is None
        assert discriminator_overpowering(looks, EARLY) is None
        assert vanishing_generator_gradient(looks, EARLY) is None


def test_samples_that_are_alike_in_four_looks_are_a_collapse():
    alarm = mode_collapse(course(diversity=0.1))
    assert (alarm.name, alarm.epoch, alarm.step) == ("mode_collapse", 2, 80)
    assert alarm.message.startswith("Epoch 2: samples are 10 % as far from the nearest other sample as real images")
    assert "lower the generator's learning rate" in alarm.message
    # a collapse that began long ago, and went on after a better look
    assert mode_collapse([GOOD, *course(diversity=0.1)]) is not None


@pytest.mark.parametrize(
    "looks",
    [
        course(3, diversity=0.1),
        [GOOD, *course(3, diversity=0.1)],
        [*course(3, diversity=0.1), GOOD],
        course(diversity=0.25),
        [replace(GOOD, diversity=0.1, judged=False), *course(3, diversity=0.1)],
    ],
)
def test_fewer_looks_and_new_generators_are_none(looks):
    assert mode_collapse(looks) is None


def test_a_discriminator_that_tells_all_apart_and_has_no_loss_has_won():
    alarm = discriminator_overpowering(course(apart=1.0, d_loss=1e-3), EARLY)
    assert alarm.name == "discriminator_overpowering"
    assert "tells 100.0 % of pairs of a real and a generated image apart with a loss of 0.001" in alarm.message
    assert "gradient is 100 % of what it was in the beginning" in alarm.message


def test_it_has_also_won_if_the_gradient_is_gone():
    alarm = discriminator_overpowering(course(apart=0.995, gradient=0.01), EARLY)
    assert "gradient is 1 % of what it was in the beginning: the discriminator is overpowering" in alarm.message
    # one look of four each way will do
    mixed = [*course(2, apart=1.0, gradient=0.01), *course(2, apart=1.0, d_loss=0.0)]
    assert discriminator_overpowering(mixed, EARLY) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"apart": 0.99, "d_loss": 0.0},
        {"apart": 1.0, "d_loss": -40.0},  # a Wasserstein critic
        {"apart": 1.0, "d_loss": 0.06},
        {"apart": 1.0, "d_loss": math.nan},
        {"apart": 1.0, "gradient": math.nan, "d_loss": math.nan},
    ],
)
def test_what_is_no_victory(changes):
    assert discriminator_overpowering(course(**changes), EARLY) is None


def test_a_gradient_of_a_fiftieth_of_the_early_median_has_vanished():
    alarm = vanishing_generator_gradient(course(gradient=0.019), EARLY)
    assert alarm.name == "vanishing_generator_gradient"
    assert "is 1.9 % of what it was in the beginning (less than 2 % in 4 looks), while" in alarm.message
    assert "tells 80 % of pairs apart" in alarm.message
    assert vanishing_generator_gradient(course(gradient=0.021), EARLY) is None
    assert vanishing_generator_gradient(course(gradient=0.0), EARLY[:4]) is None


def test_a_loss_that_is_not_finite_is_named_by_its_batch():
    alarm = non_finite_gan_loss(1, 60, batch=7, seen=10, rank=1)
    assert alarm.name == "non_finite_loss"
    assert "loss of batch 7 of process 1 was infinite or not a number" in alarm.message
    assert "(seen after batch 9, at step 60)" in alarm.message


@pytest.mark.parametrize(
    ("alarm", "remedy"),
    [
        (
            mode_collapse(course(diversity=0.1)),
            "Go back to a checkpoint from before, lower the generator",
        ),
        (
            discriminator_overpowering(course(apart=1.0, d_loss=0.0), EARLY),
            "Lower its learning rate or its width",
        ),
        (
            vanishing_generator_gradient(course(gradient=0.0), EARLY),
            "Use the non-saturating or the hinge loss, widen",
        ),
        (non_finite_gan_loss(1, 60, batch=7, seen=10), "Go back to a checkpoint from before that batch, and"),
        (
            non_finite_gan_weights(1, 60, batch=7),
            "Go back to an earlier checkpoint, and lower the learning",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_each_alarm_says_what_to_do(alarm, remedy):
    assert remedy in alarm.message


def test_the_spread_is_the_mean_distance_to_the_nearest():
    torch.manual_seed(0)
    fake, real = torch.rand(6, 1, 3, 3), torch.rand(6, 1, 3, 3) * 2

    def mean(x, keep):
        near = [[(x[i] - x[j]).norm() for j in range(6) if i != j and keep(i, j)] for i in range(6)]
        return torch.stack([min(distances) for distances in near if distances]).mean()

    every = mean(fake, lambda i, j: True) / mean(real, lambda i, j: True)
    torch.testing.assert_close(relative_spread(fake, real), every)
    y = torch.tensor([0, 0, 1, 1, 1, 2])
    within = mean(fake, lambda i, j: y[i] == y[j]) / mean(real, lambda i, j: y[i] == y[j])
    torch.testing.assert_close(relative_spread(fake, real, y), within)


def test_one_image_for_each_class_is_no_spread_within_classes():
    y = torch.arange(12) % 3
    fake, real = y.view(-1, 1).float(), torch.rand(12, 1)
    assert relative_spread(fake, real, y) == 0
    apart = torch.arange(12.0).view(-1, 1)
    assert relative_spread(apart, real, y) > relative_spread(apart, real) > 1
    # no two images of one class tell nothing
    assert relative_spread(fake[:3], real[:3], y[:3]) == 1


def test_pairs_told_apart_need_no_threshold():
    real, fake = torch.tensor([1.0, 5.0, -3.0]), torch.tensor([-4.0, 1.0])
    expected = sum(float(r > f) + 0.5 * float(r == f) for r in real for f in fake) / 6
    assert told_apart(real, fake).item() == pytest.approx(expected)
    assert told_apart(real + 100, fake + 100).item() == pytest.approx(expected)


def test_norms_are_of_the_whole_gradient_of_every_few_steps():
    layer, norms = nn.Linear(2, 1), GradientNorms(every=2)
    assert norms.median() is None
    for length in (1.0, 50.0, 3.0, 50.0, 2.0):
        layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]) * length, torch.tensor([4.0]) * length
        norms.add(layer)
    other = GradientNorms(every=2)
    other.load_state_dict(norms.state_dict())
    assert norms.median().item() == pytest.approx(10) and norms.median() is None
    assert other.steps == 5 and other.median().item() == pytest.approx(10)

"""Penalties on a discriminator by its images: closed forms of a linear critic, and what each of them looks at."""

import math

import pytest
import torch
from torch import nn

from lightning_advreg.augmentations import CutMix, InputNoise
from lightning_advreg.penalties import (
    DRAGAN,
    L2,
    R1,
    R2,
    Consistency,
    CriticPenalty,
    GradientPenalty,
    LeCam,
    ZeroCenteredGradientPenalty,
)
from lightning_advreg.penalties.critic import CriticPass
from lightning_advreg.penalties.critic_in_training import bind_critic, check_critic, evaluate_critic
from lightning_advreg.penalties.in_training import bind
from lightning_advreg.schedules import Ramp

SHAPE = (2, 3, 3)
GRADIENTS = [GradientPenalty, ZeroCenteredGradientPenalty, DRAGAN, R1, R2]


class Linear(nn.Module):
    """D(x) = w . x + v_y."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(math.prod(SHAPE), dtype=torch.float64))
        self.embedding = nn.Embedding(3, 1, dtype=torch.float64)
        self.seen, self.labels = [], []

    def forward(self, x, y=None):
        self.seen.append(x.detach())
        self.labels.append(y)
        return x.flatten(1) @ self.weight.to(x.dtype) + (0 if y is None else self.embedding(y).squeeze(1))


class Squared(nn.Module):
    """D(x) = ||x||^2 / 2, whose gradient is the image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.scale * x.flatten(1).square().sum(1) / 2


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.rand(5, *SHAPE, dtype=torch.float64), torch.rand(5, *SHAPE, dtype=torch.float64)


CLOSED = {
    GradientPenalty(3.0): lambda w: 3 * (w.norm() - 1) ** 2,
    ZeroCenteredGradientPenalty(3.0): lambda w: 3 * w.square().sum(),
    DRAGAN(3.0): lambda w: 3 * (w.norm() - 1) ** 2,
    R1(3.0): lambda w: 1.5 * w.square().sum(),
    R2(3.0): lambda w: 1.5 * w.square().sum(),
}


@pytest.mark.parametrize("penalty", CLOSED, ids=lambda p: type(p).__name__)
def test_values_and_gradients_of_a_linear_critic_are_known(penalty, batch):
    critic = Linear()
    value = penalty(critic, *batch)
    expected = CLOSED[penalty](critic.weight)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    (found,) = torch.autograd.grad(value, critic.weight)
    torch.testing.assert_close(found, torch.autograd.grad(expected, critic.weight)[0], rtol=1e-8, atol=1e-9)


def test_r1_is_at_real_and_r2_at_generated_images(batch):
    critic = Squared()
    for penalty, images in zip((R1(1.0), R2(1.0)), batch, strict=True):
        torch.testing.assert_close(penalty(critic, *batch), images.flatten(1).square().sum(1).mean() / 2)


def test_each_image_has_a_norm_of_its_own(batch):
    # a norm of the whole batch, or of each channel or row, gives other numbers
    critic = Squared()
    norms = batch[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(GradientPenalty(1.0)(critic, batch[0], batch[0]), ((norms - 1) ** 2).mean())


def test_a_flat_critic_has_finite_gradients(batch):
    critic = Linear()
    nn.init.zeros_(critic.weight)
    for kind in GRADIENTS:
        value = kind()(critic, *batch)
        (grad,) = torch.autograd.grad(value, critic.weight)
        assert value.isfinite()
        assert grad.isfinite().all()


@pytest.mark.parametrize("kind", [GradientPenalty, ZeroCenteredGradientPenalty])
def test_images_are_mixed_by_one_number_each(kind):
    critic, real, fake = Linear(), torch.ones(200, *SHAPE), torch.zeros(200, *SHAPE)
    kind()(critic, real, fake)
    (mixed,) = critic.seen
    flat = mixed.flatten(1)
    assert torch.equal(flat, flat[:, :1].expand_as(flat))
    assert flat[:, 0].unique().numel() > 190
    assert 0 <= flat.min() < 0.1 < 0.9 < flat.max() <= 1


def test_the_noise_of_dragan_is_symmetric_and_follows_the_spread_of_the_pixels():
    critic, real = Linear(), 0.5 + 0.1 * torch.randn(400, *SHAPE)
    DRAGAN(noise="1/2")(critic, real, real)
    DRAGAN(noise=0)(critic, real, real)
    noise = critic.seen[0] - real
    assert abs(float(noise.mean())) < 0.003
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
    assert float(noise.flatten(1).std(1).min()) > 0.01  # not one number for each image
    assert torch.equal(critic.seen[1], real)


@pytest.mark.parametrize("kind", [R1, R2])
def test_lazy_penalties_are_as_strong_on_the_whole(kind, batch):
    critic = Linear()
    plain, lazy = kind(2.0), kind(2.0, every=4)
    values = torch.stack([lazy(critic, *batch, step=step) for step in range(8)])
    assert [bool(v > 0) for v in values] == [True, False, False, False] * 2
    torch.testing.assert_close(values.mean(), plain(critic, *batch))
    assert len(critic.seen) == 3  # what is skipped costs nothing


@pytest.mark.parametrize("which", ["real", "fake"])
def test_the_pass_of_the_step_is_taken_where_it_can_be(which, batch):
    critic = Linear()
    real, fake = (x.clone().requires_grad_() for x in batch)
    logits = {"real_logits": critic(real), "fake_logits": critic(fake)}
    value = (R1 if which == "real" else R2)(2.0).terms(CriticPass(critic, real, fake, **logits))[0]
    assert len(critic.seen) == 2
    torch.testing.assert_close(value, critic.weight.square().sum() / 2)


def test_labels_go_with_the_images(batch):
    critic, y = Linear(), torch.tensor([0, 1, 2, 0, 1])
    for kind in GRADIENTS:
        kind()(critic, *batch, y)
    Consistency(augmentation=torch.clone, balanced=True)(critic, *batch, y)
    LeCam(start_step=0)(critic, *batch, y)
    assert all(torch.equal(labels, y) for labels in critic.labels)


def test_gradient_penalties_are_computed_in_float32_under_autocast(batch):
    critic = nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake = (x.float() for x in batch)
    for kind in (ZeroCenteredGradientPenalty, GradientPenalty, DRAGAN, R1, R2):
        torch.manual_seed(1)
        exact = kind()(critic, real, fake)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            found = kind()(critic, real, fake)
        assert found.dtype == torch.float32
        assert torch.equal(found, exact)


def test_lecam_follows_the_logits(batch):
    torch.manual_seed(0)
    penalty, critic = LeCam(2.0, decay="3/4", start_step=2), Linear()
    averages, found, expected = None, [], []
    for step in range(5):
        real, fake = torch.rand(2, 6, *SHAPE, dtype=torch.float64)
        found.append(penalty(critic, real, fake))
        r, f = critic(real).detach(), critic(fake).detach()
        means = (r.mean(), f.mean())
        averages = means if step == 0 else tuple(0.75 * a + 0.25 * m for a, m in zip(averages, means, strict=True))
        distance = (r - averages[1]).square().mean() + (f - averages[0]).square().mean()
        expected.append(2 * distance * (step >= 2))
    torch.testing.assert_close(torch.stack(found).detach(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    assert int(penalty.seen) == 5
    assert found[-1].requires_grad
    assert not penalty.averages.requires_grad
    again = LeCam(2.0, decay=0.75, start_step=2)
    again.load_state_dict(penalty.state_dict())
    assert torch.equal(again(critic, real, fake), penalty(critic, real, fake))


@pytest.mark.parametrize("balanced", [False, True])
def test_consistency_under_a_known_change(balanced, batch):
    critic = Linear()
    value = Consistency(10.0, augmentation=lambda x: x + 1, balanced=balanced)(critic, *batch)
    torch.testing.assert_close(value, (2 if balanced else 1) * 10 * critic.weight.sum().square())
    assert len(critic.seen) == (4 if balanced else 2)


def test_consistency_differentiates_both_sides_but_not_the_augmentation(batch):
    critic = Linear()
    value = Consistency(1.0, augmentation=lambda x: 3 * x)(critic, *batch)
    (grad,) = torch.autograd.grad(value, critic.weight)
    x = batch[0].flatten(1)
    torch.testing.assert_close(grad, (2 * 4 * (x @ critic.weight.detach())[:, None] * x).mean(0))


def test_augmentations_of_this_library_serve_consistency(batch):
    critic = Linear()
    assert Consistency(1.0, augmentation=InputNoise(std=0.1))(critic, *batch) > 0
    with pytest.raises(ValueError, match=r"augmentation must leave each image by itself, got CutMix.*which mixes"):
        Consistency(1.0, augmentation=CutMix())
    with pytest.raises(TypeError, match=r"augmentation must be a function of images, got 'flip'"):
        Consistency(1.0, augmentation="flip")


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4)])
@pytest.mark.parametrize("kind", GRADIENTS)
def test_batch_norm_and_gradients_of_single_images_do_not_mix(kind, norm):
    nested = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Identity(), norm))
    with pytest.raises(ValueError, match=rf"{kind.__name__} and BatchNorm do not go together.*layer '1\.1' is {type(norm).__name__}.*norm='group'"):  # fmt: skip  # noqa: E501
        bind_critic({"penalty": kind()}, nested)


def test_other_norms_and_penalties_are_fine():
    grouped = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), nn.GroupNorm(2, 4))
    check_critic({"r1": R1()}, grouped)
    check_critic({"lecam": LeCam(), "cr": Consistency(augmentation=torch.clone)}, nn.BatchNorm1d(4))


def test_extra_passes_leave_batch_statistics_alone():
    critic = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(18), nn.Linear(18, 1))
    Consistency(augmentation=torch.clone)(critic, *torch.rand(2, 5, *SHAPE))
    assert torch.equal(critic[1].running_mean, torch.zeros(18))


def test_schedules_skip_what_counts_for_nothing(batch):
    critic = Linear()
    penalties = {"gp": GradientPenalty(Ramp(epochs=2, start_epoch=1)), "mine": lambda d, r, f, y: d(r).mean()}
    seen = CriticPass(critic, *batch)
    assert list(dict(evaluate_critic(penalties, seen, 0.5, 0))) == ["mine"]
    value, raw = dict(evaluate_critic(penalties, seen, 2.0, 0))["gp"]
    torch.testing.assert_close(value, 0.5 * raw)


def test_penalties_in_the_wrong_place_say_where_they_belong():
    with pytest.raises(TypeError, match=r"critic_penalties must be critic penalties.*got L2.*discriminator_penalties"):
        bind_critic({"l2": L2(0.1)}, nn.Linear(2, 1))
    with pytest.raises(TypeError, match=r"R1 is for the discriminator of a GAN.*critic_penalties of GAN"):
        bind({"r1": R1()}, nn.Linear(2, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: R1(-1), "gamma must be at least 0, got -1"),
        (lambda: R1(every=0), "every must be an integer of at least 1, a number of steps, got 0"),
        (lambda: GradientPenalty("x"), "weight must be a number"),
        (lambda: DRAGAN(noise=-0.1), "noise must be at least 0"),
        (lambda: LeCam(decay=1), "decay must be less than 1, got 1"),
        (lambda: LeCam(start_step=-1), "start_step must be an integer of at least 0"),
        (lambda: GradientPenalty()(Linear(), torch.rand(3, *SHAPE), torch.rand(2, *SHAPE)), "for each real one"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_defaults_are_those_of_the_papers():
    weights = [p.weight for p in (GradientPenalty(), DRAGAN(), Consistency(augmentation=torch.clone), LeCam())]
    assert weights == [10.0, 10.0, 10.0, 0.3]
    assert (LeCam().decay, LeCam().start_step) == (0.99, 1000)
    assert (R1().gamma, R2().gamma, R1().every) == (10.0, 10.0, 1)
    # what R1 advises to Adam when it is computed lazily
    advised = ", ".join(f"{0.5 ** (16 / 17):.3f} {0.999 ** (16 / 17):.5f}".split())
    assert f"({advised})" in R1.__doc__


def test_a_critic_penalty_of_ones_own():
    class Drift(CriticPenalty):
        weight = 0.5

        def terms(self, critic_pass):
            return (critic_pass.logits("real").square().mean(),)

    critic, x = Linear(), torch.rand(3, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(Drift()(critic, x, x), 0.5 * critic(x).square().mean())

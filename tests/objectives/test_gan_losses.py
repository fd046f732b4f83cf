import pytest
import torch

from lightning_advreg.objectives import LSGAN, WGAN, Hinge, NonSaturating

LOSSES = [NonSaturating(), Hinge(), LSGAN(), WGAN()]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return 3 * torch.randn(9, dtype=torch.float64), 3 * torch.randn(7, dtype=torch.float64)


def mean(values):
    return sum(values) / len(values)


def test_non_saturating(logits):
    real, fake = logits
    p_real, p_fake = 1 / (1 + (-real).exp()), 1 / (1 + (-fake).exp())
    loss = NonSaturating()
    torch.testing.assert_close(loss.discriminator(real, fake), -p_real.log().mean() - (1 - p_fake).log().mean())
    torch.testing.assert_close(loss.generator(fake), -p_fake.log().mean())


def test_hinge(logits):
    real, fake = logits
    expected = mean([max(0, 1 - r) for r in real.tolist()]) + mean([max(0, 1 + f) for f in fake.tolist()])
    assert Hinge().discriminator(real, fake).item() == pytest.approx(expected)
    # a generator's loss with a hinge would be flat where the critic is fooled well enough
    assert Hinge().generator(torch.tensor([5.0, -3.0])).item() == -1.0


def test_least_squares(logits):
    real, fake = logits
    expected = 0.5 * mean([(r - 1) ** 2 for r in real.tolist()]) + 0.5 * mean([f**2 for f in fake.tolist()])
    assert LSGAN().discriminator(real, fake).item() == pytest.approx(expected)
    assert LSGAN().generator(fake).item() == pytest.approx(0.5 * mean([(f - 1) ** 2 for f in fake.tolist()]))


def test_wasserstein(logits):
    real, fake = logits
    assert WGAN().discriminator(real, fake).item() == pytest.approx(mean(fake.tolist()) - mean(real.tolist()))
    assert WGAN().generator(fake).item() == pytest.approx(-mean(fake.tolist()))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_stay_finite_at_extreme_logits(loss, dtype):
    for value in (1e4, -1e4):
        real = torch.full((4,), value, dtype=dtype, requires_grad=True)
        fake = torch.full((4,), value, dtype=dtype, requires_grad=True)
        total = loss.discriminator(real, fake) + loss.generator(fake)
        total.backward()
        assert total.isfinite() and real.grad.isfinite().all() and fake.grad.isfinite().all()


@every_loss
def test_the_generator_pushes_every_logit_of_a_fake_up(loss):
    fake = torch.linspace(-8, 0.9, 30, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(loss.generator(fake), fake)
    assert (grad < 0).all()


@every_loss
def test_the_discriminator_separates_real_from_fake(loss):
    real = torch.linspace(-3, 0.9, 20, dtype=torch.float64, requires_grad=True)
    fake = torch.linspace(0.1, 3, 25, dtype=torch.float64, requires_grad=True)
    up, down = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (up < 0).all() and (down > 0).all()


def test_the_non_saturating_gradient_does_not_vanish_while_the_discriminator_wins():
    fake = torch.full((1,), -50.0, requires_grad=True)
    (grad,) = torch.autograd.grad(NonSaturating().generator(fake), fake)
    assert grad.item() == pytest.approx(-1)


@every_loss
def test_batches_of_different_size_weigh_the_same(loss, logits):
    real, fake = logits
    torch.testing.assert_close(loss.discriminator(real.repeat(3), fake), loss.discriminator(real, fake))
    torch.testing.assert_close(loss.generator(fake.repeat(3)), loss.generator(fake))

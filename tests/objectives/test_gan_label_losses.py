"""Losses with a smoothed label, the minimax loss, and the one that compares pairs."""

import pytest
import torch
import torch.nn.functional as F

from lightning_advreg.objectives import LSGAN, WGAN, Hinge, NonSaturating, RpGAN, Saturating


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return tuple((3 * torch.randn(9, dtype=torch.float64)).requires_grad_() for _ in range(2))


def test_the_minimax_game_is_zero_sum(logits):
    real, fake = logits
    loss = Saturating()
    expected = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(fake), (1 - fake.sigmoid()).log().mean())
    (of_d,) = torch.autograd.grad(loss.discriminator(real, fake), fake)
    (of_g,) = torch.autograd.grad(loss.generator(fake), fake)
    torch.testing.assert_close(of_g, -of_d)


def test_the_minimax_gradient_vanishes_while_the_discriminator_wins():
    fake = torch.full((1,), -50.0, requires_grad=True)
    (grad,) = torch.autograd.grad(Saturating().generator(fake), fake)
    assert -1e-20 < grad.item() < 0


@pytest.mark.parametrize("kind", [NonSaturating, Saturating])
def test_label_smoothing_is_one_sided(kind, logits):
    real, fake = logits
    smooth, plain = kind(real_label="9/10"), kind()
    on_real = F.binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))
    on_fake = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(smooth.discriminator(real, fake), on_real + on_fake)
    assert torch.equal(smooth.generator(fake), plain.generator(fake))
    # the best logit of a real image is finite: sigmoid(d) = 0.9
    best = torch.full((4,), 0.9, dtype=torch.float64).logit().requires_grad_()
    (grad,) = torch.autograd.grad(smooth.discriminator(best, fake), best)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [NonSaturating, Saturating])
@pytest.mark.parametrize(
    ("label", "message"), [(0.5, "more than 0.5, got 0.5"), (1.1, "at most 1, got 1.1"), ("x", "number such as")]
)
def test_labels_out_of_range_are_refused(kind, label, message):
    with pytest.raises(ValueError, match=f"real_label must be .*{message}"):
        kind(real_label=label)


def test_pairs_are_compared_one_by_one(logits):
    real, fake = logits
    loss = RpGAN()
    torch.testing.assert_close(loss.discriminator(real, fake), -(real - fake).sigmoid().log().mean())
    torch.testing.assert_close(loss.generator(fake, real), -(fake - real).sigmoid().log().mean())
    # a level that both share tells nothing, and neither does the order of the pairs
    torch.testing.assert_close(loss.discriminator(real + 7, fake + 7), loss.discriminator(real, fake))
    assert not torch.isclose(loss.discriminator(real.flip(0), fake), loss.discriminator(real, fake))
    up, down = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    torch.testing.assert_close(up, -down)
    assert (up < 0).all()


@pytest.mark.parametrize(("real", "given"), [(None, "none"), (torch.zeros(3), r"shape \(3,\)")])
def test_pairs_must_be_complete(real, given):
    with pytest.raises(ValueError, match=rf"needs real logits of shape \(4,\), got {given}"):
        RpGAN().generator(torch.zeros(4), real)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss", [Saturating(real_label=0.9), NonSaturating(real_label=0.9), RpGAN()])
def test_losses_and_gradients_stay_finite_at_extreme_logits(loss, dtype):
    for r, f in ((1e4, -1e4), (-1e4, 1e4)):
        real = torch.full((4,), r, dtype=dtype, requires_grad=True)
        fake = torch.full((4,), f, dtype=dtype, requires_grad=True)
        total = loss.discriminator(real, fake) + loss.generator(fake, real)
        total.backward()
        assert total.isfinite() and real.grad.isfinite().all() and fake.grad.isfinite().all()


def test_only_the_relativistic_loss_asks_the_generator_for_real_logits():
    losses = [NonSaturating(), Saturating(), Hinge(), LSGAN(), WGAN(), RpGAN()]
    assert [type(loss) for loss in losses if loss.needs_real] == [RpGAN]

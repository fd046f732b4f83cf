"""Augmentation of what a discriminator sees: each piece against a loop, gradients, and the strength that adapts."""

import pytest
import torch
from torch import nn

from lightning_advreg.augmentations import AdaptiveAugment, DiffAugment
from lightning_advreg.augmentations.diff_augment import recoloured, shifted, with_holes


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_colours_against_a_loop_over_images():
    x = torch.rand(5, 3, 4, 6)
    b, s, c = torch.rand(5) - 0.5, torch.rand(5) * 2, torch.rand(5) + 0.5
    for i, image in enumerate(recoloured(x, b, s, c)):
        expected = x[i] + b[i]
        grey = expected.mean(0)
        expected = torch.stack([grey + s[i] * (channel - grey) for channel in expected])
        expected = expected.mean() + c[i] * (expected - expected.mean())
        torch.testing.assert_close(image, expected)


def test_saturation_takes_colours_away_and_contrast_differences():
    x, zero, one = torch.rand(2, 3, 4, 4), torch.zeros(2), torch.ones(2)
    grey = recoloured(x, zero, zero, one)
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))
    flat = recoloured(x, zero, one, zero)
    torch.testing.assert_close(flat, x.mean((1, 2, 3)).view(2, 1, 1, 1).expand_as(x))
    # of one channel there is nothing to take away
    torch.testing.assert_close(recoloured(x[:, :1], zero, zero, one), x[:, :1])


def test_shifts_against_a_loop_over_images():
    x = torch.rand(9, 2, 5, 7)
    down, right = torch.arange(9) % 5 - 2, torch.arange(9) // 2 - 2
    for i, image in enumerate(shifted(x, down, right, fill=0.25)):
        dy, dx = int(down[i]), int(right[i])
        expected = torch.full((2, 5, 7), 0.25)
        expected[:, max(dy, 0) : 5 + min(dy, 0), max(dx, 0) : 7 + min(dx, 0)] = x[
            i, :, max(-dy, 0) : 5 + min(-dy, 0), max(-dx, 0) : 7 + min(-dx, 0)
        ]
        assert torch.equal(image, expected)


def test_holes_against_a_loop_over_images():
    x = torch.rand(6, 2, 5, 7)
    top, left = torch.tensor([-2, 0, 1, 4, 5, -3]), torch.tensor([-1, 0, 5, 6, 0, 2])
    for i, image in enumerate(with_holes(x, top, left, (3, 4), fill=0.5)):
        expected = x[i].clone()
        expected[:, max(top[i], 0) : max(top[i] + 3, 0), max(left[i], 0) : max(left[i] + 4, 0)] = 0.5
        assert torch.equal(image, expected)


def test_every_image_has_a_shift_of_its_own_up_to_an_eighth():
    x = torch.zeros(2000, 1, 16, 24)
    x[:, :, 8, 12] = 1
    moved = DiffAugment(policy=("translation",), fill=0)(x)
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in range(6, 11) for column in range(9, 16)}


def test_every_image_has_a_hole_of_its_own_of_half_the_size():
    x = torch.ones(3000, 1, 8, 6)
    holes = 1 - DiffAugment(policy=("cutout",), fill=0)(x)[:, 0]
    rows, columns = (holes.amax(dim).sum(1) for dim in (2, 1))
    assert rows.max() == 4 and columns.max() == 3 and torch.equal(holes.sum((1, 2)), rows * columns)
    # each centre is as likely as any other: the number of holes over a pixel is that of centres near it
    assert holes[:, 4, 3].mean().item() == pytest.approx(4 / 8 * 3 / 6, abs=0.04)
    assert holes[:, 0, 0].mean().item() == pytest.approx(3 / 8 * 2 / 6, abs=0.04)


def test_colours_have_the_ranges_of_the_paper():
    grey = torch.full((4000, 1, 2, 2), 0.5)
    change = DiffAugment(policy=("color",))(grey)[:, 0, 0, 0] - 0.5
    assert change.min() >= -0.25 and change.max() <= 0.25 and change.std().item() == pytest.approx(0.5 / 12**0.5, 0.05)
    x = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2).expand(4000, 1, 1, 2)
    factor = DiffAugment(policy=("color",))(x).diff(dim=3).flatten() / 0.5
    assert 0.5 <= factor.min() < 0.51 and 1.49 < factor.max() <= 1.5
    colours = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(4000, 3, 1, 1)
    assert DiffAugment(policy=("color",))(colours)[:, 2].sub(0.5).std() > 0.2


@pytest.mark.parametrize("policy", [("color",), ("translation",), ("cutout",), ("color", "translation", "cutout")])
def test_gradients_of_first_and_second_order(policy):
    augment = DiffAugment(policy=policy)

    def fixed(x):
        torch.manual_seed(3)
        return augment(x) ** 2

    x = torch.rand(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fixed, (x,))
    assert torch.autograd.gradgradcheck(fixed, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_stay_and_nothing_is_written_to(dtype):
    x = torch.rand(6, 3, 8, 8).to(dtype)
    kept = x.clone()
    for augment in (DiffAugment(), AdaptiveAugment()):
        images = augment(x)
        assert (images.shape, images.dtype) == (x.shape, dtype)
        assert torch.equal(x, kept)


def test_the_changes_come_in_the_order_of_the_policy():
    # a hole cut last is untouched by colours
    x = torch.rand(8, 1, 8, 8)
    assert ((DiffAugment(policy=("color", "cutout"))(x) == 0.5).flatten(1).sum(1) >= 4).all()
    assert not (DiffAugment(policy=("cutout", "color"))(x) == 0.5).any()


def test_at_probability_0_nothing_changes_and_at_1_all_do():
    x = torch.rand(50, 3, 8, 8)
    torch.testing.assert_close(DiffAugment()(x, torch.tensor(0.0)), x)
    changed = DiffAugment()(x, torch.tensor(1.0))
    assert ((changed - x).abs().amax((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("policy", ["translation", "cutout"])
def test_the_share_of_changed_images_is_the_probability(policy):
    x = torch.rand(4000, 1, 16, 16)
    changed = (DiffAugment(policy=(policy,))(x, torch.tensor(0.3)) != x).flatten(1).any(1)
    # one shift of 25 moves nothing
    share = 0.3 * (24 / 25 if policy == "translation" else 1)
    assert changed.float().mean().item() == pytest.approx(share, abs=0.025)


def test_the_strength_follows_the_signs_of_real_logits():
    augment = AdaptiveAugment(target=0.6, images_to_full=1000, interval=2)
    sure, unsure = torch.full((50,), 3.0), torch.tensor([5.0, -0.1]).repeat(25)
    for _ in range(3):
        augment.update_(sure)
        augment.update_(sure)
    assert augment.p.item() == pytest.approx(0.3) and augment.r.item() == 1
    augment.update_(unsure)
    assert augment.p.item() == pytest.approx(0.3)
    augment.update_(unsure)
    assert augment.p.item() == pytest.approx(0.2) and augment.r.item() == 0
    # of both batches together: 75 of 100 right is below the target, which one of them alone would not be
    augment.update_(sure)
    augment.update_(unsure)
    assert augment.p.item() == pytest.approx(0.1) and augment.r.item() == pytest.approx(0.5)


def test_the_strength_stays_between_0_and_its_bound():
    augment = AdaptiveAugment(images_to_full=10, interval=1, maximum="1/2")
    augment.update_(-torch.ones(8))
    assert augment.p.item() == 0
    augment.update_(torch.ones(8))
    assert augment.p.item() == 0.5


def test_the_strength_is_what_is_applied():
    augment, x = AdaptiveAugment(images_to_full=100, interval=1), torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(augment(x), x)
    augment.update_(torch.ones(80))
    assert (augment(x) - x).abs().max() > 1e-2


def test_state_between_two_moves_is_in_buffers():
    def of(number):
        torch.manual_seed(number)
        return torch.randn(16) + 0.4

    whole, first, second = (AdaptiveAugment(images_to_full=200, interval=3) for _ in range(3))
    for number in range(8):
        whole.update_(of(number))
        first.update_(of(number)) if number < 4 else None
    second.load_state_dict(first.state_dict())
    for number in range(4, 8):
        second.update_(of(number))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in second.state_dict().items())
    assert isinstance(whole, nn.Module) and whole.init_args == {"images_to_full": 200, "interval": 3}


def test_all_processes_count(monkeypatch):
    augment = AdaptiveAugment(images_to_full=1000, interval=1)
    # another process with as many images, whose signs cancel out
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(torch.tensor([0.0, 50.0])))
    augment.p.fill_(0.5)
    augment.update_(torch.ones(50))
    assert augment.r.item() == 0.5 and augment.p.item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: DiffAugment(policy=("colour",)),
            r"policy must be some of color, translation, cutout.* got \('colour',",
        ),
        (lambda: DiffAugment(policy=()), r"policy must be some of .* for no augmentation leave it out"),
        (lambda: DiffAugment(policy=("cutout", "cutout")), r"each once at most"),
        (lambda: DiffAugment(fill=2), r"fill must be at most 1, got 2"),
        (lambda: DiffAugment()(torch.rand(3, 8, 8)), r"images of shape \(N, C, H, W\), got \(3, 8, 8\)"),
        (lambda: AdaptiveAugment(target=1), r"target must be less than 1"),
        (lambda: AdaptiveAugment(interval=0), r"interval must be an integer of at least 1, got 0"),
        (lambda: AdaptiveAugment(images_to_full=0.5), r"images_to_full must be an integer of at least 1, got 0.5"),
        (lambda: AdaptiveAugment(maximum=0), r"maximum must be above 0, got 0"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()

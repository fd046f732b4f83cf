import math

import pytest
import torch

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.attacks.losses import attack_loss

NONE = torch.empty(0)


def literal_dlr(z, y):
    """Croce & Hein 2020, eq. 6, one image at a time with a sort."""
    s = sorted(z, reverse=True)
    best_other = max(v for j, v in enumerate(z) if j != y)
    return -(z[y] - best_other) / (s[0] - s[2] + 1e-12)


def literal_dlr_targeted(z, y, t):
    s = sorted(z, reverse=True)
    return -(z[y] - z[t]) / (s[0] - (s[2] + s[3]) / 2 + 1e-12)


def literal_ce(z, y):
    top = max(z)
    return -(z[y] - top - math.log(sum(math.exp(v - top) for v in z)))


@pytest.fixture
def logits():
    return 5 * torch.randn(200, 6, dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.randint(6, (200,))


def each(function, *columns):
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return torch.tensor([function(*row) for row in rows], dtype=torch.float64)


def test_cross_entropy(logits, labels):
    expected = each(literal_ce, logits, labels)
    torch.testing.assert_close(attack_loss("ce", False, 6)(logits, labels, NONE), expected)
    torch.testing.assert_close(attack_loss("ce", True, 6)(logits, labels, NONE), -expected)


def test_margin(logits, labels):
    expected = each(lambda z, y: max(v for j, v in enumerate(z) if j != y) - z[y], logits, labels)
    torch.testing.assert_close(attack_loss("margin", False, 6)(logits, labels, NONE), expected)
    torch.testing.assert_close(attack_loss("margin", True, 6)(logits, labels, NONE), -expected)
    assert torch.equal(expected > 0, logits.argmax(1) != labels)


@pytest.mark.parametrize("level", [0.0, -1e30, -5.0])
def test_margin_masks_the_own_class_however_low_the_logits(level):
    # a mask of 0 or -1e4 in place of -inf would win the maximum
    equal = torch.full((1, 4), level)
    assert attack_loss("margin", False, 4)(equal, torch.tensor([2]), NONE).item() == 0
    lower = torch.tensor([[level - 3.0, level, level - 1.0]], dtype=torch.float64)
    expected = lower[0, 2] - lower[0, 1]
    assert attack_loss("margin", False, 3)(lower, torch.tensor([1]), NONE).item() == expected.item()


def test_dlr(logits, labels):
    expected = each(literal_dlr, logits, labels)
    torch.testing.assert_close(attack_loss("dlr", False, 6)(logits, labels, NONE), expected)


def test_targeted_dlr_leaves_the_class_predicted_for_the_clean_image(logits, labels):
    clean = torch.randn(200, 6, dtype=torch.float64)
    expected = each(literal_dlr_targeted, logits, clean.argmax(1), labels)
    elsewhere = clean.argmax(1) != labels
    loss = attack_loss("dlr", True, 6)(logits, labels, clean)
    torch.testing.assert_close(loss[elsewhere], expected[elsewhere])
    # where the clean image is the target's already, the class to stay away from is the runner-up
    runner_up = clean.topk(2).indices[:, 1]
    expected = each(literal_dlr_targeted, logits, runner_up, labels)
    assert (~elsewhere).sum() > 10
    torch.testing.assert_close(loss[~elsewhere], expected[~elsewhere])


@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_does_not_change_with_scale_and_shift(logits, labels, targeted):
    dlr = attack_loss("dlr", targeted, 6)
    clean = logits.flip(0)
    expected = dlr(logits, labels, clean)
    for scale, shift in ((100.0, 0.0), (0.01, 3.0), (1.0, -50.0)):
        torch.testing.assert_close(dlr(scale * logits + shift, labels, scale * clean + shift), expected)


def test_dlr_of_equal_logits_is_zero():
    assert attack_loss("dlr", False, 3)(torch.ones(1, 3), torch.tensor([0]), NONE).item() == 0
    assert attack_loss("dlr", True, 4)(torch.ones(1, 4), torch.tensor([0]), torch.ones(1, 4)).item() == 0


def test_kl_is_from_the_clean_prediction(logits, labels):
    clean = torch.randn(200, 6, dtype=torch.float64)
    loss = attack_loss("kl", False, 6)(logits, labels, clean)
    reference = torch.nn.KLDivLoss(reduction="sum")
    expected = [reference(z.log_softmax(0), c.softmax(0)) for z, c in zip(logits, clean, strict=True)]
    torch.testing.assert_close(loss, torch.stack(expected))
    assert (loss > 0).all()
    torch.testing.assert_close(attack_loss("kl", False, 6)(clean, labels, clean), torch.zeros(200).double())


@pytest.mark.parametrize(
    ("loss", "targeted", "classes", "message"),
    [
        ("ce", False, 1, r"loss 'ce' needs at least 2 classes, the network gives 1; give the network one output per"),
        ("margin", False, 1, r"loss 'margin' needs at least 2 classes, the network gives 1; give the network one"),
        ("dlr", False, 2, r"^loss 'dlr' needs at least 3 classes, the network gives 2; use loss='margin'"),
        ("dlr", True, 3, r"targeted loss 'dlr' needs at least 4 classes, the network gives 3; use loss='margin'"),
    ],
)
def test_too_few_classes(loss, targeted, classes, message):
    def model(x):
        return x.flatten(1)[:, :classes]

    with pytest.raises(ValueError, match=message):
        PGD(loss=loss, targeted=targeted)(model, torch.rand(2, 1, 3, 3), torch.zeros(2, dtype=torch.long))
    assert callable(attack_loss(loss, targeted, classes + 1))


@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_losses_that_do_not_exist_are_refused(attack):
    with pytest.raises(ValueError, match=r"loss must be one of ce, margin, dlr, kl, got 'mse'"):
        attack(loss="mse")
    with pytest.raises(ValueError, match=r"loss 'kl' has no targeted form, since it ignores labels; use loss='ce'"):
        attack(loss="kl", targeted=True, random_start=True)
    with pytest.raises(ValueError, match=r"loss 'kl' has a zero gradient at the clean image; set random_start=True"):
        attack(loss="kl", random_start=False)

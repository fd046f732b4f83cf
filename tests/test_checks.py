import pytest
import torch
from torch import nn

from lightning_advreg.checks import (
    RANGE_TOLERANCE,
    check_batch,
    check_labels,
    check_logits,
    check_statistics,
    check_types,
)


def images(**changes):
    x = torch.linspace(0.1, 0.9, 300).view(4, 3, 5, 5)
    for value in changes.values():
        x[1, 2, 3, 4] = value
    return x


LABELS = torch.tensor([0, 9, 3, 3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_good_batch_passes(dtype):
    x = images(low=0).to(dtype)
    check_batch(x, LABELS, num_classes=10)
    check_batch(x, LABELS.to(torch.uint8))
    check_batch(x)


def test_a_wide_enough_tolerance_for_resized_images_and_no_wider():
    for excess in (0.9, -0.9):
        check_batch(images(pixel=(excess > 0) + excess * RANGE_TOLERANCE))
    for excess in (1.5, -1.5):
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
            check_batch(images(pixel=(excess > 0) + excess * RANGE_TOLERANCE))


@pytest.mark.parametrize(
    ("pixel", "message"),
    [
        (
            255.0,
            r"images must lie in \[0, 1\], got values from 0.[19] to 255; divide by 255 in the data, and move any ",
        ),
        (-2.0, r"got values from -2 to 0.[19]; .* normalisation into the network as its first layer .*Normalize"),
        (float("nan"), r"images must lie in \[0, 1\], got values from nan to nan; NaN and infinite pixels .*isfinite"),
        (float("inf"), r"images must lie in \[0, 1\], got values from 0.[19] to inf"),
    ],
)
def test_pixels_outside_the_box(pixel, message):
    with pytest.raises(ValueError, match=message):
        check_batch(images(pixel=pixel), LABELS, num_classes=10)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (
            [0, 10, 1, 1],
            10,
            r"labels must be in \[0, 10\), for 10 classes, got labels from 0 to 10; renumber the labels",
        ),
        ([-1, 2, 1, 1], 10, r"labels must be in \[0, 10\), for 10 classes, got labels from -1 to 2; .*num_classes"),
        ([-100, 2, 1, 1], None, r"labels must be 0 or more, got labels from -100 to 2"),
    ],
)
def test_labels_out_of_range(labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        check_batch(images(), torch.tensor(labels), num_classes=num_classes)


@pytest.mark.parametrize("check", [check_batch, check_types])
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (
            torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
            None,
            TypeError,
            r"images must be floating point in \[0, 1\], got torch.uint8; convert with `x.float\(\) / 255`",
        ),
        (
            torch.zeros(2, 1, 3, 3).long(),
            None,
            TypeError,
            r"images must be floating point in \[0, 1\], got torch.int64",
        ),
        (torch.zeros(0, 1, 3, 3), None, ValueError, r"at least one image, got shape \(0, 1, 3, 3\)"),
        (torch.zeros(2, 0, 3, 3), None, ValueError, r"at least one image, got shape \(2, 0, 3, 3\)"),
        (torch.zeros(5), None, ValueError, r"images must be a batch \(N, C, H, W\) with at least one image, got shape"),
        (
            torch.zeros(2, 4),
            torch.zeros(2),
            TypeError,
            r"labels must be integer class indices, got torch.float32; convert with `y.long\(\)`",
        ),
        (torch.zeros(2, 4), torch.zeros(2) > 0, TypeError, r"labels must be integer class indices, got torch.bool"),
        (
            torch.zeros(2, 4),
            torch.zeros(3).long(),
            ValueError,
            r"labels must have shape \(2,\), one per image, got \(3,\)",
        ),
        (torch.zeros(2, 4), torch.zeros(2, 4).long(), ValueError, r"labels must have shape \(2,\), .* got \(2, 4\)"),
    ],
)
def test_wrong_types_and_shapes(check, x, y, error, message):
    with pytest.raises(error, match=message):
        check(x, y)


def test_types_are_checked_without_reading_values():
    check_types(torch.rand(2, 3, device="meta"), torch.zeros(2, dtype=torch.long, device="meta"))
    check_types(torch.full((1, 3), 255.0), torch.tensor([-1]))


@pytest.mark.parametrize("shape", [(4, 9), (4,), (4, 10, 1, 1)])
def test_logits_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"outputs of shape \(4.*\), but the split has 10 classes; .* num_classes=10"):
        check_logits(torch.zeros(shape), 10, source="the split")
    check_logits(torch.zeros(4, 10), 10)


def test_labels_alone_are_checked():
    check_labels(LABELS, num_classes=10)
    check_labels(LABELS)
    with pytest.raises(
        ValueError, match=r"labels must be in \[0, 9\), for 9 classes, got labels from 0 to 9; renumber"
    ):
        check_labels(LABELS, num_classes=9)
    with pytest.raises(ValueError, match="labels must be 0 or more, got labels from -1 to 8"):
        check_labels(LABELS - 1)
    for wrong in (LABELS[:0], LABELS[None]):
        with pytest.raises(ValueError, match=r"labels must have shape \(N,\) with at least one label, got \("):
            check_labels(wrong)


def test_one_image_has_no_statistics_for_batch_norm():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    message = (
        r"a batch of 1 image gives BatchNorm no statistics \(BatchNorm2d '1' of the generator\); set batch_size .* 2"
    )
    with pytest.raises(ValueError, match=message):
        check_statistics(network, 1, "generator")
    check_statistics(network, 2)
    # frozen, or of all processes
    check_statistics(nn.SyncBatchNorm.convert_sync_batchnorm(network), 1)
    network[1].eval()
    check_statistics(network, 1)

"""Where Square begins, and which pixels each of its queries changes."""

import pytest
import torch

from lightning_advreg.attacks.square import Square
from lightning_advreg.attacks.square_windows import Grid

from .scored import P, Scored, run, zeros


def windows(model, shape):
    """Tell which pixels a query changed in each image, against the best point before it."""
    best = model.asked[0]
    for asked in model.asked[1:]:
        yield (asked != best).view(-1, *shape), asked, best
        better = model.score(asked) > model.score(best)
        best = torch.where(better.view(-1, *[1] * len(shape)), asked, best)


def test_linf_changes_one_window_of_each_image_by_one_sign_per_channel():
    shape = (3, 12, 12)
    x = torch.full((20, *shape), 0.5)
    model = Scored(torch.randn(shape))
    run(Square(eps=0.1, queries=60, p_init=0.2), model, x, zeros(x))
    for query, (changed, asked, _) in enumerate(windows(model, shape), 1):
        assert changed.flatten(1).any(1).all(), "a query asked what is known"
        side = round((Square(p_init=0.2).share(query - 1) * 144) ** 0.5)
        pixels = changed.any(1)
        tall, wide = pixels.any(2).sum(1), pixels.any(1).sum(1)
        assert tall.max() <= side and wide.max() <= side
        sign = asked > x
        # within the pixels that changed, a channel has one sign
        for image in range(20):
            for channel in range(3):
                assert len(sign[image, channel][changed[image, channel]].unique()) <= 1
    places = {tuple(p.flatten(0).nonzero().squeeze(1).tolist()) for p in pixels}
    assert len(places) > 10, "images share a window"


def test_linf_starts_from_stripes():
    x = torch.full((6, 3, 7, 9), 0.5)
    model = Scored(torch.zeros(3, 7, 9))
    run(Square(eps=0.1, queries=1), model, x, zeros(x))
    (start,) = model.asked
    torch.testing.assert_close((start - x).abs(), torch.full_like(x, 0.1))
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    columns = (start[:, :, 0] > 0.5).float()
    assert columns.mean().item() == pytest.approx(0.5, abs=0.15)
    assert len({tuple(image.flatten().tolist()) for image in columns}) == 6
    assert len({tuple(channel.tolist()) for channel in columns[0]}) == 3


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_l2_and_l1_start_from_a_grid_of_bumps_of_length_eps(norm):
    x = torch.full((4, 2, 10, 15), 0.5)
    model = Scored(torch.zeros(2, 10, 15))
    run(Square(norm=norm, eps=0.5, queries=1), model, x, zeros(x))
    change = model.asked[0] - x
    length = torch.linalg.vector_norm(change.flatten(1), P[norm], dim=1)
    torch.testing.assert_close(length, torch.full((4,), 0.5), rtol=1e-4, atol=0)
    assert not change[..., 14].any()
    tiles = change.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    # in every tile of 2 by 2, two halves of opposite sign, side by side or one below the other
    torch.testing.assert_close(tiles.sum(-1), torch.zeros(4, 2, 5, 7), atol=1e-6, rtol=0)
    assert (tiles.abs().amin(-1) > 0).all()
    beside = tiles[..., 0].sign() == tiles[..., 2].sign()
    assert 0.3 < beside.float().mean() < 0.7
    assert abs(tiles[..., 0].sign().mean()) < 0.3
    assert not torch.equal(change[0], change[1])


def test_l2_moves_budget_into_one_of_two_windows():
    shape = (1, 20, 20)
    x = torch.full((10, *shape), 0.5)
    model = Scored(torch.randn(shape))
    run(Square(norm="l2", eps=0.5, queries=40, p_init=0.0625), model, x, zeros(x))
    for changed, asked, best in windows(model, shape):
        # the second window is set back to the image, so all other changes lie in the first
        spent = (changed & (asked != x)).any(1)
        assert spent.any(2).sum(1).max() <= 5 and spent.any(1).sum(1).max() <= 5
        assert (changed.flatten(1).sum(1) <= 2 * 25).all() and (spent.flatten(1).sum(1) > 0).all()
        norms = ((z - x).flatten(1).norm(dim=1) for z in (asked, best))
        for norm in norms:
            torch.testing.assert_close(norm, torch.full((10,), 0.5), rtol=1e-4, atol=0)


def test_schedule():
    proposed = [0, 9, 10, 49, 50, 199, 200, 499, 500, 999, 1000, 1999, 2000, 3999, 4000, 5999, 6000, 7999, 8000, 20000]
    halved = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
    for queries in (100, 5000):
        assert [Square(queries=queries).share(n) for n in proposed] == [0.8 / 2**k for k in halved]
    assert [Square(queries=1000, rescale=True).share(n) for n in (1, 4, 5, 19, 20, 800)] == [
        0.4, 0.4, 0.2, 0.2, 0.1, 0.8 / 2**9
    ]  # fmt: skip
    assert Square(p_init=0.5).share(10) == 0.25
    assert Square(p_init="1/2") == Square(p_init=0.5)


@pytest.mark.parametrize(
    ("shape", "share", "smallest", "expected"),
    [
        ((1, 28, 28), 0.8, 1, (25, 25)),
        ((3, 32, 32), 0.05, 1, (7, 7)),
        ((3, 32, 32), 1e-4, 1, (1, 1)),
        ((3, 32, 32), 1e-4, 3, (3, 3)),
        ((1, 4, 100), 0.5, 1, (4, 50)),
        ((1, 100, 4), 0.5, 1, (50, 4)),
        ((1, 2, 2), 0.5, 3, (2, 2)),
        ((10,), 0.8, 1, (1, 8)),
        ((2, 10), 0.2, 3, (1, 3)),
    ],
)
def test_windows_cover_their_share(shape, share, smallest, expected):
    assert Grid(torch.Size(shape)).window(share, smallest) == expected


def test_windows_reach_every_pixel_and_no_further():
    grid = Grid(torch.Size((2, 5, 7)))
    corners = grid.corners(2000, 3, 2, torch.device("cpu"))
    places = corners + grid.offsets(3, 2, torch.device("cpu"))
    assert corners.shape == (2000, 1) and places.shape == (2000, 12)
    assert sorted(places.unique().tolist()) == list(range(70))
    rows, columns = places % 35 // 7, places % 7
    assert (rows.amax(1) - rows.amin(1) == 2).all() and (columns.amax(1) - columns.amin(1) == 1).all()
    assert len(corners.unique()) == 3 * 6

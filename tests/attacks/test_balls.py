import pytest
import torch

from lightning_advreg.attacks import ball

NORMS = {"linf": torch.inf, "l2": 2, "l1": 1}
DTYPES = [torch.float32, torch.float64]


def distance(norm, a, b):
    return torch.linalg.vector_norm((a.double() - b.double()).flatten(1), NORMS[norm], dim=1)


def random_case(dtype=torch.float64, spread=None):
    """60 centres, some at the box, each with its own radius (some 0), and points near, inside and far away."""
    x = (1.4 * torch.rand(60, 2, 3, 2, dtype=dtype) - 0.2).clamp(0, 1)
    eps = torch.rand(60, dtype=dtype) * torch.tensor([0.0, 0.01, 0.3, 1.0, 4.0], dtype=dtype).repeat(12)
    spread = torch.tensor([0.01, 0.3, 1.0, 10.0], dtype=dtype).repeat(15).view(-1, 1, 1, 1)
    return x, eps, x + spread * torch.randn_like(x)


def feasible_points(norm, x, eps, count=40):
    corner = torch.rand(count, *x.shape, dtype=x.dtype).round() if norm == "linf" else torch.rand(count, *x.shape)
    for q in corner.to(x):
        scale = (eps / distance(norm, q, x).clamp(min=1e-12)).clamp(max=1).view(-1, 1, 1, 1)
        yield x + scale * (q - x)


def l1_projection_by_bisection(x, eps, point):
    """Soft-threshold and clip, with the threshold found by halving an interval 200 times."""
    delta = (point - x).flatten(1)
    room = torch.where(delta > 0, 1 - x.flatten(1), x.flatten(1))

    def change(t):
        return torch.minimum((delta.abs() - t).clamp(min=0), room)

    low, high = torch.zeros_like(eps).unsqueeze(1), delta.abs().amax(1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        over = change(middle).sum(1, keepdim=True) > eps.unsqueeze(1)
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    threshold = torch.where(change(torch.zeros_like(low)).sum(1, keepdim=True) <= eps.unsqueeze(1), 0.0, high)
    return x + (delta.sign() * change(threshold)).view_as(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_feasible_and_idempotent(norm, dtype):
    for _ in range(10):
        x, eps, point = random_case(dtype)
        projected = ball(norm, x, eps).project(point)
        assert projected.dtype == dtype and projected.shape == x.shape
        assert projected.min() >= 0 and projected.max() <= 1
        assert (distance(norm, projected, x) <= eps + 1e-6).all()
        torch.testing.assert_close(ball(norm, x, eps).project(projected), projected, atol=1e-6, rtol=0)
        assert torch.equal(projected[eps == 0], x[eps == 0])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("scale", [0.006, 0.01, 0.1, 10.0])
def test_rounding_of_many_pixels_does_not_add_up(norm, scale):
    # thousands of pixels change by the same threshold, and would all be rounded the same way
    x = torch.rand(64, 3, 32, 32)
    projected = ball(norm, x, 12.0).project(x + scale * torch.randn_like(x))
    assert (distance(norm, projected, x) <= 12 * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_feasible_points_stay(norm):
    x, eps, _ = random_case()
    for q in feasible_points(norm, x, eps * (1 - 1e-9), count=10):
        torch.testing.assert_close(ball(norm, x, eps).project(q), q, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_projection_is_the_nearest_feasible_point(norm):
    for _ in range(5):
        x, eps, point = random_case()
        nearest = ball(norm, x, eps).project(point)
        for q in feasible_points(norm, x, eps):
            # p is the projection onto a convex set if and only if <z - p, q - p> <= 0 for all q in it
            assert (((point - nearest) * (q - nearest)).flatten(1).sum(1) <= 1e-9).all()


def test_l1_projection_equals_bisection():
    binding = 0
    for _ in range(50):
        x, eps, point = random_case()
        projected = ball("l1", x, eps).project(point)
        torch.testing.assert_close(projected, l1_projection_by_bisection(x, eps, point), atol=1e-9, rtol=0)
        box = (projected == 0) | (projected == 1)
        on_ball = (distance("l1", projected, x) - eps).abs() < 1e-9
        binding += int((box.flatten(1).any(1) & on_ball & (eps > 0)).sum())
    assert binding > 300  # ball and box bind together in many of the cases


def test_l1_projection_where_every_pixel_ties():
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    projected = ball("l1", x, 1.0).project(torch.tensor([[3.0, -1.0, 3.0, -1.0]], dtype=torch.float64))
    torch.testing.assert_close(projected, torch.tensor([[1.0, 0.5, 1.0, 0.5]], dtype=torch.float64))
    projected = ball("l1", x, 1.0).project(torch.tensor([[0.9, 0.9, 0.1, 0.1]], dtype=torch.float64))
    torch.testing.assert_close(projected, torch.tensor([[0.75, 0.75, 0.25, 0.25]], dtype=torch.float64))


def test_l2_projection_scales_the_change_onto_the_sphere():
    x = torch.full((3, 2), 0.5)
    projected = ball("l2", x, 0.1).project(x + torch.tensor([[3.0, 4.0], [-0.3, 0.4], [0.03, 0.04]]))
    change = torch.tensor([[0.06, 0.08], [-0.06, 0.08], [0.03, 0.04]])
    torch.testing.assert_close(projected, x + change, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_feasible(norm, dtype):
    x, eps, _ = random_case(dtype)
    start = ball(norm, x, eps).random_start()
    assert start.dtype == dtype and start.min() >= 0 and start.max() <= 1
    assert (distance(norm, start, x) <= eps + 1e-6).all()
    assert torch.equal(start[eps == 0], x[eps == 0])
    assert (distance(norm, start, x)[eps > 0] > 0).all()


def test_linf_random_start_is_uniform():
    x, eps = torch.full((50, 400), 0.5), torch.linspace(0.02, 0.4, 50)
    delta = (ball("linf", x, eps).random_start() - x) / eps.unsqueeze(1)
    assert abs(delta.mean().item()) < 0.01
    assert delta.abs().mean().item() == pytest.approx(0.5, abs=0.01)
    assert delta.square().mean().item() == pytest.approx(1 / 3, abs=0.01)
    assert (delta.abs().amax(1) > 0.95).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_random_start_has_a_uniform_radius_and_a_centred_direction(norm):
    x, eps = torch.full((2000, 30), 0.5), 0.4
    start = ball(norm, x, eps).random_start()
    radius = distance(norm, start, x) / eps
    assert radius.max() <= 1 + 1e-5
    quartiles = torch.quantile(radius, torch.tensor([0.25, 0.5, 0.75], dtype=radius.dtype))
    torch.testing.assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75], dtype=radius.dtype), atol=0.05, rtol=0)
    assert (start - x).mean(0).abs().max() < 0.01


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("magnitude", [1e-30, 1.0, 1e30])
def test_steepest_step_has_unit_norm_at_any_gradient_scale(norm, magnitude):
    x = torch.full((4, 3, 6, 6), 0.5)
    grad = magnitude * torch.randn_like(x)
    step = ball(norm, x, 0.1).steepest(grad, x)
    torch.testing.assert_close(distance(norm, step, torch.zeros_like(step)), torch.ones(4).double(), atol=1e-5, rtol=0)
    # no other unit step does better; for L1, 108 pixels make 1 % a single one
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    gain, best = (step * (grad / magnitude)).flatten(1).sum(1), (grad / magnitude).flatten(1).norm(p=dual, dim=1)
    torch.testing.assert_close(gain, best, rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_no_step(norm):
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(ball(norm, x, 0.1).steepest(torch.zeros_like(x), x), torch.zeros_like(x))


def test_l1_step_takes_one_per_cent_of_the_pixels_that_can_move():
    x = torch.full((2, 400), 0.5)
    grad = torch.linspace(1, 2, 400).repeat(2, 1) * torch.tensor([[1.0], [-1.0]])
    x[0, -2:] = 1.0  # the steepest two of image 0 are full
    x[1, -1] = 0.0  # and the steepest of image 1 is empty
    step = ball("l1", x, 1.0).steepest(grad, x)
    assert step[0].nonzero().flatten().tolist() == [394, 395, 396, 397]
    assert step[1].nonzero().flatten().tolist() == [395, 396, 397, 398]
    torch.testing.assert_close(step[:, 396], torch.tensor([0.25, -0.25]))


@pytest.mark.parametrize("norm", NORMS)
def test_distance_is_the_norm_of_the_change(norm):
    x, _, point = random_case()
    torch.testing.assert_close(ball(norm, x, 0.1).distance(point), distance(norm, point, x))


def test_radius_must_be_one_number_or_one_per_image():
    with pytest.raises(ValueError, match=r"eps must be one number or one per image, shape \(4,\), got \(3,\)"):
        ball("linf", torch.rand(4, 1, 2, 2), torch.rand(3))
    one = ball("l2", torch.rand(4, 1, 2, 2), torch.tensor(0.1))
    assert one.eps.shape == (4, 1, 1, 1)

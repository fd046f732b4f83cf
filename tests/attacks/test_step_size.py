"""The step sizes of APGD: when they shrink, and where an image goes then."""

import pytest
import torch

from lightning_advreg.attacks.apgd_l1 import SparseAscent
from lightning_advreg.attacks.step_size import MomentumAscent, checkpoints
from lightning_advreg.attacks.threat import ball


def test_checkpoints_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1000) == [220, 410, 570, 700, 800, 870, 930, 990]
    assert checkpoints(50) == [11, 21, 29, 35, 40, 44, 47, 50]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


def test_checkpoints_in_l1_come_every_4_percent():
    assert SparseAscent.checkpoints(100) == list(range(4, 101, 4))
    assert SparseAscent.checkpoints(30)[:3] == [1, 2, 3]


def ascent(losses, window, rho=0.75, halved=True):
    """Feed losses for three images in turn, then look back once."""
    n = len(losses[0])
    feasible = ball("linf", torch.full((n, 1), 0.5), 0.1)
    found = [torch.full((n, 1), 0.5 + i / 100) for i in range(len(losses))]
    state = MomentumAscent(feasible, found[0], torch.tensor(losses[0]), torch.full((n, 1), 0.0), rho)
    state.halved = torch.full((n,), halved)
    for i, loss in enumerate(losses[1:], 1):
        state.observe(found[i], torch.tensor(loss), torch.full((n, 1), float(i)))
    state.adapt(feasible, window)
    return state


def test_step_size_is_halved_where_too_few_steps_increase_the_loss():
    # four steps: image 0 rises in 3 (not fewer than 75 %), image 1 in 2, image 2 in all
    state = ascent([[0.0, 0.0, 0.0], [1, 3, 1], [2, 1, 2], [1, 2, 3], [3, 1, 4]], window=4)
    assert state.step_size.flatten().tolist() == pytest.approx([0.2, 0.1, 0.2])
    # image 1 is back at its best point with the gradient there, the others stay
    assert state.x_adv.flatten().tolist() == pytest.approx([0.54, 0.51, 0.54])
    assert state.grad.flatten().tolist() == [4.0, 1.0, 4.0]
    assert state.halved.tolist() == [False, True, False]
    assert state.best_loss.tolist() == [3, 3, 4]


def test_step_size_is_halved_where_nothing_changed_since_the_last_checkpoint():
    # both rise in 3 of 4 steps; image 0 from a low to below its best, image 1 to a new best
    losses = [[9.0, 5.0], [1, 1], [2, 2], [3, 3], [4, 6]]
    assert ascent(losses, window=4, halved=False).step_size.flatten().tolist() == pytest.approx([0.1, 0.2])
    # nothing to compare with where the step size has just changed
    assert ascent(losses, window=4, halved=True).step_size.flatten().tolist() == pytest.approx([0.2, 0.2])


def test_the_windows_are_counted_anew():
    state = ascent([[0.0], [1], [2], [3], [4]], window=4)
    feasible = ball("linf", torch.full((1, 1), 0.5), 0.1)
    # one increase in three, though to a new best
    for x_adv, loss in ((0.4, 5.0), (0.41, 3.0), (0.42, 2.0)):
        state.observe(torch.full((1, 1), x_adv), torch.tensor([loss]), torch.zeros(1, 1))
    state.adapt(feasible, 3)
    assert state.step_size.item() == pytest.approx(0.1) and state.x_adv.item() == pytest.approx(0.4)


def test_first_step_has_no_momentum_and_later_ones_do():
    feasible = ball("l2", torch.full((1, 2), 0.5), 0.1)
    state = MomentumAscent(feasible, feasible.x, torch.zeros(1), torch.tensor([[1.0, 0.0]]), 0.75)
    first = state.advance(feasible)
    torch.testing.assert_close(first, torch.tensor([[0.6, 0.5]]))  # 2 eps, projected
    state.observe(first, torch.ones(1), torch.tensor([[0.0, 1.0]]))
    z = 0.5 + 0.1 * torch.tensor([[0.1, 0.2]]) / (0.1**2 + 0.2**2) ** 0.5
    expected = first + 0.75 * (z - first) + 0.25 * (first - feasible.x)
    torch.testing.assert_close(state.advance(feasible), feasible.project(expected))


def test_what_is_best_is_not_changed_by_later_steps():
    state = ascent([[1.0], [5], [2], [3]], window=3)
    best = state.best.clone()
    for tensor in (state.x_adv, state.loss, state.grad):
        tensor.data = tensor.data + 7
    assert torch.equal(state.best, best) and state.best_loss.item() == 5


def test_sparsity_and_step_size_in_l1():
    x = torch.full((2, 30), 0.5)
    feasible = ball("l1", x, 3.0)
    grad = torch.arange(1.0, 31).expand(2, 30)
    state = SparseAscent(feasible, x, torch.zeros(2), grad, fresh=True)
    # a fifth of the pixels, those with the largest gradients, share the step
    first = state.advance(feasible)
    assert (first != x).sum(1).tolist() == [6, 6] and (first[:, 24:] > x[:, 24:]).all()
    torch.testing.assert_close((first - x).sum(1), torch.full((2,), 3.0))
    # image 0 has changed 6 pixels of 30 at its best, which is sparser; image 1 all of them, which is not
    second = torch.stack([first[0], x[1] + 0.01])
    state.observe(second, torch.ones(2), grad)
    state.observe(x, torch.zeros(2), grad)
    state.adapt(feasible, 1)
    assert state.step_size.flatten().tolist() == pytest.approx([3.0, 2.0])
    assert state.count.tolist() == [4, 20]
    torch.testing.assert_close(state.x_adv, torch.stack([first[0], x[1]]))
    for _ in range(9):
        state.adapt(feasible, 1)
    assert state.step_size.flatten().tolist() == pytest.approx([0.3, 0.3])

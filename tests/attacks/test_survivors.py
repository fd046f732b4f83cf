"""Images leave a batch once they fall, and what was found for them stays."""

import pytest
import torch

from lightning_advreg.attacks import survivors as module
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.survivors import Survivors, keep_rows
from lightning_advreg.attacks.threat import ball


class Doubting:
    """A fast copy whose successes stand on the original only where the first pixel is below a half."""

    exact = False

    def __init__(self):
        self.reported, self.confirmed = [], 0
        self.watch = self.reported.append

    def __call__(self, x):
        return torch.stack([torch.zeros(len(x)), torch.ones(len(x))], 1)

    def confirm(self, x):
        self.confirmed += len(x)
        return torch.stack([x[:, 0] - 0.5, torch.zeros(len(x))], 1)


def begin(model=lambda x: x[:, :2], count=6, every=1):
    x = torch.rand(count, 3)
    survivors = Survivors(InnerObjective(model, x, torch.zeros(count, dtype=torch.long)), ball("linf", x, 1.0))
    survivors._every = every
    return survivors, x


def mask(*rows, count=6):
    return torch.tensor([row in rows for row in range(count)])


def at(value, count):
    return torch.full((count, 3), float(value))


def test_on_the_cpu_images_leave_at_once():
    survivors, x = begin()
    assert survivors.retire(at(0.1, 6), mask()) is None
    assert survivors.retire(at(0.2, 6), mask(1, 4)).tolist() == [0, 2, 3, 5]
    assert survivors.rows.tolist() == [0, 2, 3, 5] and len(survivors) == 4
    assert torch.equal(survivors.objective.x, x[[0, 2, 3, 5]]) and torch.equal(survivors.feasible.x, x[[0, 2, 3, 5]])
    # rows count from those left: the third of them is image 3
    assert survivors.retire(at(0.3, 4), mask(2, count=4)).tolist() == [0, 1, 3]
    survivors.settle(at(0.4, 3))
    assert survivors.result[:, 0].tolist() == pytest.approx([0.4, 0.2, 0.4, 0.3, 0.2, 0.4])
    assert survivors.fallen.tolist() == [False, True, False, True, True, False]


def test_all_may_leave():
    survivors, _ = begin()
    assert survivors.retire(at(0.7, 6), mask(*range(6))).tolist() == []
    assert len(survivors) == 0 and survivors.fallen.all() and torch.equal(survivors.result, at(0.7, 6))


def test_clean_images_are_the_result_where_nothing_was_noted():
    survivors, x = begin()
    survivors.retire(at(0.7, 6), mask(2))
    assert torch.equal(survivors.result[mask(0, 1, 3, 4, 5)], x[mask(0, 1, 3, 4, 5)])


def test_the_result_is_no_view_of_what_the_attack_goes_on_to_change():
    survivors, _ = begin(every=3)
    x_adv = at(0.2, 6)
    survivors.retire(x_adv, mask(1))
    x_adv.fill_(0.9)
    survivors.settle(x_adv)
    x_adv.fill_(0)
    assert survivors.result[:, 0].tolist() == pytest.approx([0.9, 0.2, 0.9, 0.9, 0.9, 0.9])


def test_off_the_cpu_images_leave_in_every_third_step_with_what_was_found_first():
    survivors, _ = begin(every=3)
    assert survivors.retire(at(0.1, 6), mask(2)) is None
    # image 2 is misclassified at another point too, which changes nothing
    assert survivors.retire(at(0.2, 6), mask(2, 5)) is None
    assert len(survivors) == 6 and not survivors.fallen.any()
    assert survivors.retire(at(0.3, 6), mask(0)).tolist() == [1, 3, 4]
    assert survivors.fallen.tolist() == [True, False, True, False, False, True]
    assert survivors.retire(at(0.4, 3), mask(1, count=3)) is None
    survivors.settle(at(0.5, 3))
    assert survivors.result[:, 0].tolist() == pytest.approx([0.3, 0.5, 0.1, 0.4, 0.5, 0.2])
    assert survivors.rows.tolist() == [1, 4]


def test_off_the_cpu_the_last_few_are_caught_at_the_end():
    survivors, _ = begin(every=3)
    survivors.retire(at(0.1, 6), mask(*range(6)))
    survivors.settle(at(0.5, 6))
    assert len(survivors) == 0 and torch.equal(survivors.result, at(0.1, 6))


def test_off_the_cpu_nothing_is_counted_in_between(monkeypatch):
    survivors, _ = begin(every=3)
    waits = []
    for name in ("__bool__", "item", "nonzero", "tolist", "__index__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _n=name, _o=original: (waits.append(_n), _o(self, *a))[1]
        )
    x_adv, hit = at(0.1, 6), mask(2)
    survivors.retire(x_adv, hit)
    survivors.retire(x_adv, hit)
    assert waits == []
    survivors.retire(x_adv, hit)
    assert waits != []


def test_now_counts_in_any_step():
    survivors, _ = begin(every=3)
    assert survivors.retire(at(0.1, 6), mask(2), now=True).tolist() == [0, 1, 3, 4, 5]


def test_other_devices_wait_for_ten_steps():
    x = torch.rand(2, 3, device="meta")
    objective = InnerObjective(lambda x: x, x, torch.zeros(2, dtype=torch.long, device="meta"))
    assert Survivors(objective, ball("linf", x, 1.0))._every == module._STEPS_BETWEEN == 10


@pytest.mark.parametrize("every", [1, 3])
def test_only_what_the_original_confirms_counts(every):
    model = Doubting()
    survivors, x = begin(model, every=every)
    x_adv = x.clone()
    x_adv[:, 0] = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    kept = survivors.retire(x_adv, mask(0, 1, 2, 3), now=True)
    # 1 and 3 are hits of the search that do not stand
    assert kept.tolist() == [1, 3, 4, 5] and model.confirmed == 4
    x_adv = x_adv[kept]
    x_adv[0, 0] = 0.4
    kept = survivors.retire(x_adv, mask(0, 1, count=4), now=True)
    assert kept.tolist() == [1, 2, 3]
    survivors.settle(at(0.6, 3))
    assert survivors.result[:, 0].tolist() == pytest.approx([0.1, 0.4, 0.2, 0.6, 0.6, 0.6])
    assert survivors.fallen.tolist() == [True, True, True, False, False, False]
    assert sum(model.reported) == 3


def test_a_rejected_success_leaves_room_for_a_later_one_between_compactions():
    model = Doubting()
    survivors, _ = begin(model, count=2, every=2)
    assert survivors.retire(at(0.9, 2), mask(0, count=2)) is None
    assert survivors.retire(at(0.8, 2), mask(count=2)) is None  # rejected here
    survivors.retire(at(0.3, 2), mask(0, count=2))
    assert survivors.retire(at(0.2, 2), mask(0, count=2)).tolist() == [1]
    assert survivors.result[0, 0].item() == pytest.approx(0.3)


def test_an_exact_search_needs_no_confirmation():
    model = Doubting()
    model.exact = True
    survivors, _ = begin(model)
    assert survivors.retire(at(0.9, 6), mask(3)).tolist() == [0, 1, 2, 4, 5]
    assert model.confirmed == 0


def test_per_image_budgets_and_targets_leave_with_their_images():
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 2, 0])
    objective = InnerObjective(lambda x: x, x, y, loss="ce").towards(torch.tensor([1, 2, 0, 2]))
    survivors = Survivors(objective, ball("linf", x, torch.tensor([0.1, 0.2, 0.3, 0.4])))
    survivors.retire(x, torch.tensor([False, True, False, True]))
    assert survivors.feasible.eps.flatten().tolist() == pytest.approx([0.1, 0.3])
    assert survivors.objective.y.tolist() == [0, 2]
    expected = x[[0, 2]].log_softmax(1)[[0, 1], [1, 0]]
    torch.testing.assert_close(survivors.objective.evaluate(x[[0, 2]])[0], expected)


def test_keep_rows():
    state = torch.arange(4)
    assert keep_rows(None, state) is state
    assert keep_rows(torch.tensor([1, 3]), state).tolist() == [1, 3]
    assert keep_rows(torch.tensor([1]), None) is None

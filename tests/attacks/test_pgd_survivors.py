"""PGD leaves images alone that it has beaten: in every step if asked to, and between restarts."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import PGD


class Recording:
    def __init__(self, model):
        self.model, self.batches = model, []

    def __call__(self, x):
        self.batches.append(x.detach().clone())
        return self.model(x)

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]


def above_a_half(x):
    """Class 1 where the pixel is above a half."""
    return torch.cat([torch.full_like(x, 0.5), x], 1)


LADDER = torch.tensor([[0.45], [0.05], [0.35], [0.6]])
CLIMB = {"eps": 0.3, "step_size": 0.1, "steps": 4, "random_start": False}


def test_images_leave_in_the_step_in_which_they_fall():
    model = Recording(above_a_half)
    x_adv = PGD(**CLIMB, stop_at_success=True)(model, LADDER, torch.zeros(4, dtype=torch.long))
    # 0.6 is wrong from the start, 0.45 after one step, 0.35 after two
    assert model.sizes == [4, 3, 2, 1]
    assert x_adv.flatten().tolist() == pytest.approx([0.55, 0.35, 0.55, 0.6])


def test_training_keeps_all_images_climbing():
    model = Recording(above_a_half)
    x_adv = PGD(**CLIMB)(model, LADDER, torch.zeros(4, dtype=torch.long))
    assert model.sizes == [4] * 4
    assert x_adv.flatten().tolist() == pytest.approx([0.75, 0.35, 0.65, 0.9])


def test_targeted_images_leave_when_they_arrive():
    model = Recording(above_a_half)
    x_adv = PGD(**CLIMB, targeted=True, stop_at_success=True)(model, LADDER, torch.ones(4, dtype=torch.long))
    assert model.sizes == [4, 3, 2, 1]
    assert x_adv.flatten().tolist() == pytest.approx([0.55, 0.35, 0.55, 0.6])


def test_the_last_point_is_the_result_even_if_nobody_looked_at_it():
    x_adv = PGD(**{**CLIMB, "steps": 1}, stop_at_success=True)(above_a_half, LADDER[:1], torch.tensor([0]))
    assert x_adv.item() == pytest.approx(0.55)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targeted", [False, True])
def test_equal_accuracy_with_and_without_stopping(net, norm, targeted):
    nn.init.normal_(net[-1].weight)
    x = torch.rand(40, 3, 6, 6)
    with torch.no_grad():
        y = net(x).argmax(1)
    y = (y + 1) % 6 if targeted else y
    eps = {"linf": 0.05, "l2": 0.3, "l1": 2.0}[norm]
    attack = {"norm": norm, "eps": eps, "step_size": eps / 4, "steps": 12, "seed": 1, "targeted": targeted}
    wrong = []
    for stop in (False, True):
        model = Recording(net)
        x_adv = PGD(**attack, stop_at_success=stop)(model, x, y)
        with torch.no_grad():
            wrong.append((net(x_adv).argmax(1) == y) == targeted)
    assert torch.equal(wrong[0], wrong[1])
    assert 0 < wrong[0].sum() < 40
    # every image that falls is passed on until it does, and not once more
    assert sum(model.sizes) < 12 * 40 and model.sizes == sorted(model.sizes, reverse=True)


def test_batch_size_does_not_matter(net):
    nn.init.normal_(net[-1].weight)
    x = torch.rand(12, 3, 6, 6)
    with torch.no_grad():
        y = net(x).argmax(1)
    attack = PGD(eps=0.05, step_size=0.01, steps=8, random_start=False, stop_at_success=True)
    together = attack(net, x, y)
    alone = torch.cat([attack(net, x[i : i + 1], y[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stop_at_success", [False, True])
def test_restarts_attack_survivors_alone(stop_at_success):
    # 0.05 never falls; the others are wrong wherever they start, or after one step
    x, y = torch.tensor([[0.05], [0.9], [0.45]]), torch.zeros(3, dtype=torch.long)
    model = Recording(above_a_half)
    attack = PGD(eps=0.1, step_size=0.2, steps=2, restarts=3, stop_at_success=stop_at_success)
    x_adv = attack(model, x, y)
    # two steps and a look at the last point for each attempt
    later = [1] * 6
    if stop_at_success:
        assert model.sizes[0] == 3 and model.sizes[2:] == [1, *later]
    else:
        assert model.sizes == [3, 3, 3, *later]
    assert (x_adv[1:] > 0.5).all()
    assert x_adv[0].item() == pytest.approx(0.15)


@pytest.mark.parametrize("stop_at_success", [False, True])
def test_restarts_keep_the_highest_loss_of_images_that_stand(wavy, stop_at_success):
    def confident(x):
        return wavy(x) + torch.tensor([40.0, 0, 0, 0, 0])  # nothing beats class 0

    x, y = torch.rand(20, 12), torch.zeros(20, dtype=torch.long)
    model = Recording(confident)
    attack = PGD(eps=0.3, step_size=0.1, steps=3, restarts=4, seed=0, loss="margin", stop_at_success=stop_at_success)
    x_adv = attack(model, x, y)

    def loss(x):
        logits = confident(x)
        return logits[:, 1:].amax(1) - logits[:, 0]

    ends = torch.stack([loss(batch) for batch in model.batches[3::4]])
    assert ends.shape == (4, 20) and len(ends.argmax(0).unique()) > 1
    assert torch.equal(loss(x_adv), ends.amax(0))


@pytest.mark.parametrize("restarts", [1, 2])
def test_budgets_and_steps_per_image_leave_with_their_images(restarts):
    eps = torch.tensor([0.1, 0.2, 0.3, 0.0])
    attack = PGD(eps=0.1, step_size=0.05, steps=4, stop_at_success=True, restarts=restarts, seed=0)
    model = Recording(above_a_half)
    x = torch.tensor([[0.6], [0.1], [0.1], [0.1]])
    x_adv = attack(model, x, torch.zeros(4, dtype=torch.long), eps=eps)
    # the first image leaves, the others reach the edges of their own balls
    assert x_adv[1:].flatten().tolist() == pytest.approx([0.3, 0.4, 0.1])
    assert x_adv[0] > 0.5 and model.sizes[1] == 3


def test_steps_per_image_leave_with_their_images():
    attack = PGD(eps=0.1, step_size=0.02, steps=3, random_start=False, stop_at_success=True)
    x, eps = torch.tensor([[0.6], [0.1], [0.1]]), torch.tensor([0.1, 0.2, 0.3])
    x_adv = attack(above_a_half, x, torch.zeros(3, dtype=torch.long), eps=eps)
    assert x_adv.flatten().tolist() == pytest.approx([0.6, 0.22, 0.28])


def test_steps_per_image_are_those_of_the_survivors_in_later_attempts():
    model = Recording(above_a_half)
    attack = PGD(eps=0.1, step_size=0.01, steps=3, stop_at_success=True, restarts=2, seed=0)
    x, eps = torch.tensor([[0.8], [0.1], [0.1]]), torch.tensor([0.1, 0.2, 0.3])
    attack(model, x, torch.zeros(3, dtype=torch.long), eps=eps)
    assert model.sizes == [3, 2, 2, 2, 2, 2, 2, 2]
    second = model.batches[4:]
    assert (second[1] - second[0]).flatten().tolist() == pytest.approx([0.02, 0.03])


class Watched:
    exact = False

    def __init__(self, model, original):
        self.model, self.original, self.reports = model, original, []
        self.watch = self.reports.append

    def __call__(self, x):
        return self.model(x)

    def confirm(self, x):
        return self.original(x)


@pytest.mark.parametrize("restarts", [1, 3])
def test_every_image_that_falls_is_reported_once(restarts):
    model = Watched(above_a_half, above_a_half)
    x = torch.tensor([[0.45], [0.05], [0.35], [0.6]])
    attack = PGD(eps=0.3, step_size=0.1, steps=6, stop_at_success=True, restarts=restarts, seed=0)
    attack(model, x, torch.zeros(4, dtype=torch.long))
    assert sum(model.reports) == 3


def test_a_success_that_the_original_denies_is_no_end():
    # the original wants 0.62, the copy is content with 0.5
    model = Watched(above_a_half, lambda x: torch.cat([torch.full_like(x, 0.62), x], 1))
    x_adv = PGD(**CLIMB, stop_at_success=True)(model, LADDER, torch.zeros(4, dtype=torch.long))
    assert x_adv.flatten().tolist() == pytest.approx([0.65, 0.35, 0.65, 0.7])

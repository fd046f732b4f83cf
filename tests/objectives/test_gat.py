import copy

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM
from lightning_advreg.modules.hyperparameters import describe
from lightning_advreg.objectives.gat import GAT

from .test_nuat import (
    ATTACK,
    EPS,
    assert_same_loss_and_gradients,
    count_passes,
    literal_cross_entropy,
    literal_step,
    make_net,
)
from .test_nuat import batch as batch


def literal_distance(logits, other):
    total = 0.0
    for z, w in zip(logits, other, strict=True):
        p, q = z.exp() / z.exp().sum(), w.exp() / w.exp().sum()
        total = total + sum((p[k] - q[k]) ** 2 for k in range(len(p)))
    return total / len(logits)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("step", [0, 1])
def test_loss_and_gradients_equal_the_formula(batch, step, share):
    x, y = batch
    net = make_net()
    reference = copy.deepcopy(net)
    torch.manual_seed(5)
    start = (x + share * EPS * (2 * torch.empty_like(x).bernoulli_() - 1)).clamp(0, 1)

    def inner(images):
        logits = reference(images)
        value = literal_cross_entropy(logits, y)
        return value + 10 * literal_distance(logits, reference(x).detach()) if step else value

    reference.eval()
    x_adv = literal_step(start, x, inner)
    reference.train()
    clean = reference(x)
    expected = literal_cross_entropy(clean, y) + 10 * literal_distance(reference(x_adv), clean)

    torch.manual_seed(5)
    output = GAT(start=share).during(0.7, step)(net, x, y, ATTACK)
    assert_same_loss_and_gradients(output, net, expected, reference)
    torch.testing.assert_close(output.logits, net(x))
    torch.testing.assert_close(output.logits_adv, net(x_adv))


def test_guidance_changes_the_step_and_is_there_outside_of_training(batch):
    net = make_net()
    stepped = []
    for objective in (GAT(weight=500).during(0.5, 0), GAT(weight=500).during(0.5, 1), GAT(weight=500)):
        torch.manual_seed(0)
        stepped.append(objective.craft(net, *batch, ATTACK)[0])
    assert not torch.equal(stepped[0], stepped[1])
    assert torch.equal(stepped[1], stepped[2])


@pytest.mark.parametrize(("weight", "step", "passes"), [(10, 0, 3), (10, 1, 4), (0, 1, 3)])
def test_number_of_passes(batch, weight, step, passes):
    net = make_net()
    calls = count_passes(net)
    GAT(weight=weight).during(0.5, step)(net, *batch, ATTACK)
    assert len(calls) == passes


def test_a_known_value():
    # the logits are the pixels: from either corner, the step goes to the corner (1/4, 3/4) or stays at 1/2
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    output = GAT(weight=0, start=0)(nn.Flatten(), x, y, FGSM(eps=0.25))
    assert output.logits_adv.tolist() == [[0.25, 0.75]]
    assert output.loss.item() == pytest.approx(0.693147, abs=1e-6)
    probability = 1 / (1 + torch.tensor(0.5).exp().item())
    guided = GAT(weight=3, start=0).during(0, 0)(nn.Flatten(), x, y, FGSM(eps=0.25))
    assert guided.loss.item() == pytest.approx(0.693147 + 3 * 2 * (0.5 - probability) ** 2, abs=1e-6)


def test_plain_values_describe_what_was_chosen_alone():
    assert describe(GAT(weight="15").during(0.5, 1))["init_args"] == {"weight": 15.0, "start": 0.5}
    assert GAT().during(0.5, 0) == GAT()

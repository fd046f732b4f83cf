"""The same evaluation again: after an interruption, with another seed, and without a trace in the network."""

import json

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import APGD, PGD, AutoAttack
from lightning_advreg.evaluation import CurveSettings, evaluate_robustness

from ..attacks.test_suite import network

SMALL = AutoAttack(eps=0.02, steps=5, queries=20)
ATTACKS = {"aa": SMALL, "pgd": PGD(eps=0.02, step_size=0.01, steps=4)}
CURVE = CurveSettings(eps=[0, 0.01, 0.03], attack=APGD(eps=0.02, steps=5, seed=None))


def plain(report):
    return json.dumps(report.as_dict(), allow_nan=False)


def few():
    model, x, y = network()
    return model, x[:12], y[:12]


class Noisy(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        logits = self.inner(x)
        return logits + 0.02 * torch.randn_like(logits)


@pytest.mark.parametrize("build", [lambda net: net, Noisy])
@pytest.mark.filterwarnings("ignore:the model's logits differ", "ignore:The search runs on the network itself")
def test_a_second_run_gives_the_same_json_and_takes_no_random_numbers(build):
    model, x, y = network()
    model = build(model).eval()
    x, y = x[:24], y[:24]
    torch.manual_seed(0)
    first = evaluate_robustness(model, x, y, ATTACKS, curve=CURVE, batch_size=16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = evaluate_robustness(model, x, y, ATTACKS, curve=CURVE, batch_size=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert plain(first) == plain(second)
    assert torch.equal(first.x_adv, second.x_adv)
    assert 0 < first.worst_case.correct < first.clean.correct
    assert [flag.name for flag in first.flags] == (["random_logits"] if isinstance(model, Noisy) else [])


def test_seeds():
    model, x, y = network()
    free, bound = PGD(eps=0.01, step_size=0.001, steps=1), PGD(eps=0.01, step_size=0.001, steps=1, seed=7)
    runs = {
        (name, seed): evaluate_robustness(model, x, y, attack, masking=False, seed=seed).x_adv
        for name, attack in (("free", free), ("bound", bound))
        for seed in (1, 2)
    }
    assert not torch.equal(runs["free", 1], runs["free", 2])
    assert torch.equal(runs["bound", 1], runs["bound", 2]) and not torch.equal(runs["bound", 1], runs["free", 1])


class Fragile:
    """An attack of somebody else's that changes nothing, counts its calls, and fails once."""

    def __init__(self, fails_at=None):
        self._calls, self._fails_at = 0, fails_at

    def __call__(self, model, x, y):
        if self._calls == self._fails_at:
            raise RuntimeError("interrupted")
        self._calls += 1
        return x


def test_it_continues_where_it_was_interrupted(tmp_path):
    model, x, y = few()
    # names that are folders of the evaluation itself
    attacks = {"curve": SMALL, "masking": Fragile(), "attacks": PGD(eps=0.02, step_size=0.01, steps=3)}
    settings = {"curve": CURVE, "batch_size": 6, "seed": 1}
    expected = plain(evaluate_robustness(model, x, y, attacks, **settings))
    with pytest.raises(RuntimeError, match="interrupted"):
        evaluate_robustness(model, x, y, {**attacks, "masking": Fragile(1)}, **settings, checkpoint=tmp_path)
    attacks["masking"] = Fragile()
    again = evaluate_robustness(model, x, y, attacks, **settings, checkpoint=tmp_path)
    assert plain(again) == expected
    assert attacks["masking"]._calls == 2 - 1
    # the third time, nothing is left to attack
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    third = evaluate_robustness(model, x, y, attacks, **settings, checkpoint=tmp_path, acceleration=None)
    assert plain(third) == expected and third.timings() == again.timings()
    # a pass to count classes and two batches that tell which images are right, for each suite
    assert attacks["masking"]._calls == 1 and len(calls) < 40


def test_it_works_in_inference_mode():
    model, x, y = few()
    expected = plain(evaluate_robustness(model, x, y, ATTACKS, curve=CURVE))
    with torch.inference_mode():
        assert plain(evaluate_robustness(model, x.clone(), y.clone(), ATTACKS, curve=CURVE)) == expected


def test_the_model_is_left_as_it_was():
    model, x, y = few()
    model.train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate_robustness(model, x, y, ATTACKS, curve=CURVE)
    assert model.training and not model[1].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

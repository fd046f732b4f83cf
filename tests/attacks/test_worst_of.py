import contextlib
import dataclasses
import itertools
import pickle

import jsonargparse
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_advreg.attacks import CW, FGSM, PGD, Attack
from lightning_advreg.attacks.worst_of import WorstOf

LINF = PGD(eps=0.0525, step_size=0.02, steps=3, seed=0)
L2 = PGD(norm="l2", eps=0.39, step_size=0.195, steps=3, seed=0)
L1 = PGD(norm="l1", eps=3.0, step_size=1.0, steps=3, seed=0)


class Fixed(Attack):
    """An attack that always gives the same images."""

    def __init__(self, x_adv):
        self.x_adv = x_adv

    def __call__(self, model, x, y):
        return self.x_adv


def logits_of_pixels(images):
    return images.flatten(1)


def test_each_image_keeps_the_member_with_the_highest_cross_entropy(net, batch):
    x, y = batch
    members = [attack(net, x, y) for attack in (LINF, L2, L1)]
    chosen = set()
    worst = WorstOf([LINF, L2, L1])(net, x, y)
    for i in range(len(x)):
        losses = [cross_entropy(net(member[i : i + 1]), y[i : i + 1]).item() for member in members]
        chosen.add(losses.index(max(losses)))
        assert torch.equal(worst[i], members[losses.index(max(losses))][i])
    assert len(chosen) > 1


@pytest.mark.parametrize("order", list(itertools.permutations([0.1, 0.2, 0.3])))
def test_the_order_of_members_does_not_matter(order):
    # the second image is attacked the other way round: its worst member is the weakest on the first
    x, y = torch.tensor([[[[0.5, 0.5]]], [[[0.5, 0.5]]]]), torch.tensor([0, 1])
    members = {shift: x + shift * torch.tensor([-1.0, 1.0]) for shift in order}
    worst = WorstOf([Fixed(members[shift]) for shift in order])(logits_of_pixels, x, y)
    assert torch.equal(worst, torch.stack([members[0.3][0], members[0.1][1]]))


def test_it_is_at_least_as_strong_as_each_member(net, batch):
    x, y = batch
    worst = cross_entropy(net(WorstOf([LINF, L2])(net, x, y)), y, reduction="none")
    for attack in (LINF, L2):
        assert (worst >= cross_entropy(net(attack(net, x, y)), y, reduction="none")).all()


def test_members_are_compared_in_eval_mode(net, batch):
    x, y = batch
    expected = WorstOf([LINF, L2, L1])(net, x, y)
    assert torch.equal(WorstOf([LINF, L2, L1])(net.train(), x, y), expected)
    # one image alone in its batch has other statistics in training mode
    single = WorstOf([LINF, L2, L1])(net, x[:1], y[:1])
    assert single.shape == x[:1].shape


@pytest.mark.parametrize("context", ["plain", "no_grad", "inference_mode", "autocast"])
def test_the_model_and_the_context_are_left_as_they_were(net, batch, context):
    x, y = batch
    net.train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    flags = [module.training for module in net.modules()], [p.requires_grad for p in net.parameters()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with contextlib.ExitStack() as stack:
        if context == "autocast":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        elif context != "plain":
            stack.enter_context(getattr(torch, context)())
        x_adv = WorstOf([LINF, L2])(net, x, y)
    assert flags == ([module.training for module in net.modules()], [p.requires_grad for p in net.parameters()])
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype
    assert not x_adv.requires_grad and x_adv.grad_fn is None
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_images_is_kept(net, batch, dtype):
    x_adv = WorstOf([FGSM(), FGSM(norm="l2", eps=0.5)])(net.to(dtype), batch[0].to(dtype), batch[1])
    assert x_adv.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_labels_of_every_integer_dtype_work(net, batch, dtype):
    x, y = batch
    attack = WorstOf([FGSM(), FGSM(norm="l2", eps=0.5)])
    assert torch.equal(attack(net, x, y.to(dtype)), attack(net, x, y))


def test_training_after_it_under_autocast_still_has_gradients(net, batch):
    x, y = batch
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = WorstOf([LINF, L2])(net, x, y)
        loss = cross_entropy(net(x_adv), y)
    loss.backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in (net[0].weight, net[6].weight))


@pytest.mark.parametrize(("count", "passes"), [(1, 2), (2, 6), (3, 9)])
def test_each_member_costs_one_pass_more_and_a_single_one_none(net, batch, count, passes):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    WorstOf([dataclasses.replace(attack, steps=2) for attack in (LINF, L2, L1)[:count]])(net, *batch)
    assert len(calls) == passes


def test_the_first_counts_where_losses_are_equal():
    x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
    # adding the same to both logits changes nothing
    first, second = x + 0.25, x - 0.25
    assert torch.equal(WorstOf([Fixed(first), Fixed(second)])(logits_of_pixels, x, y), first)


@pytest.mark.parametrize("undefined", [0, 1])
def test_an_undefined_loss_never_counts_as_the_worst(undefined):
    x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
    results = [x + 0.25, x - 0.25]

    def model(images):
        return images.flatten(1) * (torch.nan if torch.equal(images, results[undefined]) else 1)

    attack = WorstOf([Fixed(result) for result in results])
    assert torch.equal(attack(model, x, y), results[1 - undefined])


@pytest.mark.parametrize("logit", [1e4, torch.inf])
def test_a_saturated_network_is_compared_all_the_same(logit):
    x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
    weak, strong = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([[[[0.0, 1.0]]]])

    def model(images):
        return torch.where(images.flatten(1) == 1, logit, images.flatten(1))

    for order in ([weak, strong], [strong, weak]):
        if logit == 1e4:
            assert torch.equal(WorstOf(list(map(Fixed, order)))(model, x, y), strong)
        else:
            assert WorstOf(list(map(Fixed, order)))(model, x, y).isfinite().all()


def test_scaled_maps_over_the_members(net, batch):
    attack = WorstOf([LINF, FGSM(eps=0.2)]).scaled(0.5)
    assert attack.attacks == (LINF.scaled(0.5), FGSM(eps=0.1))
    assert torch.equal(WorstOf([LINF, L2]).scaled(0)(net, *batch), batch[0])


def test_maximising_maps_over_the_members():
    attack = WorstOf([LINF, WorstOf([L2])], check=False).maximising("kl")
    assert attack.attacks[0] == dataclasses.replace(LINF, loss="kl", check=False)
    assert attack.attacks[1].attacks == (dataclasses.replace(L2, loss="kl", check=False),)
    assert not attack.check


@pytest.mark.parametrize("member", [CW(), lambda model, x, y: x])
def test_a_member_that_cannot_says_so(member):
    with pytest.raises(TypeError, match="has no `maximising` method, which this objective needs"):
        WorstOf([LINF, member]).maximising("kl")
    if not isinstance(member, CW):
        with pytest.raises(TypeError, match="function has no `scaled` method, which a schedule of its eps needs"):
            WorstOf([LINF, member]).scaled(0.5)


def test_checks_are_the_members_own_unless_they_are_switched_off(net, batch):
    unchecked = dataclasses.replace(LINF, check=False)
    assert WorstOf([LINF, unchecked]).attacks == (LINF, unchecked)
    assert WorstOf([LINF, WorstOf([L2])], check=False).attacks == (
        unchecked,
        WorstOf([dataclasses.replace(L2, check=False)], check=False),
    )
    assert dataclasses.replace(WorstOf([LINF]), check=False).attacks == (unchecked,)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        WorstOf([LINF, L2])(net, batch[0] * 255, batch[1])


def test_members_are_refused_that_make_no_sense():
    with pytest.raises(ValueError, match=r"attacks must hold at least one attack, such as \[PGD\(\)\], got none"):
        WorstOf([])
    with pytest.raises(TypeError, match=r"attacks must be a list of attacks, such as .*, got PGD\("):
        WorstOf(PGD())
    with pytest.raises(TypeError, match=r"attacks must be a list of attacks.*, got 'pgd'"):
        WorstOf("pgd")
    with pytest.raises(TypeError, match=r"attacks must be a list of attacks.*, got \[0\.1\]"):
        WorstOf([0.1])
    with pytest.raises(ValueError, match=r"attacks must be untargeted, got PGD\(.*set targeted=False"):
        WorstOf([LINF, PGD(targeted=True)])


def test_it_is_a_value():
    attack = WorstOf([LINF, L2])
    assert attack == WorstOf(attacks=(LINF, L2)) and hash(attack) == hash(WorstOf([LINF, L2]))
    assert attack != WorstOf([L2, LINF])
    assert pickle.loads(pickle.dumps(attack)) == attack
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.attacks = ()


def test_it_reads_a_plain_list_in_yaml(tmp_path):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Attack, "attack")
    config = tmp_path / "config.yaml"
    config.write_text(
        """
attack:
  class_path: lightning_advreg.attacks.worst_of.WorstOf
  init_args:
    attacks:
      - class_path: lightning_advreg.attacks.PGD
        init_args: {eps: 8/255, step_size: 2/255}
      - class_path: lightning_advreg.attacks.FGSM
        init_args: {norm: l2, eps: 128/255}
"""
    )
    attack = parser.instantiate_classes(parser.parse_args([f"--config={config}"])).attack
    assert attack == WorstOf([PGD(eps=8 / 255, step_size=2 / 255), FGSM(norm="l2", eps=128 / 255)])


def test_a_plain_function_may_be_the_model(batch):
    x, y = batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 6))
    attack = WorstOf([LINF, L2])
    assert torch.equal(attack(lambda images: model(images), x, y), attack(model, x, y))

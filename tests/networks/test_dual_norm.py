import copy

import pytest
import timm
import torch
from torch import nn

from lightning_advreg.attacks import PGD, live_copy, standing_in
from lightning_advreg.attacks.acceleration import Acceleration, search_model
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.networks import ResNet18
from lightning_advreg.networks.dual_norm import (
    DualBatchNorm,
    adversarial_pass,
    clean_pass,
    current_pass,
    dual_norms,
    evaluate_by_,
    run_clean,
)
from lightning_advreg.networks.norm_surgery import replace_norms_

Y = torch.tensor([0, 1, 0, 1, 1, 0])


def net():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), DualBatchNorm(4), nn.ReLU(), nn.Conv2d(4, 4, 3), DualBatchNorm(4), nn.ReLU())
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 2)).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return network


def images():
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def plain(network, half):
    """The network with one half in place of both."""
    network = copy.deepcopy(network)
    evaluate_by_(network, half)
    replace_norms_(network, "batch")
    return network.train(network.training)


@pytest.mark.parametrize("half", ["clean", "adversarial"])
def test_each_half_is_a_batchnorm_that_sees_its_own_passes_alone(half):
    norm = DualBatchNorm(3, momentum=0.3)
    expected = nn.BatchNorm2d(3, momentum=0.3)
    torch.manual_seed(0)
    for i in range(6):
        x = i + torch.rand(5, 3, 2, 2)
        clean = i % 3 == 0
        with clean_pass() if clean else adversarial_pass():
            y = norm(x)
        if clean == (half == "clean"):
            assert torch.equal(y, expected(x))
    own = getattr(norm, half).state_dict()
    assert own.keys() == expected.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in expected.state_dict().items())


def test_contexts_end_and_run_clean_marks_nothing_in_evaluation():
    with pytest.raises(KeyError), adversarial_pass():
        raise KeyError
    assert current_pass() is None
    network, x = net(), images()
    with adversarial_pass():
        clean, attacked = run_clean(network, x), network(x)
        assert current_pass() == "adversarial"
    assert torch.equal(attacked, network(x)) and not torch.equal(clean, attacked)
    assert torch.equal(run_clean(network, x), network(x)), "evaluation has one half for all"
    evaluate_by_(network, "clean")
    assert torch.equal(clean, network(x))


def test_training_mode_without_a_context_and_wrong_arguments_are_errors():
    with pytest.raises(RuntimeError, match=r"must know whether images are clean or attacked.*AdversarialClassifier"):
        DualBatchNorm(2)(torch.rand(2, 2, 3, 3))
    with pytest.raises(ValueError, match=r"evaluate must be one of clean, adversarial; got 'both'"):
        DualBatchNorm(2, evaluate="both")
    with pytest.raises(ValueError, match=r"branch must be one of clean, adversarial; got 'x'"):
        evaluate_by_(net(), "x")
    with pytest.raises(ValueError, match=r"dims must be 1, 2 or 3, got 4"):
        DualBatchNorm(2, dims=4)


@pytest.mark.parametrize("evaluate", ["clean", "adversarial"])
@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_attacks_in_evaluation_meet_one_half(evaluate, loss):
    network, x = net(), images()
    evaluate_by_(network, evaluate)
    attack = PGD(eps=0.1, steps=3, seed=0, loss=loss)
    assert torch.equal(attack(network, x, Y), attack(plain(network, evaluate), x, Y))


def test_attacks_in_training_meet_the_adversarial_half_in_eval_mode():
    network, x = net().train(), images()
    evaluate_by_(network, "clean")
    attack, before = PGD(eps=0.1, steps=3, seed=0), copy.deepcopy(network.state_dict())
    with adversarial_pass():
        x_adv = attack(network, x, Y)
    assert torch.equal(x_adv, attack(plain(network, "adversarial"), x, Y))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_kl_in_training_is_from_the_clean_half_to_the_adversarial_one():
    network, x = net(), images()
    with adversarial_pass():
        grad = InnerObjective(network.requires_grad_(False), x, Y, loss="kl").gradient(x)
    leaf = x.clone().requires_grad_()
    reference = plain(network, "clean")(x).detach().softmax(1)
    divergence = nn.functional.kl_div(plain(network, "adversarial")(leaf).log_softmax(1), reference, reduction="sum")
    torch.testing.assert_close(grad, torch.autograd.grad(divergence, leaf)[0])
    assert grad.abs().max() > 1e-4


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_the_live_copy_folds_the_adversarial_half_and_knows_the_clean_one(loss):
    network, x = net().train(), images()
    attack = PGD(eps=0.1, step_size=0.03, steps=3, seed=0, loss=loss)
    before = copy.deepcopy(network.state_dict())
    with adversarial_pass():
        expected = attack(network, x, Y)
        fast = live_copy(network, x)
        assert fast is not None
        assert [type(layer).__name__ for layer in fast.network[:2]] == ["LiveConv2d", "DualBatchNorm"]
        assert isinstance(fast.network[1].adversarial, nn.Identity)
        with standing_in(network, fast):
            torch.testing.assert_close(attack(network, x, Y), expected, atol=1e-5, rtol=0)
            with torch.no_grad():
                network[1].adversarial.running_var.mul_(3)
            after = attack(network, x, Y)
            assert not torch.allclose(after, expected, atol=1e-5), "the copy follows the statistics"
    torch.testing.assert_close(fast.network[3].weight, network[3].weight)
    assert network.training and network[1].clean.training
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["1.adversarial.running_var"]


@pytest.mark.parametrize("evaluate", ["clean", "adversarial"])
def test_the_copy_for_evaluation_folds_the_half_for_evaluation(evaluate):
    network, x = net(), images()
    evaluate_by_(network, evaluate)
    search = search_model(network, Acceleration(), x)
    assert not search.exact
    torch.testing.assert_close(search(x), plain(network, evaluate)(x), atol=1e-4, rtol=1e-4)


def test_compiled_passes_keep_halves_apart():
    norm, x = DualBatchNorm(2), torch.rand(3, 2, 4, 4)
    compiled = torch.compile(norm, backend="eager", dynamic=False)
    for told in (clean_pass, adversarial_pass, adversarial_pass):
        with told():
            compiled(x)
    assert (int(norm.clean.num_batches_tracked), int(norm.adversarial.num_batches_tracked)) == (1, 2)


@pytest.mark.parametrize(
    "make", [lambda: ResNet18(width=4, in_channels=1), lambda: timm.create_model("resnet10t", in_chans=1)]
)
def test_surgery_begins_both_halves_with_what_was_learned_and_goes_back(make):
    network, x = make(), torch.rand(4, 1, 32, 32)
    network(x)
    names, count = list(network.state_dict()), len(list(network.parameters()))
    expected = network.eval()(x)
    replaced = replace_norms_(network, "dual")
    assert len(replaced) == len(dual_norms(network)) > 5
    assert replace_norms_(network, "dual") == ()
    assert len(list(network.parameters())) == count + 2 * len(replaced), "scales and shifts of their own"
    for told in (clean_pass, adversarial_pass):
        with told():
            torch.testing.assert_close(network(x), expected)
    evaluate_by_(network, "clean")
    with torch.no_grad():
        dual_norms(network)[0].adversarial.running_mean.add_(1)
    assert replace_norms_(network, "batch") == replaced
    assert sorted(network.state_dict()) == sorted(names)
    torch.testing.assert_close(network(x), expected)


def test_halves_are_not_chosen_by_themselves_and_may_be_frozen():
    network = net()
    with pytest.raises(ValueError, match=r"matches no normalisation layer"):
        replace_norms_(network, "group", "1.clean")
    expected = plain(network, "adversarial")(images())
    replace_norms_(network, "frozen")
    assert torch.equal(network(images()), expected)


def test_synchronised_halves_are_found():
    network = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert type(network[1]) is DualBatchNorm and type(network[1].clean) is nn.SyncBatchNorm

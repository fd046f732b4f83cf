import copy
import pickle

import jsonargparse
import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.attacks.worst_of import WorstOf
from lightning_advreg.objectives import Objective
from lightning_advreg.objectives.average_over_attacks import AverageOverAttacks
from lightning_advreg.objectives.hat import HAT
from lightning_advreg.objectives.trades import TRADES

from ..modules.parts import conv, digits, trainer
from .test_pgd_at import literal_cross_entropy
from .test_trades import assert_same, literal_kl, literal_kl_pgd


def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.0), nn.Flatten(), nn.Linear(64, 5)
    )
    model(torch.rand(32, 1, 6, 6))
    return model.double().train()


@pytest.fixture
def net():
    return network(0)


@pytest.fixture
def helper():
    return network(5)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


ATTACK = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)


@pytest.mark.parametrize("settings", [{}, {"beta": 6, "gamma": 1, "distance": 3.5}, {"gamma": 0}])
def test_loss_and_gradients_equal_the_formula(net, helper, batch, settings):
    x, y = batch
    reference, standard = copy.deepcopy(net), copy.deepcopy(helper).eval()
    x_adv = literal_kl_pgd(reference, x)
    seen = torch.stack([standard(image[None])[0].argmax() for image in x_adv])
    logits = reference(x)
    expected = literal_cross_entropy(logits, y, 0)
    expected = expected + settings.get("beta", 2.5) * literal_kl(logits, reference(x_adv)).sum() / len(x)
    further = reference(x + settings.get("distance", 2) * (x_adv - x))
    expected = expected + settings.get("gamma", 0.5) * literal_cross_entropy(further, seen, 0)
    assert_same(HAT(helper, **settings)(net, x, y, ATTACK).loss, net, expected, reference)


def test_the_helper_labels_the_attacked_images_once(net, helper, batch):
    seen = []
    helper.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    objective = HAT(helper)
    x_adv, labels = objective.craft(net, *batch, ATTACK)
    assert len(seen) == 1 and torch.equal(seen[0], x_adv)
    assert labels.dtype == torch.int64 and torch.equal(labels, copy.deepcopy(helper).eval()(x_adv).argmax(1))
    objective.loss(net, *batch, (x_adv, labels))
    assert len(seen) == 2, "the copy shares the hook, and nothing else ran"


def test_the_loss_is_trades_where_gamma_is_zero(net, helper, batch):
    net.eval()
    expected = TRADES(beta=2.5)(net, *batch, ATTACK)
    output = HAT(helper, gamma=0)(net, *batch, ATTACK)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.logits_adv, expected.logits_adv)


def test_helper_examples_lie_outside_the_box_where_images_do_at_its_edge(net, helper, batch):
    x, y = torch.ones_like(batch[0]), batch[1]
    seen = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x_adv = x - 0.1
    HAT(helper, distance=15).loss(net, x, y, (x_adv, y))
    assert [round(images.mean().item(), 3) for images in seen] == [1, 0.9, -0.5]


def test_the_helper_stays_as_it_is(net, helper, batch):
    objective = HAT(helper)
    before = {name: value.clone() for name, value in helper.state_dict().items()}
    holder = nn.ModuleList([net, objective])
    for training in (True, False, True):
        holder.train(training)
        assert not any(module.training for module in helper.modules())
        objective(net, *batch, ATTACK).loss.backward()
    helper.train()  # past the objective
    objective(net, *batch, ATTACK).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in helper.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in helper.parameters())
    assert all(p.grad is not None for p in net.parameters())


def test_labels_come_from_eval_mode_whatever_the_helpers_flags(net, helper, batch):
    helper[3].p = 0.9
    objective = HAT(helper)
    expected = objective.craft(net, *batch, ATTACK)[1]
    helper.train()
    assert torch.equal(objective.craft(net, *batch, ATTACK)[1], expected)
    assert helper.training


def test_the_helper_is_not_copied(helper):
    assert HAT(helper).helper is helper


def test_the_network_in_training_cannot_be_its_own_helper(net, batch):
    with pytest.raises(ValueError, match="helper is the network in training, which is frozen by that; give a network"):
        HAT(net)(net, *batch, ATTACK)


def test_number_of_passes(net, helper, batch):
    calls = []
    for module in (net, helper):
        module.register_forward_hook(lambda module, *others: calls.append(module))
    HAT(helper)(net, *batch, ATTACK)
    assert calls.count(net) == (3 + 1) + 3 and calls.count(helper) == 1


def weights_file(helper, path, kind):
    state = helper.state_dict()
    nested = {f"network.{name}": value for name, value in state.items()}
    contents = {
        "state_dict": state,
        "checkpoint": {"state_dict": {**nested, "objective.helper.weight": torch.zeros(1)}, "epoch": 3},
        "checkpoint of a plain network": {"state_dict": state},
    }[kind]
    torch.save(contents, path)
    return path


@pytest.mark.parametrize("kind", ["state_dict", "checkpoint", "checkpoint of a plain network"])
@pytest.mark.parametrize("as_path", [True, False])
def test_weights_are_read_from_a_file(helper, tmp_path, kind, as_path):
    path = weights_file(helper, tmp_path / "helper.ckpt", kind)
    objective = HAT(network(9), path if as_path else str(path))
    assert all(torch.equal(v, objective.helper.state_dict()[name]) for name, v in helper.state_dict().items())
    assert objective.init_args["helper_weights"] == str(path)


def test_a_part_called_network_is_no_prefix(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Linear(3, 2)
            self.head = nn.Linear(2, 2)

    trained = Wrapped()
    torch.save(trained.state_dict(), tmp_path / "plain.pt")
    nested = {f"network.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": nested}, tmp_path / "nested.ckpt")
    for name in ("plain.pt", "nested.ckpt"):
        assert torch.equal(HAT(Wrapped(), tmp_path / name).helper.network.weight, trained.network.weight)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_hold_no_such_weights_are_refused(helper, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"helper_weights: there is no file '.*absent.ckpt'; train the helper"):
        HAT(helper, tmp_path / "absent.ckpt")
    with pytest.raises(FileNotFoundError, match="helper_weights: there is no file"):
        HAT(helper, tmp_path)
    path = tmp_path / "helper.pt"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(ValueError, match=r"(?s)helper.pt' does not fit Sequential; build the helper with .*Missing"):
        HAT(helper, path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ValueError, match="holds a Tensor, not weights by name; save them with"):
        HAT(helper, path)
    for content in (b"", b"no weights at all", pickle.dumps(Evil(), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"helper_weights: .*; save weights with torch.save\(helper.state_dict"):
            HAT(helper, path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["beta", "gamma", "distance"])
def test_numbers_out_of_range_are_named(helper, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        HAT(helper, **{name: -1})
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        HAT(helper, **{name: "far"})


def test_under_autocast(net, helper, batch):
    x, y = batch[0].float(), batch[1]
    objective = HAT(helper.float())
    exact = objective(net.float(), x, y, ATTACK)
    with torch.autocast("cpu", torch.bfloat16):
        output = objective(net, x, y, ATTACK)
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.1)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saturated_network_gives_finite_loss_and_gradients(helper, dtype):
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    x, x_adv, y = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.tensor([0, 0])
    crafted = x_adv, torch.tensor([2, 2])
    output = HAT(helper).loss(lambda images: logits.flip(0) if images is x_adv else logits, x, y, crafted)
    assert output.loss.isfinite()
    output.loss.backward()
    assert logits.grad.isfinite().all()


SMALL_ATTACK = PGD(eps=0.2, step_size=0.1, steps=1)


def fitted(objective, attack=SMALL_ATTACK):
    model = AdversarialClassifier(conv(norm="batch"), attack=attack, objective=objective)
    fitting = trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    fitting.fit(model, datamodule=digits())
    return fitting


def helper_of(objective):
    return objective.objective.helper if isinstance(objective, AverageOverAttacks) else objective.helper


@pytest.mark.parametrize("averaged", [False, True])
def test_a_checkpoint_holds_the_helper_that_came_from_no_file(averaged, tmp_path):
    helper = conv(norm="batch", width=2)
    before = copy.deepcopy(helper.state_dict())
    attack = WorstOf([SMALL_ATTACK, SMALL_ATTACK.scaled(0.5)]) if averaged else SMALL_ATTACK
    fitting = fitted(AverageOverAttacks(HAT(helper)) if averaged else HAT(helper), attack)
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert loaded.objective is not fitting.model.objective
    for module in (fitting.model, loaded):
        state = helper_of(module.objective).state_dict()
        assert all(torch.equal(state[name], value) for name, value in before.items())
    optimized = {id(p) for group in fitting.optimizers[0].param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in helper.parameters()}


def test_a_checkpoint_holds_no_helper_that_came_from_a_file(tmp_path):
    helper = conv(norm="batch", width=2)
    torch.save(helper.state_dict(), tmp_path / "helper.pt")
    fitting = fitted(HAT(conv(norm="batch", width=2), str(tmp_path / "helper.pt"), beta=1))
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert stored and not any("helper" in name for name in stored)
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    state = loaded.objective.helper.state_dict()
    assert all(torch.equal(state[name], value) for name, value in helper.state_dict().items())
    assert loaded.objective.trades == TRADES(beta=1)
    # for use without the file
    (tmp_path / "helper.pt").unlink()
    with pytest.raises((FileNotFoundError, ValueError), match="helper_weights: there is no file"):
        AdversarialClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    plain = AdversarialClassifier.load_from_checkpoint(tmp_path / "last.ckpt", objective=TRADES())
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in stored.items())


def test_it_reads_its_helper_from_yaml(tmp_path):
    trained = conv(norm="batch", width=2)
    torch.save(trained.state_dict(), tmp_path / "helper.pt")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Objective, "objective")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
objective:
  class_path: lightning_advreg.objectives.average_over_attacks.AverageOverAttacks
  init_args:
    objective:
      class_path: lightning_advreg.objectives.hat.HAT
      init_args:
        helper:
          class_path: lightning_advreg.networks.MNISTConvNet
          init_args: {{image_size: 8, width: 2, hidden: 8, norm: batch}}
        helper_weights: {tmp_path / "helper.pt"}
        gamma: 1/4
"""
    )
    parsed = parser.parse_args([f"--config={config}"])
    objective = parser.instantiate_classes(parsed).objective.objective
    assert objective.gamma == 0.25 and objective.trades == TRADES(beta=2.5) and objective.distance == 2
    state = objective.helper.state_dict()
    assert all(torch.equal(state[name], value) for name, value in trained.state_dict().items())
    # what is written beside a run can be read again
    config.write_text(parser.dump(parsed))
    assert parser.parse_args([f"--config={config}"]).objective == parsed.objective


def test_copies_keep_the_rules_of_the_state(helper, tmp_path):
    torch.save(helper.state_dict(), tmp_path / "helper.pt")
    for objective in (HAT(helper), HAT(helper, tmp_path / "helper.pt")):
        for twin in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
            assert twin.state_dict().keys() == objective.state_dict().keys()
            twin.load_state_dict(objective.state_dict())
            assert twin.helper is not helper and not twin.train().helper.training

"""Compiled training: the results of eager training, from few programs."""

import copy
import warnings
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import FGSM, PGD, WorstOf
from lightning_advreg.modules import Engine, compilation
from lightning_advreg.objectives import LIET, PGDAT, TRADES, AverageOverAttacks, FreeAT, GradAlign
from lightning_advreg.perturbations import AWP

from .parts import AtBatches, conv, trainer

_COMPILED = Engine(compile=True, attack_copy=False)
_PGD = PGD(eps=0.1, step_size=0.05, steps=2)


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """Compile without an optimising backend, and count programs by whether weights are trained."""
    made = Counter()

    def backend(graph, inputs):
        trained = any(isinstance(value, nn.Parameter) and value.requires_grad for value in inputs)
        made["training" if trained else "attack"] += 1
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    monkeypatch.setattr(compilation, "_BACKEND", backend)
    return made


def batches():
    """Give three batches of 9 images and one of 1."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(28, 1, 8, 8, generator=generator), torch.randint(10, (28,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=9)


def fitted(engine, *, settings=None, **arguments):
    torch.manual_seed(0)
    # objectives may hold state
    arguments = copy.deepcopy({"network": conv(norm="batch"), "attack": _PGD, **arguments})
    model = AdversarialClassifier(**arguments, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), engine=engine)
    trainer(**{"max_epochs": 2, **(settings or {})}).fit(model, batches(), batches())
    return model


def assert_alike(model, other, tolerance=1e-4):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


def in_mode(mode):
    return PGD(eps=0.1, step_size=0.05, steps=2, model_mode=mode)


CASES = {
    "pgd": ({"eps_warmup_epochs": 2}, 1, 1),
    "train": ({"attack": in_mode("train")}, 1, 1),
    "trades": ({"objective": TRADES()}, 1, 1),
    "fgsm_rs": ({"attack": FGSM(eps=0.1, random_start=True, model_mode="batch_stats")}, 1, 1),
    # at the top, BatchNorm keeps its statistics: another program of training
    "awp": ({"weight_perturbation": AWP()}, 1, 2),
    "free": ({"objective": FreeAT(replays=2)}, 0, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_compiled_training_gives_the_weights_and_statistics_of_eager_training(name, programs):
    arguments, attacks, trainings = CASES[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without torch.compile.*")
        compiled = fitted(_COMPILED, **arguments)
    assert programs == Counter({"attack": attacks, "training": trainings}) - Counter()
    assert compiled._programs._programs == {}
    eager = fitted(None, **arguments)
    assert_alike(compiled, eager)
    # 4 batches in each of 2 epochs
    passes = {"trades": 16, "train": 24, "free": 16}.get(name, 8)
    assert eager.network.features[1].num_batches_tracked == passes


def test_the_optimising_compiler_gives_them_as_well(monkeypatch):
    monkeypatch.setattr(compilation, "_BACKEND", "inductor")
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    arguments = {"network": network}
    compiled = fitted(_COMPILED, **arguments)
    assert_alike(compiled, fitted(None, **arguments))


def test_the_copy_for_attacks_follows_compiled_statistics(programs):
    apart = []

    def see(fitting, model, batch):
        model.network.eval()
        apart.append((model._copy[0](batch[0]) - model.network(batch[0])).abs().max().item())
        model.network.train()

    compiled = fitted(Engine(compile=True, channels_last=True), settings={"callbacks": [AtBatches(see)]})
    # the copy is attacked, so that there is one program alone
    assert programs == {"training": 1}
    assert_alike(compiled, fitted(None))
    assert len(apart) == 8
    assert max(apart) < 1e-4


def test_clean_training_is_compiled_too(programs):
    results = []
    for engine in (Engine(compile=True), None):
        torch.manual_seed(0)
        model = RegularizedClassifier(conv(norm="batch"), engine=engine)
        trainer(max_epochs=2).fit(model, batches(), batches())
        results.append(model)
    assert programs == {"training": 1}
    assert_alike(*results)


def test_low_precision_is_compiled_with_its_casts(programs):
    settings = {"precision": "bf16-mixed"}
    compiled = fitted(_COMPILED, settings=settings)
    assert programs == {"attack": 1, "training": 1}
    # signs of gradients of a few units in the last place differ
    assert_alike(compiled, fitted(None, settings=settings), tolerance=0.05)


def test_objectives_that_share_a_pass_train_with_two(programs):
    attack = FGSM(eps=0.1, model_mode="batch_stats")
    model = fitted(_COMPILED, objective=LIET(), attack=attack)
    assert programs == {"attack": 1, "training": 1}
    assert all(value.isfinite().all() for value in model.network.state_dict().values())


@pytest.mark.parametrize("objective", [GradAlign(), AverageOverAttacks(GradAlign())], ids=["alone", "inside"])
def test_double_backward_stays_eager(objective, programs):
    assert objective.double_backward
    assert not PGDAT().double_backward
    attack = FGSM(eps=0.1)
    if isinstance(objective, AverageOverAttacks):
        attack = WorstOf([attack, FGSM(eps=0.05)])
    compiled = fitted(_COMPILED, objective=objective, attack=attack)
    assert programs == {}
    assert_alike(compiled, fitted(None, objective=objective, attack=attack), tolerance=0)


def test_a_smaller_batch_first_does_not_keep_the_others_from_being_compiled(programs):
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    work = compilation.Programs()
    for size in (2, 4, 4, 3, 4):
        x = torch.rand(size, 1, 2, 2)
        with work.at_work(module, x):
            module(x).sum().backward()
    assert programs == {"training": 2}


def test_passes_without_gradient_and_outside_are_not_compiled(programs):
    module, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
    work = compilation.Programs()
    with work.at_work(module, x), torch.no_grad():
        module(x)
    module(x)
    assert programs == {}
    assert module._compiled_call_impl is None


def test_an_error_within_leaves_the_network_as_it_was():
    module, x = nn.Linear(4, 3), torch.rand(2, 4)
    with pytest.raises(KeyError), compilation.Programs().at_work(module, x):
        raise KeyError
    assert module._compiled_call_impl is None


def test_hooks_of_the_network_run(programs):
    module, x, seen = nn.Linear(4, 3), torch.rand(2, 4), []
    module.register_forward_hook(lambda net, inputs, output: seen.append(len(inputs)) or 2 * output)
    with compilation.Programs().at_work(module, x):
        logits = module(x)
    torch.testing.assert_close(logits, 2 * (x @ module.weight.T + module.bias))
    assert len(seen) > 0


def test_programs_follow_weights_statistics_and_modes():
    module, x = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), torch.rand(8, 4)
    work = compilation.Programs()
    for step in range(3):
        for training in (True, False):
            module.train(training)
            twin = copy.deepcopy(module)
            with work.at_work(module, x):
                logits = module(x)
            torch.testing.assert_close(logits, twin(x))
            torch.testing.assert_close(module[0].running_mean, twin[0].running_mean)
        with torch.no_grad():
            module[1].weight.mul_(2)
            module[0].running_var.add_(step)


def test_the_trial_leaves_statistics_and_random_numbers_alone(programs):
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    x, state = torch.rand(8, 4), torch.get_rng_state()
    with compilation.Programs().at_work(module, x):
        module(x)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    twin = copy.deepcopy(module)
    twin[0].reset_running_stats()
    twin(x)
    assert module[0].num_batches_tracked == 1
    torch.testing.assert_close(module[0].running_mean, twin[0].running_mean)
    assert torch.equal(torch.get_rng_state(), after)


# where it fails


def fails(graph, inputs):
    raise RuntimeError("no compiler is installed.\nTry another")


def test_without_a_compiler_training_goes_on_as_without_and_says_so_once(monkeypatch):
    monkeypatch.setattr(compilation, "_BACKEND", fails)
    with pytest.warns(UserWarning) as seen:
        model = fitted(_COMPILED)
    said = [str(w.message) for w in seen if "torch.compile" in str(w.message)]
    assert len(said) == 1
    assert said[0].startswith("MNISTConvNet is trained without torch.compile: ")
    assert "no compiler is installed" in said[0]
    assert_alike(model, fitted(None), tolerance=0)


def test_an_error_of_the_network_is_its_own():
    module, x = nn.Linear(5, 3), torch.rand(2, 4)
    with (
        pytest.warns(UserWarning, match="Linear is trained without torch.compile"),
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        compilation.Programs().at_work(module, x),
    ):
        module(x)


def test_a_network_that_is_compiled_already_is_left_alone(programs):
    own = []
    module, x = nn.Linear(4, 3), torch.rand(2, 4)
    module.compile(backend=lambda graph, inputs: own.append(graph) or graph.forward)
    mine = module._compiled_call_impl
    with compilation.Programs().at_work(module, x):
        module(x).sum().backward()
    assert module._compiled_call_impl is mine
    assert (len(own), programs) == (1, {})


def test_a_compiler_that_fails_later_loses_nothing_either(monkeypatch, programs):
    calls = []
    works = compilation._BACKEND

    def fails_the_second_time(graph, inputs):
        calls.append(graph)
        return works(graph, inputs) if len(calls) == 1 else fails(graph, inputs)

    monkeypatch.setattr(compilation, "_BACKEND", fails_the_second_time)
    module, x, work = nn.BatchNorm1d(4), torch.rand(8, 4), compilation.Programs()
    with work.at_work(module, x):
        module(x)
    module.eval()
    with work.at_work(module, x), pytest.warns(UserWarning, match="without torch.compile: no compiler is installed"):
        logits = module(x)
    torch.testing.assert_close(logits, module(x))
    assert len(calls) == 2
    assert module.num_batches_tracked == 1


def test_cuda_graphs_without_cuda_have_no_effect(programs):
    module, x = nn.Linear(4, 3), torch.rand(2, 4)
    work = compilation.Programs(cuda_graphs=True)
    with work.at_work(module, x), pytest.warns(UserWarning, match="cuda_graphs has no effect on device 'cpu'"):
        module(x)
    assert programs == {"training": 1}

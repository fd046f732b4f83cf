"""Weight perturbations inside the two classifiers and a Trainer."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.augmentations import InputNoise
from lightning_advreg.callbacks import BatchAugmentation
from lightning_advreg.constraints import MaxNorm
from lightning_advreg.perturbations.awp import AWP
from lightning_advreg.perturbations.sam import ASAM

from .training import BATCHES, SGD, At, Data, adversarial, each_perturbation, equal, fit, regularized, weights


def literal_loop(network, perturbation, *, attack=None, constraint=None, epochs=1, accumulated=1, starts=0):
    """The training written out: moves by the formula, momentum by hand."""
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    total = [torch.zeros_like(p) for p in network.parameters()]
    step = 0
    for _ in range(epochs):
        for x, y in Data().train_dataloader():
            active = step >= starts
            x = x if attack is None else attack(network, x, y)
            first = copy.deepcopy(network)
            nn.functional.cross_entropy(first(x), y).backward()
            moved = copy.deepcopy(network)
            names = dict(network.named_parameters())
            gradients = {name: p.grad for name, p in first.named_parameters()}
            if not active:
                moves = {}
            elif isinstance(perturbation, AWP):
                kernels = {name: g for name, g in gradients.items() if names[name].dim() > 1}
                moves = {n: perturbation.gamma * names[n].norm() / g.norm() * g for n, g in kernels.items()}
            else:
                scales = {n: names[n].abs() + perturbation.eta for n in names} if isinstance(perturbation, ASAM) else {}
                norm = sum((scales.get(n, 1) * g).square().sum() for n, g in gradients.items()).sqrt()
                moves = {n: perturbation.rho * scales.get(n, 1) ** 2 * g / norm for n, g in gradients.items()}
            for name, parameter in moved.named_parameters():
                parameter.data += moves[name].detach() if name in moves else 0
            loss = nn.functional.cross_entropy(moved(x), y)
            loss = loss + 0.005 * sum(p.square().sum() for p in moved.parameters() if p.dim() > 1)
            for into, grad in zip(total, torch.autograd.grad(loss, list(moved.parameters())), strict=True):
                into += grad / accumulated
            followed = moved if isinstance(perturbation, AWP) or not active else first
            for buffer, other in zip(network.buffers(), followed.buffers(), strict=True):
                buffer.copy_(other)
            step += 1
            if step % accumulated == 0:
                for parameter, v, grad in zip(network.parameters(), velocity, total, strict=True):
                    v.mul_(0.9).add_(grad)
                    parameter.data -= 0.05 * v
                    grad.zero_()
                if constraint is not None:
                    constraint.project_(network)
    return network


def assert_same_network(network, reference):
    for (name, ours), theirs in zip(network.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@each_perturbation
def test_both_passes_see_the_same_augmented_batch(perturbation):
    seen = []

    def watch(*_):
        model.network.register_forward_pre_hook(
            lambda net, args: seen.append(args[0].clone()) if net.training else None
        )

    model = regularized(perturbation)
    fit(model, callbacks=[BatchAugmentation([InputNoise(std=0.1)]), At(watch, "on_train_start")])
    first, second = seen[::2], seen[1::2]
    assert len(first) == len(second) == BATCHES
    for one, two, (x, _) in zip(first, second, Data().train_dataloader(), strict=True):
        assert one.equal(two) and 0.02 < (one - x).std() < 0.1


@each_perturbation
@pytest.mark.parametrize("accumulated", [1, 2])
def test_adversarial_training_equals_a_literal_loop(perturbation, accumulated):
    model = adversarial(perturbation)
    reference = copy.deepcopy(model.network)
    fit(model, max_epochs=2, accumulate_grad_batches=accumulated)
    assert model.attack.sizes == [8] * 2 * BATCHES  # once a batch
    literal_loop(reference, perturbation, attack=PGD(eps=0.1, step_size=0.05, steps=3, seed=1), epochs=2,
                 accumulated=accumulated)  # fmt: skip
    assert_same_network(model.network, reference)


@each_perturbation
def test_regularised_training_equals_a_literal_loop(perturbation):
    model = regularized(perturbation)
    reference = copy.deepcopy(model.network)
    fit(model, max_epochs=2)
    assert_same_network(model.network, literal_loop(reference, perturbation, epochs=2))


@each_perturbation
def test_limits_are_enforced_at_w(perturbation):
    limit = MaxNorm(0.4)
    model = regularized(perturbation, constraints=[limit])
    reference = copy.deepcopy(model.network)
    limit.project_(reference)
    fit(model)
    assert max(p.flatten(1).norm(dim=1).max() for p in model.network.parameters() if p.dim() > 1) <= 0.4 + 1e-6
    assert_same_network(model.network, literal_loop(reference, perturbation, constraint=limit))


@pytest.mark.parametrize("start_epoch", [1, 0.5])
def test_it_starts_when_it_should(start_epoch):
    model = regularized(AWP(gamma=0.3, start_epoch=start_epoch))
    reference = copy.deepcopy(model.network)
    fit(model, max_epochs=2)
    literal_loop(reference, AWP(gamma=0.3), epochs=2, starts=int(start_epoch * BATCHES))
    assert_same_network(model.network, reference)


@each_perturbation
def test_the_attack_meets_w(perturbation):
    model, at_start = adversarial(perturbation), []
    fit(model, callbacks=[At(lambda t, m: at_start.append(weights(m.network)), "on_train_batch_start")])
    assert all(equal(a, b) for a, b in zip(at_start, model.attack.weights, strict=True))


class Stop(Exception):
    pass


def raising(error, when):
    """A model that fails in one place of its third step, while its weights are moved."""
    model = adversarial(AWP(gamma=0.5))

    def fail_in(place):
        if when == place and model._climb is not None and model.global_step == 2:
            raise error

    def penalty(network):
        fail_in("penalty")
        return 0.01 * sum(p.square().sum() for p in network.parameters())

    def watch_backward(module, inputs, output):
        if output.requires_grad:
            output.register_hook(lambda grad: fail_in("backward"))

    model.penalties = {"failing": penalty}
    model.network.classifier[0].register_forward_hook(watch_backward)
    model.network.register_forward_hook(lambda *_: fail_in("pass"))
    return model


@pytest.mark.parametrize("error", [Stop(), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("when", ["pass", "penalty", "backward"])
def test_an_error_within_the_step_leaves_w_behind_in_memory_and_on_disk(error, when, tmp_path):
    model, before = raising(error, when), []
    note = At(lambda t, m: before.append(weights(m.network)), "on_train_batch_start")
    saving = ModelCheckpoint(tmp_path, filename="saved", save_on_exception=True)
    with pytest.raises((Stop, SystemExit)):
        fit(model, callbacks=[note, saving], enable_checkpointing=True)
    assert len(before) == 3
    assert equal(weights(model.network), before[2])
    stored = torch.load(next(tmp_path.glob("*.ckpt")), weights_only=True)["state_dict"]
    assert equal([stored[f"network.{name}"] for name, _ in model.network.named_parameters()], before[2])


@each_perturbation
def test_checkpoints_hold_w_and_rebuild_the_perturbation(perturbation, tmp_path):
    seen = []

    def save(trainer, module):
        trainer.save_checkpoint(tmp_path / f"{len(seen)}.ckpt")
        seen.append(weights(module.network))

    model = adversarial(perturbation, attack=PGD(eps=0.1, steps=1))
    fit(model, callbacks=[At(save, "on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")])
    assert len(seen) == 3 * BATCHES
    for index, expected in enumerate(seen):
        stored = torch.load(tmp_path / f"{index}.ckpt", weights_only=True)
        assert equal([stored["state_dict"][f"network.{n}"] for n, _ in model.network.named_parameters()], expected)
    # step by step: at w before the optimizer's step, which then moves it
    assert all(equal(seen[i], seen[i + 1]) and not equal(seen[i + 1], seen[i + 2]) for i in range(0, len(seen), 3))
    described = stored["hyper_parameters"]["weight_perturbation"]
    assert described["class_path"].endswith(f".{type(perturbation).__name__}")
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "0.ckpt", optimizer=SGD)
    assert loaded.weight_perturbation == perturbation


@each_perturbation
def test_bf16_autocast_differentiates_at_the_moved_weights(perturbation):
    ends = []
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        model = regularized(perturbation)
        begin = weights(model.network)
        fit(model, max_epochs=2, precision=precision)
        ends.append(torch.cat([(p - b).detach().flatten() for p, b in zip(model.network.parameters(), begin,
                                                                           strict=True)]))  # fmt: skip
    torch.manual_seed(0)
    model = regularized(None)
    begin = weights(model.network)
    fit(model, max_epochs=2)
    plain = torch.cat([(p - b).detach().flatten() for p, b in zip(model.network.parameters(), begin, strict=True)])
    # nearer to the same in float32 than to training without
    assert (ends[1] - ends[0]).norm() < 0.5 * (plain - ends[0]).norm()

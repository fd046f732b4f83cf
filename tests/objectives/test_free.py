"""One backward pass for weights and images, and a perturbation that goes from batch to batch."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.objectives.free import FreeAT
from tests.modules.parts import AtBatches, conv, digits, trainer

EPS, RATE, REPLAYS = 0.2, 0.5, 3
ATTACK = FGSM(eps=EPS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))


@pytest.fixture
def net():
    return network().double().train()


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 6, 6, generator=generator)
    # pixels on the box's boundary, where the perturbation is cut
    x[:, :, 0] = x[:, :, 0].round()
    return x, torch.randint(5, (count,), generator=generator)


def batches(sizes, seed=1):
    x, y = images(sum(sizes), seed)
    return list(zip(x.double().split(sizes), y.split(sizes), strict=True))


def literal(net, data, rates, *, eps=EPS, replays=REPLAYS, smoothing=0.0, momentum=0.0):
    """Algorithm 1 of the paper in the box, with SGD written out; gives losses and the perturbation."""
    delta, losses = None, []
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    for (x, y), rate in zip(data, rates, strict=True):
        if delta is None:
            delta = torch.zeros_like(x)
        n = len(x)
        for _ in range(replays):
            x_adv = (x + delta[:n]).clamp(0, 1).requires_grad_()
            log_p = torch.log_softmax(net(x_adv), 1)
            target = torch.full_like(log_p, smoothing / log_p.shape[1])
            for i in range(n):
                target[i, y[i]] += 1 - smoothing
            loss = -(target * log_p).sum() / n
            *weight_grads, image_grad = torch.autograd.grad(loss, [*net.parameters(), x_adv])
            with torch.no_grad():
                for p, grad, v in zip(net.parameters(), weight_grads, velocity, strict=True):
                    v.mul_(momentum).add_(grad)
                    p.sub_(rate * v)
                delta[:n] = (delta[:n] + eps * image_grad.sign()).clamp(-eps, eps)
            losses.append(loss.detach())
    return losses, delta


def train(net, objective, data, attack=ATTACK):
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=RATE), []
    for x, y in data:
        for _ in range(objective.replays):
            optimizer.zero_grad()
            loss = objective(net, x, y, attack).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return losses


def settled(objective):
    """The perturbation, with the move that waits for the next step."""
    return objective.state_dict()["_extra_state"]


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
@pytest.mark.parametrize("sizes", [[6, 6, 6], [6, 6, 2, 6]], ids=["even", "a smaller batch"])
def test_losses_weights_and_perturbation_equal_the_algorithm(net, sizes, smoothing):
    reference, data = copy.deepcopy(net), batches(sizes)
    expected, delta = literal(reference, data, [RATE] * len(sizes), smoothing=smoothing)
    objective = FreeAT(replays=REPLAYS, label_smoothing=smoothing)
    losses = train(net, objective, data)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), atol=1e-10, rtol=0)
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    torch.testing.assert_close(settled(objective), delta)


def test_rows_beyond_a_smaller_batch_wait(net):
    objective, data = FreeAT(replays=1), batches([6, 2])
    train(net, objective, data[:1])
    before = settled(objective).clone()
    assert (before.abs() == EPS).all()
    train(net, objective, data[1:])
    after = settled(objective)
    assert after.shape == before.shape
    assert torch.equal(after[2:], before[2:])
    assert not torch.equal(after[:2], before[:2])


def test_a_larger_batch_starts_its_new_rows_at_zero(net):
    objective, ((x, y), (more, labels)) = FreeAT(replays=1), batches([2, 6])
    train(net, objective, [(x, y)])
    before = settled(objective).clone()
    (x_adv,) = objective.craft(net, more, labels, ATTACK)
    torch.testing.assert_close(x_adv[:2], (more[:2] + before).clamp(0, 1))
    assert torch.equal(x_adv[2:], more[2:])


class Passes(torch.autograd.Function):
    forwards = backwards = 0

    @staticmethod
    def forward(ctx, x):
        Passes.forwards += 1
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Passes.backwards += 1
        return grad


def test_a_replay_costs_one_pass_forward_and_one_back(net):
    model = nn.Sequential(Lambda(Passes.apply), *net)
    Passes.forwards = Passes.backwards = 0
    train(model, FreeAT(replays=4), batches([6, 6]))
    assert (Passes.forwards, Passes.backwards) == (8, 8)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("without", ["backward", "autograd.grad", "no_grad"])
def test_nothing_moves_without_a_backward_pass(net, without):
    objective, ((x, y),) = FreeAT(), batches([6])
    train(net, objective, [(x, y)])
    before = settled(objective).clone()
    with torch.set_grad_enabled(without != "no_grad"):
        loss = objective(net, x, y, ATTACK).loss
    if without == "autograd.grad":
        torch.autograd.grad(loss, list(net.parameters()))
    assert torch.equal(settled(objective), before)
    objective(net, x, y, ATTACK)
    assert torch.equal(settled(objective), before)


def test_a_first_pass_for_the_weights_alone_does_not_move_it_twice(net):
    """As AWP and SAM do it: craft once, take the loss twice."""
    objective, ((x, y),) = FreeAT(), batches([6])
    crafted = objective.craft(net, x, y, ATTACK)
    torch.autograd.grad(objective.loss(net, x, y, crafted).loss, list(net.parameters()))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(-1)
    loss = objective.loss(net, x, y, crafted).loss
    (there,) = torch.autograd.grad(loss, crafted, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(settled(objective), EPS * there.sign())


@pytest.mark.parametrize("scale", [2.0**16, 1e-6])
def test_a_scaled_loss_moves_it_as_far(net, scale):
    objective, ((x, y),) = FreeAT(), batches([6])
    plain = FreeAT()
    plain(net, x, y, ATTACK).loss.backward()
    (scale * objective(net, x, y, ATTACK).loss).backward()
    assert torch.equal(settled(objective), settled(plain))


def test_an_overflow_leaves_no_undefined_pixel(net):
    objective, ((x, y),) = FreeAT(), batches([6])
    (torch.inf * objective(net, x, y, ATTACK).loss).backward()
    assert settled(objective).isfinite().all()
    (torch.nan * objective(net, x, y, ATTACK).loss).backward()
    assert settled(objective).isfinite().all()


def test_it_stays_within_the_budget_of_the_moment(net):
    """During a warm-up eps grows; a move belongs to the budget under which its gradient was taken."""
    objective, ((x, y),) = FreeAT(), batches([6])
    for eps in (0.1, 0.3, 0.05):
        output = objective.craft(net, x, y, FGSM(eps=eps))
        assert (output[0] - x).abs().max() <= eps + 1e-12
        objective.loss(net, x, y, output).loss.backward()
        assert settled(objective).abs().max() == pytest.approx(eps)
    train(net, objective, [(x, y)], FGSM(eps=0))
    (x_adv,) = objective.craft(net, x, y, FGSM(eps=0))
    assert torch.equal(x_adv, x)


def test_pixels_cut_by_the_box_still_turn():
    """A black pixel whose perturbation points below 0 comes back when the gradient turns."""
    objective, model = FreeAT(), nn.Flatten()
    x, y = torch.tensor([[[[0.0, 0.5]]]]), torch.tensor([0])
    for label in (y, 1 - y):
        objective(model, x, label, ATTACK).loss.backward()
    # the first step moved by (-eps, eps), the second back by (eps, -eps)
    torch.testing.assert_close(settled(objective), torch.zeros_like(x))


def test_half_precision_images_stay_within_the_budget():
    objective, net = FreeAT(), network()
    x, y = images(6)
    half = x.bfloat16()
    for _ in range(3):
        (x_adv,) = crafted = objective.craft(net, half, y, ATTACK)
        objective.loss(lambda z: net(z.float()), half, y, crafted).loss.backward()
        assert x_adv.dtype == torch.bfloat16
        assert (x_adv.float() - half.float()).abs().max() <= EPS
    assert settled(objective).dtype == torch.float32


def test_the_state_dict_brings_the_perturbation_to_another_objective(net, tmp_path):
    objective, data = FreeAT(replays=2), batches([6, 6])
    train(net, objective, data[:1])
    path = tmp_path / "state.pt"
    torch.save({"objective": objective.state_dict(), "net": net.state_dict()}, path)
    stored = torch.load(path, weights_only=True)
    other, clone = FreeAT(replays=2), network().double().train()
    other.load_state_dict(stored["objective"])
    clone.load_state_dict(stored["net"])
    assert stored["objective"]["_extra_state"].abs().max() == EPS
    train(net, objective, data[1:])
    train(clone, other, data[1:])
    for ours, theirs in zip(clone.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(settled(other), settled(objective))


def test_loading_forgets_the_gradient_that_waits_and_keeps_its_own_tensor(net):
    objective, ((x, y),) = FreeAT(), batches([6])
    train(net, objective, [(x, y)])
    state = copy.deepcopy(objective.state_dict())
    objective(net, x, y, ATTACK).loss.backward()
    objective.load_state_dict(state)
    assert torch.equal(settled(objective), state["_extra_state"])
    before = state["_extra_state"].clone()
    train(net, objective, [(x, y)])
    assert torch.equal(state["_extra_state"], before)


def test_it_follows_the_images_in_type_and_place(net):
    objective, ((x, y),) = FreeAT(replays=1), batches([6])
    train(net, objective, [(x, y)])
    (x_adv,) = objective.craft(net, x.float(), y, ATTACK)
    assert x_adv.dtype == objective.delta.dtype == torch.float32
    (x_adv,) = objective.craft(net, x.to("meta"), y, ATTACK)
    assert x_adv.device.type == objective.delta.device.type == "meta"


def test_other_processes_keep_their_own(net):
    """DistributedDataParallel copies buffers of the first process to the others before every pass."""
    objective = FreeAT()
    train(net, objective, batches([6]))
    assert list(objective.buffers()) == []


def data_of(count=40):
    x, y = images(count)
    return {"train_dataloaders": DataLoader(TensorDataset(x, y), batch_size=16)}


def classifier(objective=None, **settings):
    return AdversarialClassifier(
        **{
            "network": network(),
            "attack": ATTACK,
            "objective": FreeAT(replays=REPLAYS) if objective is None else objective,
            "optimizer": partial(torch.optim.SGD, lr=RATE, momentum=0.9),
            "lr_scheduler": LinearOneCycle,
            **settings,
        }
    )


def test_training_equals_the_algorithm():
    model, rates = classifier(), []
    see = AtBatches(lambda t, m, batch: rates.append(t.optimizers[0].param_groups[0]["lr"]))
    fitting = trainer(max_epochs=2, callbacks=[see], limit_val_batches=0)
    fitting.fit(model, **data_of())

    # the schedule moves once for each of the six batches, after its replays
    schedule = LinearOneCycle(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=RATE), total_steps=6)
    expected = []
    for _ in range(6):
        expected += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    # a batch ends after the schedule has moved
    assert rates[:-1] == pytest.approx(expected[1:])

    reference = network().train()
    data = [batch for _ in range(2) for batch in data_of()["train_dataloaders"]]
    losses, delta = literal(reference, data, expected, momentum=0.9)
    assert len(losses) == 6 * REPLAYS
    for ours, theirs in zip(model.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(settled(model.objective), delta, atol=1e-6, rtol=0)
    # each of the forward passes updates the statistics once
    assert model.network[1].num_batches_tracked == 6 * REPLAYS
    # Lightning counts a batch as one step, as does the schedule
    assert fitting.global_step == 6


class InterruptAt(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            raise KeyboardInterrupt


@pytest.mark.parametrize("middle", [True, False], ids=["within an epoch", "after an epoch"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, middle):
    def fit(seed, **arguments):
        torch.manual_seed(seed)
        model = classifier(network=conv(norm="batch", dropout=0.3))
        callbacks = arguments.pop("callbacks", [])
        fitting = trainer(max_epochs=2, limit_val_batches=0, enable_checkpointing=bool(callbacks), callbacks=callbacks)
        fitting.fit(model, datamodule=digits(train_size=48), **arguments)
        return model

    saving = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=-1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(0, callbacks=[InterruptAt(), saving])
    path = tmp_path / "last.ckpt" if middle else next(tmp_path.glob("*step=3.ckpt"))
    stored = torch.load(path, weights_only=True)
    assert stored["global_step"] == (4 if middle else 3)
    assert stored["state_dict"]["objective._extra_state"].shape == (16, 1, 8, 8)

    whole, rest = fit(0), fit(99, ckpt_path=path, weights_only=True)
    for ours, theirs in zip(rest.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(settled(rest.objective), settled(whole.objective))


def test_a_checkpoint_rebuilds_the_objective(tmp_path):
    model = classifier(FreeAT(replays=2, label_smoothing="1/10"))
    fitting = trainer(max_epochs=1, limit_val_batches=0)
    fitting.fit(model, **data_of())
    fitting.save_checkpoint(tmp_path / "model.ckpt")
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "model.ckpt", network=network())
    assert (loaded.objective.replays, loaded.replays, loaded.objective.label_smoothing) == (2, 2, 0.1)
    assert torch.equal(settled(loaded.objective), settled(model.objective))


class Shift(Attack):
    def __call__(self, model, x, y):
        return x


def test_attacks_it_cannot_take_the_budget_of_are_refused(net):
    ((x, y),) = batches([6])
    with pytest.raises(TypeError, match=r"FreeAT needs the budget of the attack.*`radius`"):
        FreeAT()(net, x, y, Shift())
    with pytest.raises(ValueError, match="FreeAT is defined for attacks in 'linf', got norm 'l2'"):
        FreeAT()(net, x, y, PGD(norm="l2", eps=1.0))


def test_images_of_another_shape_are_refused(net):
    objective, ((x, y),) = FreeAT(), batches([6])
    objective(net, x, y, ATTACK)
    with pytest.raises(ValueError, match=r"must keep their shape \(1, 6, 6\), got \(1, 5, 6\); resize .* FreeAT\(\)"):
        objective(net, x[:, :, 1:], y, ATTACK)


@pytest.mark.parametrize("replays", [0, -1, 2.0, True, "8"])
def test_a_bad_number_of_replays_is_refused(replays):
    with pytest.raises(ValueError, match="replays must be an integer of at least 1"):
        FreeAT(replays=replays)


@pytest.mark.parametrize(("smoothing", "message"), [(1, "must be less than 1, got 1"), (-0.1, "must be at least 0")])
def test_a_bad_label_smoothing_is_refused(smoothing, message):
    with pytest.raises(ValueError, match=f"label_smoothing {message}"):
        FreeAT(label_smoothing=smoothing)

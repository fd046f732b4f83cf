import copy

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import CW, FGSM, PGD
from lightning_advreg.modules.hyperparameters import describe
from lightning_advreg.objectives import nuat
from lightning_advreg.objectives.gat import GAT
from lightning_advreg.objectives.liet import LIET
from lightning_advreg.objectives.nuat import NuAT, nuclear_norm
from lightning_advreg.objectives.pgi import PGI

from ..modules.parts import conv, digits, trainer

EPS = 0.1
ATTACK = FGSM(eps=EPS)
METHODS = [NuAT, GAT, LIET, PGI]


def make_net(dropout=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(64, 5)
    )
    # statistics of training, so that eval and train modes differ
    model(torch.rand(32, 1, 6, 6))
    return model.double().train()


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    x = torch.rand(6, 1, 6, 6).double()
    # some pixels at the walls of the box
    return (1.2 * x - 0.1).clamp(0, 1), torch.tensor([0, 1, 2, 3, 4, 0])


def literal_step(start, x, value, eps=EPS):
    """One step of ``eps`` from the start, with the gradient of ``value(images)``, pixel bounds in plain view."""
    images = start.clone().requires_grad_()
    value(images).backward()
    x_adv = start + eps * images.grad.sign()
    return torch.maximum(torch.minimum(x_adv, x + eps), x - eps).clamp(0, 1).detach()


def literal_cross_entropy(logits, y):
    return -torch.stack([z[k] - z.exp().sum().log() for z, k in zip(logits, y, strict=True)]).mean()


def literal_nuclear_norm(matrix):
    return torch.linalg.eigvalsh(matrix.T @ matrix).sqrt().sum()


def assert_same_loss_and_gradients(output, net, expected, reference):
    torch.testing.assert_close(output.loss, expected)
    gradients = [
        torch.autograd.grad(loss, list(model.parameters()))
        for loss, model in ((output.loss, net), (expected, reference))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def count_passes(net):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    return calls


@pytest.mark.parametrize("step", [6, 7])
def test_loss_and_gradients_equal_the_formula(net, batch, step):
    x, y = batch
    weight = 4.0 * 0.25
    reference = copy.deepcopy(net)
    torch.manual_seed(5)
    start = (x + EPS / 2 * (2 * torch.empty_like(x).bernoulli_() - 1)).clamp(0, 1)

    def inner(images):
        logits = reference(images)
        value = literal_cross_entropy(logits, y)
        if step % 2:
            value = value + weight * literal_nuclear_norm(logits - reference(x).detach()) / 6
        return value

    reference.eval()
    x_adv = literal_step(start, x, inner)
    reference.train()
    difference = reference(x_adv) - reference(x)
    expected = literal_cross_entropy(reference(x), y) + weight * literal_nuclear_norm(difference) / 6

    torch.manual_seed(5)
    objective = NuAT().during(0.25, step)
    crafted = objective.craft(net, x, y, ATTACK)
    torch.testing.assert_close(crafted[0], x_adv)
    output = objective.loss(net, x, y, crafted)
    assert_same_loss_and_gradients(output, net, expected, reference)
    torch.testing.assert_close(output.logits, net(x))
    torch.testing.assert_close(output.logits_adv, net(x_adv))


def test_the_norm_in_the_step_changes_it(net, batch):
    # otherwise the parity of the step, tested above, would not matter
    stepped = []
    for step in (0, 1):
        torch.manual_seed(0)
        stepped.append(NuAT(weight=50).during(1.0, step).craft(net, *batch, ATTACK)[0])
    assert not torch.equal(*stepped)


def test_the_weight_rises_linearly_and_is_whole_outside_of_training(net, batch):
    net.eval()
    crafted = NuAT().craft(net, *batch, ATTACK)
    losses = [NuAT().during(p, 0).loss(net, *batch, crafted).loss for p in (0, 0.25, 0.5, 1)]
    rises = torch.stack(losses) - losses[0]
    torch.testing.assert_close(rises / rises[-1], torch.tensor([0, 0.25, 0.5, 1]).double())
    torch.testing.assert_close(losses[0], nn.functional.cross_entropy(net(batch[0]), batch[1]))
    torch.testing.assert_close(NuAT().loss(net, *batch, crafted).loss, losses[-1])


@pytest.mark.parametrize(("progress", "step", "passes"), [(0.5, 0, 3), (0.5, 1, 4), (0.0, 1, 3)])
def test_number_of_passes(net, batch, progress, step, passes):
    calls = count_passes(net)
    NuAT().during(progress, step)(net, *batch, ATTACK)
    assert len(calls) == passes


@pytest.mark.parametrize(
    "matrix",
    [torch.zeros(4, 3), torch.eye(3), torch.ones(4, 3), torch.full((2, 3), 1e-30), torch.zeros(1, 5)],
    ids=["zero", "equal", "rank one", "tiny", "one row"],
)
def test_the_gradient_of_the_nuclear_norm_is_a_subgradient_everywhere(matrix):
    leaf = matrix.clone().requires_grad_()
    nuclear_norm(leaf).backward()
    assert leaf.grad.isfinite().all()
    assert torch.linalg.matrix_norm(leaf.grad, ord=2) <= 1 + 1e-5
    torch.testing.assert_close((leaf.grad * matrix).sum(), nuclear_norm(matrix))


def test_the_nuclear_norm_is_taken_in_float32():
    matrix = torch.randn(16, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = nuclear_norm(matrix)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, torch.linalg.svdvals(matrix.float()).sum())
    assert nuclear_norm(matrix.double()).dtype == torch.float64


def test_a_budget_of_nothing_leaves_the_clean_loss(net, batch):
    # the first batch of an eps warm-up: the difference is a matrix of zeros
    output = NuAT()(net, *batch, FGSM(eps=0.0))
    assert output.loss.item() == pytest.approx(nn.functional.cross_entropy(net(batch[0]), batch[1]).item())
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_the_start_is_a_share_of_eps(batch):
    x, y = torch.full((2, 1, 6, 6), 0.5), torch.tensor([0, 1])
    seen = []

    def model(images):
        seen.append(images.detach().clone())
        return images.flatten(1)

    for share in ("1/2", 1.0):
        seen.clear()
        NuAT(start=share).during(1.0, 0).craft(model, x, y, ATTACK)
        moved = (seen[0] - x).unique()
        size = 0.1 * float(NuAT(start=share).start)
        torch.testing.assert_close(moved, torch.tensor([-size, size]))


@pytest.mark.parametrize(("mode", "updates"), [("eval", 0), ("batch_stats", 0), ("train", 2)])
def test_the_step_runs_in_the_mode_of_the_attack(net, batch, mode, updates):
    before = copy.deepcopy(net[1].state_dict())
    NuAT().craft(net, *batch, FGSM(eps=EPS, model_mode=mode))
    assert net[1].num_batches_tracked - before["num_batches_tracked"] == updates
    assert torch.equal(net[1].running_mean, before["running_mean"]) == (updates == 0)
    assert all(module.training for module in net.modules())


def test_plain_values_describe_what_was_chosen_alone():
    objective = NuAT(weight="9/2")
    described = describe(objective.during(0.5, 1))
    assert described["init_args"] == {"weight": 4.5, "start": 0.5}
    assert objective.during(0.5, 1) == objective == NuAT(weight=4.5)
    assert repr(objective) == "NuAT(weight=4.5, start=0.5)"
    assert objective._progress == 1.0, "during changed the objective itself"


@pytest.mark.parametrize("method", [NuAT, GAT])
def test_arguments_out_of_range_are_named(method):
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        method(weight=-1)
    with pytest.raises(ValueError, match=r"start must be at most 1, got 1\.5"):
        method(start=1.5)
    with pytest.raises(ValueError, match="start must be at least 0"):
        method(start=-0.5)


# what the four methods with a step of their own share


@pytest.mark.parametrize("method", METHODS)
def test_an_attack_without_a_budget_in_linf_is_refused(method, net, batch):
    with pytest.raises(
        ValueError, match=f"{method.__name__} is defined for attacks in 'linf', got norm 'l2'; use FGSM"
    ):
        method()(net, *batch, PGD(norm="l2", eps=1.0))
    with pytest.raises(
        TypeError,
        match=f"{method.__name__} needs the budget of the attack, and CW.* has no `radius`; use an attack with an eps",
    ):
        method()(net, *batch, CW())


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_attacked_images_lie_in_the_ball_and_the_box(method, batch, dtype, mode):
    x, y = batch[0].to(dtype), batch[1]
    model = make_net().to(dtype)
    objective, attack = method(), FGSM(eps=EPS, model_mode=mode)
    for _ in range(3):
        crafted = objective.craft(model, x, y, attack)
        images = crafted if method in (LIET, PGI) else crafted[:1]
        for moved in images[:2]:
            assert moved.dtype == dtype
            assert not moved.requires_grad
            assert moved.shape == x.shape
            assert moved.min() >= 0
            assert moved.max() <= 1
            assert (moved.double() - x.double()).abs().max() <= EPS * (1 + 1e-6)
        assert (crafted[0].double() - x.double()).abs().max() > EPS / 2


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_what_was_crafted_is_a_function_of_the_weights(method, net, batch):
    # weight perturbations take it twice; labels and noise drawn anew would differ
    objective = method()
    crafted = objective.craft(net, *batch, ATTACK)
    first, second = (objective.loss(net, *batch, crafted).loss for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        net[-1].weight.mul_(1.1)
    assert objective.loss(net, *batch, crafted).loss != first


@pytest.mark.parametrize("mode", ["eval", "batch_stats", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_it_runs_under_autocast(method, batch, mode):
    model, x, y = make_net(dropout=0.2).float(), batch[0].float(), batch[1]
    objective = method()
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            output = objective(model, x, y, FGSM(eps=EPS, model_mode=mode))
        assert output.loss.dtype == torch.float32
        model.zero_grad()
        output.loss.backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in list(model.parameters())[2:])


@pytest.mark.parametrize("mode", ["eval", "batch_stats", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method, net, batch, mode):
    net[1].eval()
    net[0].bias.requires_grad_(False)
    method()(net, *batch, FGSM(eps=EPS, model_mode=mode))
    assert [module.training for module in net.modules()] == [True, True, False, True, True, True, True]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert net[1].num_batches_tracked == 1, "a frozen layer was updated"


@pytest.mark.parametrize("method", METHODS)
def test_it_trains_and_comes_back_from_a_checkpoint(method, tmp_path, monkeypatch):
    weights = []
    monkeypatch.setattr(nuat, "nuclear_norm", lambda matrix: weights.append(1) or nuclear_norm(matrix))
    model = AdversarialClassifier(conv(norm="batch"), attack=FGSM(eps=0.2), objective=method(weight=3))
    fitting = trainer(max_epochs=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "last.ckpt")
    assert type(loaded.objective) is method
    assert loaded.objective.weight == 3
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    if method is NuAT:
        # twelve batches, six of them with the norm in the step: the trainer tells the objective which
        assert len(weights) == 12 + 6

import pytest
import torch
from torch import nn

from lightning_advreg.penalties import L1, L2, ElasticNet

PENALTIES = {"l1": L1(0.3), "l2": L2(0.3), "elastic": ElasticNet(0.3, 0.2)}
every_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


def with_biases(penalty):
    return type(penalty)(
        *([penalty.l1, penalty.l2] if isinstance(penalty, ElasticNet) else [penalty.weight]), include_biases=True
    )


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.double()


MATRICES = ["0.weight", "3.weight", "5.weight"]


def literal(values, l1, l2):
    return sum(l1 * abs(v) + l2 / 2 * v**2 for v in values)


@pytest.mark.parametrize(("name", "l1", "l2"), [("l1", 0.3, 0), ("l2", 0, 0.3), ("elastic", 0.3, 0.2)])
def test_values_equal_the_sum_over_weights(net, name, l1, l2):
    parameters = dict(net.named_parameters())
    weights = [v for key in MATRICES for v in parameters[key].flatten().tolist()]
    everything = [v for p in parameters.values() for v in p.flatten().tolist()]
    assert PENALTIES[name](net).item() == pytest.approx(literal(weights, l1, l2))
    assert with_biases(PENALTIES[name])(net).item() == pytest.approx(literal(everything, l1, l2))


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        ("l1", lambda w: 0.3 * w.sign()),
        ("l2", lambda w: 0.3 * w),
        ("elastic", lambda w: 0.3 * w.sign() + 0.2 * w),
    ],
)
def test_gradients(net, name, gradient):
    with torch.no_grad():
        net[3].weight[0] = 0  # where |w| has no derivative, a zero weight must stay zero
    PENALTIES[name](net).backward()
    for key, parameter in net.named_parameters():
        if key in MATRICES:
            torch.testing.assert_close(parameter.grad, gradient(parameter.detach()))
        else:
            assert parameter.grad is None


@every_penalty
def test_frozen_weights_are_left_out(net, penalty):
    full = penalty(net)
    part = penalty(net[0])
    net[0].weight.requires_grad_(False)
    torch.testing.assert_close(penalty(net), full - part)


@every_penalty
def test_tied_weights_count_once(penalty):
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    single = penalty(embedding)
    head.weight = embedding.weight
    torch.testing.assert_close(penalty(nn.Sequential(embedding, head)), single)


@every_penalty
def test_scales_of_a_layer_norm_over_images_are_no_weights(penalty):
    norm = nn.LayerNorm((3, 4, 4))
    assert penalty(norm).item() == 0
    assert with_biases(penalty)(norm).item() > 0


@every_penalty
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_value_is_on_the_device_of_the_weights_in_float32_at_least(penalty, dtype):
    for module in (nn.Linear(3, 2), nn.BatchNorm1d(3)):
        value = penalty(module.to(dtype))
        assert (
            value.dtype == torch.promote_types(dtype, torch.float32)
            and value.shape == ()
            and value.device.type == "cpu"
        )
        assert penalty(module.to("meta")).device.type == "meta"


@every_penalty
@pytest.mark.parametrize("module", [nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(2, 2).requires_grad_(False)])
def test_a_network_without_weights_costs_nothing(penalty, module):
    value = penalty(module)
    assert value.shape == () and value.item() == 0
    loss = torch.ones((), requires_grad=True) + value
    loss.backward()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1(-1), "weight must be at least 0, got -1"),
        (lambda: L2("-1e-3"), "weight must be at least 0, got '-1e-3'"),
        (lambda: L2("small"), "weight must be a number such as 0.03 or a fraction"),
        (lambda: ElasticNet(-1, 0), "l1 must be at least 0, got -1"),
        (lambda: ElasticNet(0, -2), "l2 must be at least 0, got -2"),
    ],
)
def test_coefficients_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_coefficients_are_read_as_text():
    assert L1("1e-4") == L1(1e-4)
    assert ElasticNet("1/2", "1e-4") == ElasticNet(0.5, 1e-4)


def test_l2_equals_the_weight_decay_of_sgd(net):
    x, y = torch.rand(8, 1, 4, 4, dtype=torch.float64), torch.arange(8) % 2
    results = []
    start = {key: value.clone() for key, value in net.state_dict().items()}
    for decay, penalty in ((0.05, None), (0.0, L2(0.05))):
        net.load_state_dict(start)
        net.zero_grad()
        matrices = [p for p in net.parameters() if p.dim() > 1]
        vectors = [p for p in net.parameters() if p.dim() == 1]
        optimizer = torch.optim.SGD([{"params": matrices, "weight_decay": decay}, {"params": vectors}], lr=0.1)
        loss = nn.functional.cross_entropy(net(x), y)
        (loss if penalty is None else loss + penalty(net)).backward()
        optimizer.step()
        results.append([p.detach().clone() for p in net.parameters()])
    for decayed, penalised in zip(*results, strict=True):
        torch.testing.assert_close(decayed, penalised)
    assert not torch.equal(results[0][0], start["0.weight"])

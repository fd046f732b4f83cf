import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_advreg.constraints import SpectralProjection
from lightning_advreg.constraints.operators import adjoint, apply, input_shape, norm_bound

from .layers import LAYERS, explicit_matrix, groups, randomised, spectra, values

every_layer = pytest.mark.parametrize(("make", "rows"), LAYERS.values(), ids=LAYERS)

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "strided": lambda: nn.Conv2d(2, 3, 4, stride=2, padding=1),
    "strided-odd": lambda: nn.Conv2d(2, 3, 3, stride=3),
    "dilated": lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=2),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1),
    "same": lambda: nn.Conv2d(2, 3, 3, padding="same"),
    "valid": lambda: nn.Conv2d(2, 3, 3, padding="valid"),
    "oblong": lambda: nn.Conv2d(1, 2, (3, 1), stride=(2, 1), padding=(1, 0)),
    "1d": lambda: nn.Conv1d(2, 3, 5, stride=2, padding=2),
    "3d": lambda: nn.Conv3d(1, 2, 2),
    "transposed": lambda: nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1),
    "transposed-grouped": lambda: nn.ConvTranspose2d(4, 2, 3, groups=2),
}
every_convolution = pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS)


def largest(layer, rows):
    return torch.stack([s[0] for s in spectra(layer, rows)])


@every_layer
def test_power_iteration_finds_the_norm_of_every_group_and_scales_to_the_bound(make, rows):
    net = randomised(make())
    start, norms = net.weight.detach().clone(), largest(net, rows)
    bound = 0.7 * norms.min().item()
    projected = SpectralProjection(bound, steps=200).project_(net)
    torch.testing.assert_close(largest(net, rows), torch.full_like(norms, bound), rtol=1e-3, atol=0)
    assert (projected.moved, projected.at_bound) == (1, 1)
    change = (net.weight.detach() - start).norm() / start.norm()
    assert projected.distance == pytest.approx(change.item(), 1e-4)
    if groups(net) == 1:
        torch.testing.assert_close(net.weight.detach(), start * bound / norms[0], rtol=1e-3, atol=1e-6)


@every_layer
def test_weights_below_the_bound_are_left_alone(make, rows):
    net = randomised(make())
    start = net.weight.detach().clone()
    projected = SpectralProjection(1.01 * largest(net, rows).max().item()).project_(net)
    assert torch.equal(net.weight, start)
    assert (projected.moved, projected.distance, projected.at_bound) == (0, 0, 0)


@every_layer
def test_exact_projection_cuts_the_singular_values(make, rows):
    net = randomised(make())
    before = spectra(net, rows)
    bound = torch.cat(before).median().item()
    projected = SpectralProjection(bound, exact=True).project_(net)
    for old, new in zip(before, spectra(net, rows), strict=True):
        torch.testing.assert_close(new, old.clamp(max=bound), rtol=1e-4, atol=1e-5)
    assert projected.moved == 1
    everything = torch.cat(before)
    cut = (everything - everything.clamp(max=bound)).norm() / everything.norm()
    assert projected.distance == pytest.approx(cut.item(), 1e-4)


def test_the_vectors_carry_on_from_step_to_step():
    torch.manual_seed(0)
    # nearly equal singular values, which few steps do not separate
    layer = nn.Linear(60, 60, bias=False)
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(1.0, 1.1, 60).unsqueeze(1))
    exact = torch.linalg.svdvals(layer.weight.detach())[0]
    constraint, found = SpectralProjection(10.0), []
    for _ in range(400):
        constraint.project_(layer)
        found.append(constraint._norm(layer, "weight", layer.weight).sigma.item())
    assert found[0] < 0.999 * exact
    assert found[-1] == pytest.approx(exact.item(), rel=1e-4)
    # an estimate, and never too high
    assert max(found) <= exact * (1 + 1e-6)


def test_random_numbers_of_training_are_not_touched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    SpectralProjection().project_(nn.utils.skip_init(nn.Linear, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_weight_of_zeros_stays_and_comes_back():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    constraint = SpectralProjection(0.5)
    assert constraint.project_(layer).distance == 0
    assert torch.equal(layer.weight, torch.zeros(3, 4))
    nn.init.ones_(layer.weight)
    for _ in range(3):
        constraint.project_(layer)
    assert torch.linalg.svdvals(layer.weight.detach())[0] == pytest.approx(0.5, rel=1e-3)


@every_convolution
def test_the_adjoint_is_the_transpose_of_the_convolution(make):
    layer = randomised(make()).double()
    shape = input_shape(layer, layer.weight, 5)
    matrix = explicit_matrix(lambda x: apply(layer, layer.weight.detach(), x), shape)
    out = apply(layer, layer.weight.detach(), torch.zeros(1, *shape).double()).shape[1:]
    back = explicit_matrix(lambda y: adjoint(layer, layer.weight.detach(), y, shape[1:]), out)
    torch.testing.assert_close(back, matrix.T)


@every_convolution
def test_the_operator_of_a_convolution_is_the_map_from_images_to_images(make):
    layer = randomised(make()).double()
    shape = input_shape(layer, layer.weight, 6)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    if transposed:
        # its own input has the shape of what the adjoint gives
        small = apply(layer, layer.weight.detach(), torch.zeros(1, *shape).double()).shape[1:]
        matrix = explicit_matrix(lambda x: layer(x) - layer.bias.view(1, -1, 1, 1), small)
    else:
        bias = layer.bias.view(1, -1, *[1] * (layer.weight.dim() - 2))
        matrix = explicit_matrix(lambda x: layer(x) - bias, shape)
    exact = torch.linalg.matrix_norm(matrix.detach(), 2).item()
    estimate = SpectralProjection(1e6, operator="convolution", map_size=6, steps=1)
    for _ in range(150):
        found = estimate._norm(layer, "weight", layer.weight).sigma.item()
    assert found == pytest.approx(exact, rel=1e-3)
    upper = norm_bound(layer, layer.weight, shape[1:]).item()
    assert exact * (1 - 1e-9) <= upper <= 1.35 * exact


def test_the_norm_bound_of_a_large_map_is_tight():
    layer = randomised(nn.Conv2d(2, 2, 3, padding=1)).double()
    matrix = explicit_matrix(lambda x: F.conv2d(x, layer.weight, padding=1), (2, 14, 14))
    assert norm_bound(layer, layer.weight, (14, 14)).item() == pytest.approx(
        torch.linalg.matrix_norm(matrix.detach(), 2).item(), rel=0.02
    )


@every_convolution
def test_convolutions_are_scaled_to_the_bound_of_their_operator(make):
    layer = randomised(make()).double()
    constraint = SpectralProjection(0.5, operator="convolution", map_size=5)
    projected = constraint.project_(layer)
    assert projected.moved == 1
    matrix = explicit_matrix(lambda x: apply(layer, layer.weight.detach(), x), input_shape(layer, layer.weight, 5))
    # from below, and slowly where the largest singular values lie close together
    assert 0.5 - 1e-9 <= torch.linalg.matrix_norm(matrix, 2).item() < 0.51


def test_the_flat_kernel_and_the_convolution_differ_as_documented():
    # a blur: the flat kernel has norm 1/3, the map of large images nearly 1
    layer = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.constant_(layer.weight, 1 / 9)
    flat = SpectralProjection(9.0, steps=50)._norm(layer, "weight", layer.weight).sigma.item()
    image = SpectralProjection(9.0, operator="convolution", steps=50, map_size=24)
    image = image._norm(layer, "weight", layer.weight).sigma.item()
    assert flat == pytest.approx(1 / 3)
    assert 0.95 < image < 1


def test_state_is_saved_and_loaded_and_another_shape_starts_anew():
    net = randomised(nn.Sequential(nn.Linear(5, 4), nn.Conv2d(1, 2, 3)))
    constraint = SpectralProjection(1.0)
    constraint.project_(net)
    state = constraint.state_dict()
    assert sorted(state) == ["vector/0/weight", "vector/1/weight"]
    other = SpectralProjection(1.0)
    other.load_state_dict(state)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in state.items())
    copies = [randomised(nn.Sequential(nn.Linear(5, 4), nn.Conv2d(1, 2, 3)), seed=1) for _ in range(2)]
    for each, copy in zip((constraint, other), copies, strict=True):
        each.project_(copy)
    assert torch.equal(values(copies[0]), values(copies[1]))
    other.load_state_dict({})  # from before the first projection
    assert not other.state_dict()
    constraint.project_(nn.Sequential(nn.Linear(7, 4)))
    assert constraint.state_dict()["vector/0/weight"].shape == (1, 7, 1)


def test_half_precision_weights_keep_vectors_in_full_precision():
    layer = randomised(nn.Linear(30, 20)).to(torch.bfloat16)
    constraint = SpectralProjection(1.0, steps=50)
    constraint.project_(layer)
    constraint.to(torch.bfloat16)
    assert constraint.state_dict()["vector/weight"].dtype == torch.float32
    assert torch.linalg.svdvals(layer.weight.detach().float())[0] < 1.01


def test_autocast_around_it_changes_nothing():
    layers = [randomised(nn.Linear(30, 20)) for _ in range(2)]
    SpectralProjection(0.5).project_(layers[0])
    with torch.autocast("cpu", torch.bfloat16):
        SpectralProjection(0.5).project_(layers[1])
    assert torch.equal(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bound": 0}, "bound must be positive, got 0"),
        ({"operator": "fourier"}, "operator must be matrix or convolution, got 'fourier'"),
        ({"exact": True, "operator": "convolution"}, r"no kernel of its size any more; set operator='matrix'"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"map_size": 2.5}, "map_size must be an integer of at least 1, got 2.5"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpectralProjection(**arguments)


def test_a_padding_without_a_bound_is_refused_before_training():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Conv2d(2, 2, 3))
    SpectralProjection(1.0).check(net)
    SpectralProjection(1.0, operator="convolution", pattern="1.*").check(net)
    with pytest.raises(ValueError, match=r"cannot bound 0\.weight of critic, whose padding_mode is 'circular'"):
        SpectralProjection(1.0, operator="convolution").check(net, "critic")

"""Interpolation, classes and nearest neighbours of a generator's samples."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.callbacks import (
    GeneratedSamples,
    LatentInterpolation,
    SamplesAndNeighbours,
    SamplesByClass,
    latent_pictures,
    samples_and_neighbours,
)
from lightning_advreg.callbacks.samples_and_neighbours import nearest
from lightning_advreg.metrics import slerp

from .foreign import Foreign, loader, trainer

SIDE = 64


class Painter(Foreign):
    """Paints the first number of its noise, in the rows of its label if it has one."""

    def __init__(self, rows=8, classes=None):
        super().__init__()
        self.generator = nn.Module()
        if classes is not None:
            self.generator.num_classes = classes
        self.register_buffer("fixed_latent", torch.linspace(0.1, 0.9, rows).view(-1, 1).repeat(1, 2))
        self.asked = []

    def sample(self, z, y=None):
        torch.rand(3)
        self.asked.append((z.clone(), y))
        images = z[:, 0].clamp(0, 1).view(-1, 1, 1, 1).repeat(1, 1, SIDE, SIDE)
        if y is not None:
            images[torch.arange(len(y)), 0, y] = 1
        return images


@pytest.fixture
def logged(monkeypatch):
    calls = []
    for module in (latent_pictures, samples_and_neighbours):
        monkeypatch.setattr(
            module, "log_image", lambda _, name, image, *, step, batch=None: calls.append((name, image, step))
        )
    return calls


def test_slerp_keeps_the_length_and_turns_evenly():
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])
    way = slerp(a, b, torch.linspace(0, 1, 5).view(-1, 1))
    torch.testing.assert_close(way.norm(dim=1), torch.full((5,), 3.0))
    torch.testing.assert_close(way[0], a)
    torch.testing.assert_close(way[-1], b)
    angles = torch.cosine_similarity(way[:-1], way[1:]).acos()
    torch.testing.assert_close(angles, torch.full((4,), torch.pi / 8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_of_vectors_on_one_line_is_finite(factor):
    a = torch.tensor([1.0, 2.0])
    way = slerp(a, factor * a, torch.tensor([[0.0], [0.25], [1.0]]))
    assert way.isfinite().all()
    torch.testing.assert_close(way[1], 0.75 * a + 0.25 * factor * a, atol=1e-3, rtol=0)


def test_each_row_goes_from_one_fixed_vector_to_the_next(tmp_path, logged):
    module = Painter(rows=5, classes=3)
    trainer(tmp_path, LatentInterpolation(rows=2, steps=3, every_n_epochs=2), max_epochs=2).fit(module, loader(4))
    ((z, y),) = module.asked
    fixed = module.fixed_latent
    assert torch.equal(y, torch.tensor([0, 0, 0, 1, 1, 1]))
    for row in (0, 1):
        ends = fixed[2 * row], fixed[2 * row + 1]
        torch.testing.assert_close(z[3 * row], ends[0])
        torch.testing.assert_close(z[3 * row + 2], ends[1])
        torch.testing.assert_close(z[3 * row + 1], (ends[0] + ends[1]) / 2, atol=1e-3, rtol=0)
    ((name, grid, step),) = logged
    assert (name, step, grid.shape) == ("interpolation", 2, (1, 2 * 66 + 2, 3 * 66 + 2))


def test_each_class_has_a_row_with_the_same_noise(tmp_path, logged):
    module = Painter(classes=4)
    trainer(tmp_path, SamplesByClass(per_class=2, max_classes=3)).fit(module, loader(4))
    ((z, y),) = module.asked
    assert torch.equal(y, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert torch.equal(z, module.fixed_latent[:2].repeat(3, 1))
    ((name, grid, step),) = logged
    assert (name, step, grid.shape) == ("samples_by_class", 1, (1, 3 * 66 + 2, 2 * 66 + 2))
    # the row of pixels that tells the class
    assert all(grid[0, 2 + 66 * c + c, 10] == 1 and grid[0, 2 + 66 * c + c + 1, 10] < 1 for c in range(3))


def test_samples_of_a_conditional_generator_have_labels_in_turn(tmp_path):
    module = Painter(rows=7, classes=3)
    trainer(tmp_path, GeneratedSamples(num_images=7)).fit(module, loader(4))
    assert [y.tolist() for _, y in module.asked] == [[0, 1, 2, 0, 1, 2, 0]]


def test_a_generator_without_labels_gets_none(tmp_path):
    module = Painter()
    trainer(tmp_path, GeneratedSamples(num_images=3)).fit(module, loader(4))
    assert [y for _, y in module.asked] == [None]


def test_nearest_of_all_batches_by_brute_force():
    images, among = torch.rand(5, 3, 4, 4), torch.randint(256, (23, 3, 4, 4), dtype=torch.uint8)
    found, distances = nearest(images, among, at_once=4)
    every = ((images[:, None] - among[None] / 255) ** 2).sum((2, 3, 4)).sqrt()
    torch.testing.assert_close(distances, every.amin(1))
    assert torch.equal(found, among[every.argmin(1)] / 255)


def grey(*levels):
    x = torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE)
    return DataLoader(TensorDataset(x, torch.zeros(len(levels), dtype=torch.long)), batch_size=2)


class Still(Painter):
    def training_step(self, batch, batch_idx):
        return self.network[0].weight.sum()


def test_below_each_sample_is_its_neighbour_of_the_first_epoch(tmp_path, logged):
    module = Still(rows=3)  # 0.1, 0.5, 0.9
    data = grey(0.0, 0.2, 0.6, 0.7, 1.0)
    trainer(tmp_path, SamplesAndNeighbours(num_images=3), max_epochs=2).fit(module, data)
    name, grid, step = logged[0]
    assert (name, step) == ("nearest_neighbours", 1)
    centres = [grid[0, 34 + 66 * row, 34 + 66 * column].item() for row in (0, 1) for column in (0, 1, 2)]
    assert centres[:3] == pytest.approx([0.1, 0.5, 0.9])
    assert centres[4:] == pytest.approx([0.6, 1.0], abs=1 / 255)
    assert torch.equal(logged[1][1], grid)


def test_no_more_images_are_kept_than_asked_for(tmp_path, logged):
    callback = SamplesAndNeighbours(num_images=1, max_images=3)
    trainer(tmp_path, callback, max_epochs=2).fit(Still(), grey(0.0, 0.2, 0.6, 0.7, 1.0))
    assert [part.shape[0] for part in callback._kept] == [3] and callback._kept[0].dtype == torch.uint8


def test_rows_of_neighbours_below_rows_of_samples(tmp_path, logged):
    module = Still(rows=12)
    trainer(tmp_path, SamplesAndNeighbours(num_images=12)).fit(module, grey(0.0, 1.0))
    grid = logged[0][1]
    assert grid.shape == (1, 4 * 66 + 2, 10 * 66 + 2)
    rows = [[grid[0, 34 + 66 * row, 34 + 66 * column].item() for column in range(10)] for row in range(4)]
    levels = torch.linspace(0.1, 0.9, 12).tolist()
    assert rows[0] == pytest.approx(levels[:10]) and rows[1] == [round(level) for level in levels[:10]]
    assert rows[2] == pytest.approx([*levels[10:], *[1.0] * 8]) and rows[3] == [1.0] * 10


class Small(Painter):
    def sample(self, z, y=None):
        return super().sample(z, y)[:, :, :4, :4]


def test_training_is_bitwise_the_same_with_and_without_them(tmp_path, logged):
    def train(*callbacks):
        torch.manual_seed(0)
        module = Small(classes=2)
        trainer(tmp_path, *callbacks, max_epochs=2).fit(module, loader(16, shuffle=True))
        return module.state_dict()

    shown = [LatentInterpolation(rows=1), SamplesByClass(per_class=1), SamplesAndNeighbours(num_images=1)]
    without, with_it = train(), train(*shown)
    assert len(logged) == 6
    assert all(torch.equal(without[name], with_it[name]) for name in without)


@pytest.mark.parametrize(
    ("module", "callback", "error", "message"),
    [
        (Foreign, LatentInterpolation, TypeError, r"LatentInterpolation needs .*`sample\(z\)`, which Foreign lacks"),
        (Foreign, SamplesAndNeighbours, TypeError, r"SamplesAndNeighbours needs .*`sample\(z\)`, which Foreign lacks"),
        (Painter, SamplesByClass, TypeError, r"conditional generator, and that of Painter has no num_classes"),
        (Painter, LatentInterpolation, ValueError, r"needs 16 rows .* has 8; .*GAN\(num_fixed=16\)"),
        (Painter, SamplesAndNeighbours, ValueError, r"needs 10 rows .* has 8"),
    ],
)
def test_modules_that_cannot_are_refused_at_setup(tmp_path, module, callback, error, message):
    with pytest.raises(error, match=message):
        trainer(tmp_path, callback()).fit(module(), loader(4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LatentInterpolation(steps=2), r"steps must be at least 3, two ends and what lies between, got 2"),
        (lambda: LatentInterpolation(rows=0), r"rows must be an integer of at least 1, got 0"),
        (lambda: SamplesByClass(per_class=0), r"per_class must be an integer of at least 1"),
        (lambda: SamplesAndNeighbours(max_images=0), r"max_images must be an integer of at least 1"),
        (lambda: GeneratedSamples(frame_seconds=0), r"frame_seconds must be at least 0.02, got 0"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()

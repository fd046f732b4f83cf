"""Generated images in training batches."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_advreg.data import ArrayDataModule, DigitsDataModule, RandomCropFlip, ResidentLoader
from lightning_advreg.data.generated import GeneratedData
from lightning_advreg.data.samplers import MixedSampler, TrainSampler

from .generated_images import digits, generated, numbers, write
from .sources import BUILDERS, pixels
from .test_contract import collect, same, trainer
from .test_trainer import Recorder, ShardRecorder, quiet

both_loaders = pytest.mark.parametrize("loader", ["standard", "resident"])


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "generated.npz")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, "3/2"])
def test_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=rf"extra_fraction must be between 0 and 1, .* got {fraction!r}"):
        DigitsDataModule(extra_fraction=fraction)


@pytest.mark.parametrize(("fraction", "count"), [(0.01, 0), (0.99, 10)])
def test_batches_too_small_for_both_kinds(path, fraction, count):
    with pytest.raises(ValueError, match=f"of batch_size=10 images is {count}, and leaves {10 - count} real ones"):
        digits(path, extra_fraction=fraction).setup("fit")


# Batches


@both_loaders
@pytest.mark.parametrize(("fraction", "extra"), [(0.7, 7), ("3/10", 3), (0.5, 5)])
def test_every_batch_holds_its_share_and_an_epoch_is_one_pass_over_the_real_images(path, loader, fraction, extra):
    data = digits(path, loader=loader, extra_fraction=fraction)
    batches = data.train_dataloader()
    plain = digits(None, loader=loader, batch_size=60).train_dataloader()
    counted, real = [], []
    for x, y in batches:
        mine = generated(x)
        counted.append((len(x), mine.sum().item()))
        assert not mine[:-extra].any() and mine[-extra:].all()
        assert y[mine].equal(numbers(x[mine]) % 10)
        real.append((x[~mine], y[~mine]))
    steps = 60 // (10 - extra)
    assert counted == [(10, extra)] * steps and len(batches) == steps
    x, y = (torch.cat(part) for part in zip(*real, strict=True))
    # the same order as without generated images
    assert same((x, y), tuple(part[: len(x)] for part in next(iter(plain))))


@pytest.mark.parametrize(("source", "num_workers"), [*((source, 0) for source in BUILDERS), ("cifar10", 1)])
def test_both_loaders_give_identical_batches(tmp_path, monkeypatch, source, num_workers):
    def build(name, **kwargs):
        (tmp_path / name).mkdir()
        return BUILDERS[source](tmp_path / name, monkeypatch, batch_size=8, val_size=10, train_size=30, **kwargs)

    channels, height, width = build("plain").image_shape
    np.savez(tmp_path / "a.npz", image=pixels(40, height, width, channels), label=np.arange(40) % 3)
    extra = {"augment": True, "extra_path": str(tmp_path / "a.npz"), "extra_fraction": 0.5}
    standard = build("standard", num_workers=num_workers, **extra).train_dataloader()
    resident = build("resident", loader="resident", **extra).train_dataloader()
    for epoch in (0, 3):
        x, y = collect(standard, epoch)
        assert same((x, y), collect(resident, epoch)) and len(x) == 30 // 4 * 8
        assert x.dtype == torch.float32 and x.max() <= 1 and ((x * 255) - (x * 255).round()).abs().max() < 1e-3


@both_loaders
def test_real_images_that_are_floats_keep_their_scale(tmp_path, path, loader):
    x = np.random.default_rng(0).random((60, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "real.npz", image=x, label=np.arange(60) % 10)
    data = ArrayDataModule(tmp_path / "real.npz", batch_size=10, val_size=0, loader=loader, extra_path=path)
    x, _ = next(iter(data.train_dataloader()))
    assert generated(x).tolist() == [False] * 3 + [True] * 7 and x[:3].max() > 0.9


@both_loaders
def test_both_kinds_are_augmented_alike(path, loader):
    plain, augmented = (digits(path, loader=loader, augment=augment).train_dataloader() for augment in (False, True))
    (x, _), (shifted, _) = collect(plain), collect(augmented)
    moved = (x != shifted).flatten(1).any(1)
    assert moved[generated(x)].float().mean() > 0.7 and moved[~generated(x)].float().mean() > 0.7


def test_the_variants_of_a_batch_go_with_its_images(path):
    """An image whose columns differ shows whether it was flipped as its own variant says."""
    flip = RandomCropFlip(padding=0, flip=True)
    images = torch.arange(12, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    images[..., 0] = 100
    loader = ResidentLoader(
        images, torch.arange(12), batch_size=4, shuffle=True, augment=flip, extra=GeneratedData(path, 0.5)
    )
    index, variant = loader.sampler.plan()
    x, y = collect(loader)
    assert y[index < 12].equal(index[index < 12])
    real, extra = index < 12, index >= 12
    assert ((x[real][:, 0, 0, 0] * 255).round() != 100).long().equal(variant[real])
    corner = (x[extra] * 255).round().long()[:, 0, 0]
    expected = torch.where(variant[extra] == 1, corner[:, -1], corner[:, 0])
    assert expected.equal((index[extra] - 12) % 256)


@both_loaders
def test_the_same_seed_gives_the_same_epoch_and_the_next_epoch_differs(path, loader):
    first, again, other = (digits(path, loader=loader, seed=seed).train_dataloader() for seed in (3, 3, 4))
    state = torch.get_rng_state()
    x, y = collect(first, 1)
    assert same((x, y), collect(again, 1))
    mine = numbers(x[generated(x)])
    for batches, epoch in ((first, 2), (other, 1)):
        changed, _ = collect(batches, epoch)
        assert not numbers(changed[generated(changed)]).equal(mine)
    assert torch.get_rng_state().equal(state)


def test_evaluation_and_overfitting_see_real_images_alone(path):
    for loader in ("standard", "resident"):
        data = digits(path, loader=loader)
        for batches in (data.val_dataloader(), data.test_dataloader()):
            assert not generated(collect(batches)[0]).any()
    data.trainer = trainer(overfit_batches=2)
    assert not generated(collect(data.train_dataloader())[0]).any()
    model = Recorder()
    run = Trainer(max_epochs=1, overfit_batches=2, enable_checkpointing=False, **quiet)
    run.fit(model, datamodule=digits(path))
    assert len(model.seen) == 2 and not any(generated(x).any() for _, x, _ in model.seen)


def test_fewer_real_images_than_a_batch_wants_make_one_smaller_batch_of_the_same_share(path):
    data = digits(path, batch_size=100, train_size=15, extra_fraction=0.7)
    for loader in ("standard", "resident"):
        data.loader = loader
        ((x, _),) = data.train_dataloader()
        assert (generated(x).sum(), len(x)) == (35, 50)


@both_loaders
def test_a_last_batch_with_fewer_real_images_is_left_out(path, loader):
    """Also where all real images together are fewer than a batch has images."""
    batches = digits(path, loader=loader, train_size=8).train_dataloader()
    assert [len(x) for x, _ in batches] == [10, 10] and len(batches) == 2


# Order


def test_generated_images_come_once_before_any_comes_again():
    def epoch(number, **kwargs):
        sampler = MixedSampler(12, extra_total=10, real=4, extra=2, **kwargs)
        sampler.set_epoch(number)
        return [index - 12 for index, _ in sampler if index >= 12]

    seen = [row for number in range(5) for row in epoch(number)]
    passes = [seen[i : i + 10] for i in range(0, 30, 10)]
    assert [sorted(part) for part in passes] == [list(range(10))] * 3
    assert len({tuple(part) for part in passes}) == 3
    # more than a whole pass in one epoch
    many = MixedSampler(12, extra_total=3, real=2, extra=5)
    indices = [index - 12 for index, _ in many if index >= 12]
    assert [sorted(indices[i : i + 3]) for i in range(0, 30, 3)] == [[0, 1, 2]] * 10


def test_real_order_and_variants_are_those_without_generated_images():
    mixed, plain = (
        MixedSampler(10, extra_total=50, real=2, extra=3, variants=99, seed=5),
        TrainSampler(10, variants=99, seed=5),
    )
    for sampler in (mixed, plain):
        sampler.set_epoch(4)
    assert [pair for pair in mixed if pair[0] < 10] == list(plain)
    assert len(set(mixed)) == len(mixed) == 25


@pytest.mark.parametrize("total", [12, 14, 15])
def test_ranks_together_see_what_one_rank_sees(total):
    one = MixedSampler(total, extra_total=40, real=4, extra=6, variants=99)
    two = [MixedSampler(total, extra_total=40, real=2, extra=3, variants=99, rank=r, world_size=2) for r in range(2)]
    for sampler in (one, *two):
        sampler.set_epoch(3)
    assert len(two[0]) == len(two[1])
    whole, halves = list(one), [list(sampler) for sampler in two]
    assert not set(halves[0]) & set(halves[1])
    if total == 12:
        for batch in range(3):
            parts = {*halves[0][5 * batch : 5 * batch + 5], *halves[1][5 * batch : 5 * batch + 5]}
            assert parts == set(whole[10 * batch : 10 * batch + 10])


# In Lightning


@pytest.mark.parametrize(("loader", "num_workers"), [("standard", 0), ("resident", 0), ("standard", 1)])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_as_an_unbroken_one(tmp_path, path, loader, num_workers):
    def run(model, **kwargs):
        data = digits(path, loader=loader, num_workers=num_workers, augment=True, train_size=30)
        checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=13, save_top_k=-1, filename="{step}")
        Trainer(max_epochs=2, callbacks=[checkpoint], **quiet).fit(model, datamodule=data, **kwargs)

    whole, resumed = Recorder(), Recorder()
    run(whole)
    run(resumed, ckpt_path=tmp_path / "step=13.ckpt", weights_only=True)
    assert len(whole.seen) == 20 and len(resumed.seen) == 7
    for (_, x, y), (_, other_x, other_y) in zip(whole.seen[13:], resumed.seen, strict=True):
        assert x.equal(other_x) and y.equal(other_y)
    assert whole.layer.weight.equal(resumed.layer.weight)


class OneLoader(ShardRecorder):
    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize("loader", ["standard", pytest.param("resident", marks=pytest.mark.slow)])
def test_two_processes_take_different_generated_images(tmp_path, path, loader):
    run = Trainer(max_epochs=1, strategy="ddp_spawn", devices=2, enable_checkpointing=False, **quiet)
    run.fit(OneLoader(tmp_path), datamodule=digits(path, loader=loader, train_size=30))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True)["train"] for rank in range(2)]
    assert [[generated(x).sum().item() for x in rank] for rank in ranks] == [[7] * 5] * 2
    seen = torch.cat([numbers(x[generated(x)]) for rank in ranks for x in rank])
    assert len(seen.unique()) == 70


def test_paths_are_saved_as_text_and_loaded_again(tmp_path, path):
    for data in (
        digits(tmp_path / "generated.npz"),
        ArrayDataModule("real.npz", extra_path=tmp_path / "generated.npz"),
    ):
        assert data.hparams["extra_path"] == path == data.extra_path
        assert data.hparams["extra_fraction"] == 0.7
    assert DigitsDataModule(extra_path=path, extra_fraction="3/4").extra_fraction == 0.75

"""What two and four processes measure and train is what one does, at sizes that they cannot share evenly."""

import functools
import json
import os
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.callbacks import (
    ExactResume,
    GANEvaluation,
    MultiGPUScaling,
    RobustAccuracy,
    RobustEvaluation,
    WeightAverage,
)
from lightning_advreg.metrics import ClassifierFeatures, FrechetDistance, ModeCount, PrecisionRecallDensityCoverage
from tests.metrics import test_contract, test_gan_contract
from tests.modules.parts import adversarial, conv, digits, gan, trainer

# of 60 and 40 that there are, and of validation images: none can be shared by 2, nor by 4
COUNTED, GENERATED, IMAGES = 59, 37, 33


def metrics(rank, world_size):
    """Every metric, of the share of a rank; ``compute`` puts all shares together."""
    found = {}
    # in a row, since those that draw or cut subsets go by the order
    part = torch.arange(COUNTED).tensor_split(world_size)[rank]
    for name, (make, update) in test_contract.METRICS.items():
        metric = make()
        update(metric, part)
        found[f"images {name}"] = plain(metric.compute())
    part = torch.arange(GENERATED).tensor_split(world_size)[rank]
    for name, make in test_gan_contract.METRICS.items():
        metric = make()
        test_gan_contract.update(metric, part)
        found[f"generated {name}"] = plain(metric.figures())
    return found


def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


# a curve of three budgets, on the network itself
FEW = {"curve_eps": [0, 0.03, 0.06], "masking": False, "examples": 0, "acceleration": None, "progress": False}


class Logged(Callback):
    def __init__(self):
        self.metrics = {}

    def on_validation_end(self, trainer, pl_module):
        self.metrics |= {name: value.item() for name, value in trainer.callback_metrics.items()}

    on_test_end = on_validation_end


@functools.cache
def learnt():
    """A network that is right on some images, and on fewer under attack."""
    torch.manual_seed(0)
    network, data = conv(dropout=0.0), digits(train_size=400)
    data.setup("fit")
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(8):
        for x, y in data.train_dataloader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network


def evaluated(folder, kind, **settings):
    """The figures of validation under attack, or of a GAN."""
    torch.manual_seed(0)
    logged, data = Logged(), digits(val_size=IMAGES, loader="resident" if kind == "resident" else "standard")
    if kind == "gan":
        figures = [FrechetDistance(), ModeCount("real"), PrecisionRecallDensityCoverage()]
        features = ClassifierFeatures(conv())
        options = {"num_samples": 45, "batch_size": 16, "progress": False, "reference_dir": None}
        model, callbacks = gan(), [GANEvaluation(features, figures, **options)]
    else:
        model = adversarial(network=learnt())
        attacks = {"fgsm": FGSM(eps=0.05), "pgd": PGD(eps=0.08, step_size=0.03, random_start=False)}
        evaluation = RobustEvaluation(attacks, max_samples=IMAGES, batch_size=4, **FEW)
        callbacks = [RobustAccuracy({"alone": FGSM(eps=0.03)}), evaluation]
    run = trainer(callbacks=[*callbacks, logged], default_root_dir=folder / kind, **settings)
    run.validate(model, datamodule=data, verbose=False)
    if kind == "gan":
        return logged.metrics, None
    run.test(model, datamodule=data, verbose=False)
    return logged.metrics, evaluation.reports[0].as_dict()


def trained(scaling=None, **settings):
    """Weights after training without chance, on batches of 16 over all processes together."""
    torch.manual_seed(0)
    attack = PGD(eps=0.1, step_size=0.05, steps=2, random_start=False)
    model = adversarial(
        network=conv(norm="group"), attack=attack, engine=None, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    )
    average = WeightAverage(decay=0.5)
    callbacks = [average] if scaling is None else [average, scaling]
    run = trainer(callbacks=callbacks, max_epochs=2, limit_val_batches=0, precision="64-true", **settings)
    run.fit(model, datamodule=digits(train_size=99))
    return dict(model.state_dict()), run


def continued(folder, epochs, ckpt_path=None, **settings):
    """Weights after training with chance, in which each process draws for itself."""
    torch.manual_seed(0)
    attack = PGD(eps=0.1, step_size=0.05, steps=1)
    callbacks = [MultiGPUScaling("linear", warmup_steps=5), ExactResume(every_n_minutes=None)]
    model = adversarial(network=conv(norm="group", dropout=0.3), attack=attack, engine=None, lr_scheduler=None)
    run = trainer(callbacks=callbacks, max_epochs=epochs, limit_val_batches=0, **settings, default_root_dir=folder)
    run.fit(model, datamodule=digits(), ckpt_path=ckpt_path)
    return dict(model.state_dict()), torch.rand(3)


def in_group(folder, world_size):
    rank = int(os.environ["RANK"])
    ddp = {"strategy": "ddp", "devices": world_size}
    found = {kind: evaluated(folder, kind, **ddp) for kind in ("standard", "resident", "gan")}
    (folder / f"metrics-{rank}.json").write_text(json.dumps({**metrics(rank, world_size), **found}))
    scaling = MultiGPUScaling(constant_global_batch=True)
    weights, run = trained(scaling, default_root_dir=folder / "run", **ddp)
    torch.save(weights, folder / f"weights-{rank}.pt")
    lost = float(run.callback_metrics["train/lost_in_communication"])
    figures = [scaling.record.global_batch, scaling.record.batch_per_process, scaling.record.processes, lost]
    (folder / f"scaling-{rank}.json").write_text(json.dumps(figures))


def in_quartet(folder):
    in_group(folder, 4)


def in_pair(folder):
    in_group(folder, 2)
    rank = int(os.environ["RANK"])
    settings = {"strategy": "ddp", "devices": 2, "default_root_dir": folder}
    for name, scaling in {"timed": MultiGPUScaling(), "untimed": MultiGPUScaling(communication=False)}.items():
        torch.save(trained(scaling, **settings)[0], folder / f"{name}-{rank}.pt")
    ddp = {"strategy": "ddp", "devices": 2}
    torch.save(continued(folder / "whole", 2, **ddp), folder / f"whole-{rank}.pt")
    continued(folder / "halves", 1, **ddp)
    torch.save(continued(folder / "halves", 2, folder / "halves" / "resume.ckpt", **ddp), folder / f"halves-{rank}.pt")
    normalised(folder, rank, MultiGPUScaling(), settings)
    normalised(folder, rank, None, settings)
    with pytest.raises(ValueError, match=r"needs GPUs: PyTorch has no SyncBatchNorm for processes on the CPU"):
        run = trainer(callbacks=[MultiGPUScaling(sync_batchnorm=True)], **settings)
        run.fit(adversarial(network=conv(norm="batch")), datamodule=digits())


class Statistics(Callback):
    """What BatchNorm has in validation, and what a process draws in training."""

    def __init__(self):
        self.seen, self.drawn = [], []

    def on_train_start(self, trainer, pl_module):
        self.drawn.append(torch.rand(3))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        norms = [layer for layer in pl_module.network.modules() if isinstance(layer, nn.BatchNorm2d)]
        self.seen.append(torch.cat([part for norm in norms for part in (norm.running_mean, norm.running_var)]))


def normalised(folder, rank, scaling, settings):
    torch.manual_seed(0)
    attack = PGD(eps=0.1, step_size=0.05, steps=1, random_start=False)
    model = adversarial(network=conv(norm="batch"), attack=attack, engine=None)
    looking = Statistics()
    callbacks = [looking] if scaling is None else [scaling, looking]
    run = trainer(callbacks=callbacks, max_epochs=2, limit_train_batches=3, limit_val_batches=1, **settings)
    run.fit(model, datamodule=digits())
    saved = torch.stack(looking.seen), torch.stack(looking.drawn), dict(model.named_parameters())
    torch.save(saved, folder / f"{'without' if scaling is None else 'with'}-{rank}.pt")


@pytest.fixture(scope="module", params=["pair", "quartet"])
def group(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    found = {kind: evaluated(folder, kind) for kind in ("standard", "resident", "gan")}
    return json.loads(json.dumps({**metrics(0, 1), **found})), trained()[0]


def shared(group, name):
    """What every process of a group has written, one after the other."""
    return [json.loads(path.read_text()) for path in sorted(group.glob(f"{name}-*.json"))]


def test_metrics_count_every_image_once(group, alone):
    expected = alone[0]
    world_size = 4 if "quartet" in str(group) else 2
    found = shared(group, "metrics")
    assert len(found) == world_size
    for each in found:
        for name in test_contract.METRICS:
            key = f"images {name}"
            # counts and their quotients to the last digit; sizes are sums of floats, in another order
            rounded = name in ("mean", "size")
            assert each[key] == pytest.approx(expected[key], rel=1e-6 if rounded else 0, abs=0, nan_ok=True), key
        for name in test_gan_contract.METRICS:
            key = f"generated {name}"
            assert each[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-6, nan_ok=True), key


@pytest.mark.parametrize("kind", ["standard", "resident", "gan"])
def test_robust_accuracy_curve_and_distances_are_those_of_one_process(kind, group, alone):
    figures, report = alone[0][kind]
    assert len(figures) > 3
    if kind != "gan":
        assert 0 < figures["test/robust_acc/pgd"] < figures["test/robust_acc/fgsm"] < figures["test/acc"] < 1
        assert 0 < figures["val/robust_acc/alone"] < figures["val/acc"] < 1
    assert len(shared(group, "metrics")) in (2, 4)
    for found, written in (each[kind] for each in shared(group, "metrics")):
        assert found.keys() == figures.keys()
        # that of generated images is of noise, which each process draws for itself
        equal = [name for name in figures if not name.endswith("d_fake")]
        assert [found[name] for name in equal] == pytest.approx([figures[name] for name in equal], rel=1e-5, abs=1e-6)
        assert {name: found[name] for name in found if "robust_acc" in name} == {
            name: figures[name] for name in figures if "robust_acc" in name
        }
        # accuracies, intervals and the curve over budgets, as JSON
        assert written == report


def test_a_constant_global_batch_trains_as_one_process(group, alone):
    expected = alone[1]
    assert max((expected[name] - value).abs().max() for name, value in start().items()) > 0.01
    for path in sorted(group.glob("weights-*.pt")):
        found = torch.load(path, weights_only=True)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=f"{path.name} {name}")
    world_size = len(list(group.glob("weights-*.pt")))
    for global_batch, per_process, processes, lost in shared(group, "scaling"):
        assert (global_batch, per_process, processes) == (16, 16 // world_size, world_size)
        assert 0 < lost < 1


def start():
    torch.manual_seed(0)
    return dict(adversarial(network=conv(norm="group"), engine=None).double().named_parameters())


def test_the_time_of_communication_is_measured_without_a_trace(pair):
    for rank in range(2):
        timed, untimed = (torch.load(pair / f"{name}-{rank}.pt", weights_only=True) for name in ("timed", "untimed"))
        assert all(value.equal(untimed[name]) for name, value in timed.items())


def test_each_process_goes_on_drawing_where_a_checkpoint_left_it(pair):
    (whole, first), (_, second) = (torch.load(pair / f"whole-{rank}.pt") for rank in range(2))
    assert not first.equal(second)
    for rank, drawn in enumerate((first, second)):
        halves, draws = torch.load(pair / f"halves-{rank}.pt")
        assert draws.equal(drawn)
        assert all(value.equal(halves[name]) for name, value in whole.items())


def test_processes_validate_one_network_and_draw_apart(pair):
    """And train as they do without the callback, where nothing is drawn."""
    (seen, drawn, weights), (other, others, _) = (torch.load(pair / f"with-{rank}.pt") for rank in range(2))
    (bare, same, expected), (differing, alike, _) = (torch.load(pair / f"without-{rank}.pt") for rank in range(2))
    assert seen.equal(other) and not bare.equal(differing)
    # the first process is not touched
    assert seen.equal(bare) and drawn.equal(same)
    assert same.equal(alike) and not drawn.equal(others)
    assert all(value.equal(expected[name]) for name, value in weights.items())

"""The switches of the engine: what they are, what they refuse, and how they travel."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.cli import main
from lightning_advreg.modules import Engine, classifier
from lightning_advreg.modules.engine import channels_last, lay_out_

from .parts import AtBatches, adversarial, conv, digits, regularized, trainer

_SHORT = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
_SHORT += ["--trainer.logger=false", "--trainer.callbacks=null", "--trainer.enable_checkpointing=false"]
_LAID_OUT = Engine(attack_copy=False, channels_last=True)


@pytest.mark.parametrize("name", ["attack_copy", "channels_last", "compile", "cuda_graphs"])
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(TypeError, match=f"{name} must be true or false, got {value!r}"):
        Engine(**{"compile": True, name: value})


def test_cuda_graphs_need_a_compiler():
    with pytest.raises(ValueError, match=r"cuda_graphs=True replays compiled programs; set compile=True as well\."):
        Engine(cuda_graphs=True)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.engine", "null"], None),
        (["--model.init_args.engine.attack_copy=false", "--model.engine.channels_last=true"], _LAID_OUT),
        (
            ["--model.engine", '{"class_path": "Engine", "init_args": {"attack_copy": false}}'],
            Engine(attack_copy=False),
        ),
    ],
)
def test_the_command_line_reaches_it(flags, expected, tmp_path):
    root = ["--trainer.default_root_dir", str(tmp_path)]
    cli = main(["fit", "--config", "quickstart", *root, *_SHORT, *flags])
    assert cli.model.engine == expected
    cli.trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert AdversarialClassifier.load_from_checkpoint(tmp_path / "model.ckpt").engine == expected


@pytest.mark.parametrize("build", [adversarial, regularized])
@pytest.mark.parametrize(
    "engine", [None, Engine(channels_last=True, compile=True, cuda_graphs=True, attack_copy=False)]
)
def test_a_checkpoint_rebuilds_it_from_plain_values(build, engine, tmp_path):
    model = build(engine=engine)
    fitting = trainer(max_epochs=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint(tmp_path / "model.ckpt")
    stored = torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]["engine"]
    assert stored is None or stored["init_args"]["cuda_graphs"] is True
    assert type(model).load_from_checkpoint(tmp_path / "model.ckpt").engine == engine


def test_without_an_engine_attacks_run_on_the_network_itself(monkeypatch):
    made = []
    monkeypatch.setattr("lightning_advreg.modules.adversarial.live_copy", lambda *args: made.append(args))
    for engine, copies in ((None, 0), (Engine(attack_copy=False), 0), (Engine(), 1)):
        made.clear()
        trainer(limit_train_batches=1, limit_val_batches=0).fit(adversarial(engine=engine), datamodule=digits())
        assert len(made) == copies


# channels_last


def fitted(engine, **settings):
    torch.manual_seed(0)
    network = conv(norm="batch", width=8)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    attack = PGD(eps=0.1, step_size=0.05, steps=2)
    model = AdversarialClassifier(network, attack, optimizer=optimizer, engine=engine, **settings)
    seen = []
    see = AtBatches(lambda t, m, batch: seen.append(strides(m.network)))
    trainer(max_epochs=2, callbacks=[see]).fit(model, datamodule=digits(train_size=56))
    return model, seen


def strides(network):
    return {name: value.stride() for name, value in network.named_parameters() if value.dim() == 4}


def differences(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    pairs = [(ours[name], theirs[name]) for name in ours if name.startswith("network.")]
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


def test_channels_last_changes_the_layout_and_not_the_result():
    plain, _ = fitted(None)
    laid_out, seen = fitted(Engine(channels_last=True))
    assert differences(plain, AdversarialClassifier(conv(norm="batch", width=8))) > 0
    assert differences(plain, laid_out) < 1e-4
    assert len(seen) == 6
    assert all(step["features.3.weight"] == (128, 1, 32, 8) for step in seen)


def test_laying_out_keeps_values_and_objects():
    network = conv(norm="batch")
    before = copy.deepcopy(network.state_dict())
    objects = list(network.parameters())
    lay_out_(network, torch.channels_last)
    assert network.features[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(a is b for a, b in zip(objects, network.parameters(), strict=True))


def test_images_alone_are_laid_out():
    vectors = torch.rand(2, 3)
    assert channels_last(vectors) is vectors
    assert channels_last(torch.rand(2, 3, 4, 5)).stride() == (60, 1, 15, 3)


class Views(nn.Module):
    """A network that looks at its memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3))
        self.layer = nn.Linear(48, 10)

    def forward(self, x):
        return self.layer(self.conv(x).view(len(x), -1))


def test_a_network_that_refuses_channels_last_is_trained_without():
    model = RegularizedClassifier(Views(), engine=Engine(channels_last=True))
    with pytest.warns(UserWarning, match=r"Views is trained without channels_last: view size .*write x\.flatten\(1\)"):
        trainer(limit_train_batches=2).fit(model, datamodule=digits())
    assert model.network.conv[1].weight.is_contiguous()


# fused optimizers


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_optimizer_gives_the_weights_of_another(kind):
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        attack = PGD(eps=0.1, step_size=0.05, steps=2)
        model = AdversarialClassifier(conv(norm="batch"), attack, optimizer=partial(kind, lr=0.02, fused=fused))
        trainer(max_epochs=2, limit_val_batches=0, gradient_clip_val=1.0).fit(model, datamodule=digits(train_size=56))
        results.append(model)
    assert differences(*results) < 1e-4


def test_the_copy_that_is_attacked_follows_a_fused_optimizer():
    """Fused optimizers leave the versions of weights as they were, by which the copy knows them."""
    apart = []

    def see(fitting, model, batch):
        x = batch[0]
        model.network.eval()
        apart.append((model._copy[0](x) - model.network(x)).abs().max().item())
        model.network.train()

    optimizer = partial(torch.optim.SGD, lr=0.5, fused=True)
    # no BatchNorm, whose statistics would tell the copy of a change
    model = AdversarialClassifier(conv(norm="none"), PGD(eps=0.1, step_size=0.05, steps=1), optimizer=optimizer)
    fitting = trainer(limit_train_batches=4, limit_val_batches=0, callbacks=[AtBatches(see)])
    fitting.fit(model, datamodule=digits())
    assert len(apart) == 4
    assert max(apart) < 1e-4


# copies of a module


def test_copies_of_a_module_hold_no_programs():
    model = adversarial(engine=Engine(compile=True, cuda_graphs=True))
    model._programs._programs["training"] = lambda x: math.nan
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(adversarial(engine=model.engine)))):
        assert other._programs is not model._programs
        assert other._programs._programs == {}
        assert other._programs.cuda_graphs
    assert isinstance(model._programs, classifier.Programs)

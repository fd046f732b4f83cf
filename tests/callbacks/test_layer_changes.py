"""NormAblation and DropoutAblation on modules and networks that were not written here."""

import pytest
import timm
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import DropoutAblation, NormAblation, WeightAverage
from lightning_advreg.modules import Engine
from lightning_advreg.networks import MNISTConvNet, ResNet18, TimmNetwork
from lightning_advreg.networks.frozen_norm import FrozenBatchNorm
from lightning_advreg.networks.unnormalized import NoNorm
from lightning_advreg.objectives import HAT

from ..modules.parts import digits
from .foreign import At, Foreign, loader, trainer


class Timm(Foreign):
    def __init__(self):
        super().__init__()
        self.network = timm.create_model("resnet10t", num_classes=2, in_chans=1)
        self.learning_rate = 0.01


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# dropout draws the same in a step, wherever training began; not by epoch, since a data loader draws a number for its
# workers, which is after this hook in a run that goes on and before it in one that is resumed
STEADY = At("on_train_batch_start", lambda run, _: torch.manual_seed(run.global_step))


def saved(tmp_path, module, *callbacks, epochs=1, **settings):
    run = trainer(tmp_path, *callbacks, STEADY, max_epochs=epochs, **settings)
    run.fit(module, loader(16), weights_only=True)
    run.save_checkpoint(tmp_path / "run.ckpt")
    return tmp_path / "run.ckpt"


@pytest.mark.parametrize("make", [Foreign, Timm])
@pytest.mark.parametrize("kind", ["group", "none"])
def test_fit_checkpoint_test_resume(tmp_path, make, kind):
    def callbacks():
        return NormAblation(kind), DropoutAblation(0.3)

    torch.manual_seed(0)
    uninterrupted = make()
    saved(tmp_path, uninterrupted, *callbacks(), epochs=2)
    torch.manual_seed(0)
    first = make()
    file = saved(tmp_path, first, *callbacks())
    stored = torch.load(file, weights_only=True)
    assert f"changed_by.NormAblation(kind='{kind}')" in stored["state_dict"]
    assert "DropoutAblation(p=0.3, kind='dropout')" in stored["callbacks"]
    tested = make()
    result = trainer(tmp_path, *callbacks()).test(tested, loader(16), ckpt_path=file, weights_only=True, verbose=False)
    assert same(weights(tested), weights(first))
    again = trainer(tmp_path).test(first, loader(16), verbose=False)
    assert result == again
    resumed = make()
    run = trainer(tmp_path, *callbacks(), STEADY, max_epochs=2)
    run.fit(resumed, loader(16), ckpt_path=file, weights_only=True)
    assert run.current_epoch == 2 and not same(weights(resumed), weights(first))
    assert same(weights(resumed), weights(uninterrupted))


def test_the_optimizer_has_the_new_layers_and_one_object_serves_every_stage(tmp_path):
    module, callback = Foreign(), NormAblation("none")
    dropout = DropoutAblation(0.4)
    for stage in ("fit", "validate", "test", "fit"):
        run = trainer(tmp_path, callback, dropout)
        getattr(run, stage)(module, loader(16))
        layers = list(module.modules())
    held = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in module.parameters()} == held
    trainer(tmp_path, NormAblation("none"), DropoutAblation(0.4)).test(module, loader(16), verbose=False)
    assert all(a is b for a, b in zip(layers, module.modules(), strict=True))
    assert isinstance(module.network[1], NoNorm) and module.network[4].p == 0.4
    assert callback.changed == ("network.1",)


def test_wrong_or_missing_callbacks_are_explained(tmp_path):
    file = saved(tmp_path, Foreign(), NormAblation("group"), DropoutAblation(0.3))
    with pytest.raises(
        ValueError, match=r"trained with NormAblation\(kind='group'\), .* by NormAblation\(kind='layer'\)"
    ):
        trainer(tmp_path, NormAblation("layer")).test(Foreign(), loader(16), ckpt_path=file, weights_only=True)
    with pytest.raises(
        RuntimeError, match=r'Unexpected key\(s\) in state_dict: "changed_by.NormAblation\(kind=\'group\'\)"'
    ):
        trainer(tmp_path).test(Foreign(), loader(16), ckpt_path=file, weights_only=True)
    with pytest.raises(
        ValueError, match=r"trained with DropoutAblation\(p=0.3, kind='dropout'\), and DropoutAblation\(p=0"
    ):
        trainer(tmp_path, NormAblation("group"), DropoutAblation(0.5), max_epochs=2).fit(
            Foreign(), loader(16), ckpt_path=file, weights_only=True
        )
    with pytest.warns(UserWarning, match=r"add the following callbacks: .*DropoutAblation\(p=0.3, kind='dropout'\)"):
        trainer(tmp_path, NormAblation("group")).test(Foreign(), loader(16), ckpt_path=file, verbose=False)
    plain = saved(tmp_path, Foreign())
    with pytest.raises(ValueError, match=r"trained without NormAblation\(kind='group'\).*off the callbacks"):
        trainer(tmp_path, NormAblation("group")).test(Foreign(), loader(16), ckpt_path=plain, weights_only=True)
    with pytest.warns(UserWarning, match=r"The checkpoint was trained without DropoutAblation"):
        trainer(tmp_path, DropoutAblation(0.1), max_epochs=2).fit(Foreign(), loader(16), ckpt_path=plain)


def test_pretrained_weights_may_be_loaded_in_part(tmp_path):
    module = Foreign()
    NormAblation("group").apply_(module)
    missing, unexpected = module.load_state_dict(Foreign().state_dict(), strict=False)
    assert "changed_by.NormAblation(kind='group')" in missing
    assert unexpected == [f"network.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]


def test_a_module_of_ones_own_is_loaded_by_hand(tmp_path):
    module = Foreign()
    file = saved(tmp_path, module, NormAblation("layer"))
    other = Foreign(seed=3)
    NormAblation("layer").apply_(other)
    other.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    assert same(weights(other), weights(module))


def test_our_classifiers_replace_layers_when_they_are_loaded(tmp_path):
    module = RegularizedClassifier(MNISTConvNet(norm="batch", image_size=4, width=4, hidden=8, num_classes=2))
    file = saved(tmp_path, module, NormAblation("none", layers="features.*"))
    loaded = RegularizedClassifier.load_from_checkpoint(file)
    assert isinstance(loaded.network.features[1], NoNorm)
    assert same(weights(loaded), weights(module))
    x = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(loaded.eval()(x), module.eval()(x))
    other = RegularizedClassifier(MNISTConvNet(norm="batch", image_size=4, width=4, hidden=8, num_classes=2))
    with pytest.raises(ValueError, match=r"give the Trainer callbacks=\[NormAblation\(kind='none', layers=\['features"):
        trainer(tmp_path).test(other, loader(16), ckpt_path=file, weights_only=True)


def test_layers_that_are_built_late_are_changed_too(tmp_path):
    class Late(Foreign):
        def __init__(self):
            super().__init__()
            self.network = None

        def configure_model(self):
            if self.network is None:
                self.network = Foreign().network

    class LateInSetup(Late):
        def configure_model(self):
            pass

        def setup(self, stage):
            Late.configure_model(self)

    for make in (Late, LateInSetup):
        module = make()
        run = trainer(tmp_path, NormAblation("group"), DropoutAblation(0.3))
        run.fit(module, loader(16))
        assert isinstance(module.network[1], nn.GroupNorm) and module.network[4].p == 0.3
        assert "configure_model" not in vars(module)
        run.test(module, loader(16), verbose=False)
    with pytest.raises(ValueError, match="NoNorms has no BatchNorm, GroupNorm or InstanceNorm"):

        class NoNorms(BoringModel):
            def configure_model(self):
                pass

        trainer(tmp_path, NormAblation("group")).fit(NoNorms())


def test_lightnings_own_module_gets_dropout(tmp_path):
    module = BoringModel()
    seen = []
    module.layer.register_forward_hook(lambda layer, args, _: seen.append((layer.training, (args[0] == 0).any())))
    run = trainer(tmp_path, DropoutAblation(0.5), limit_train_batches=2, limit_val_batches=1)
    run.fit(module)
    assert all(bool(dropped) == training for training, dropped in seen) and {t for t, _ in seen} == {True, False}


def test_copies_of_the_module_must_come_later(tmp_path):
    with pytest.raises(
        ValueError, match=r"EMAWeightAveraging copies the module before NormAblation.*NormAblation\(kind='g"
    ):
        trainer(tmp_path, EMAWeightAveraging(), NormAblation("group")).fit(Foreign(), loader(16))
    module = Foreign()
    trainer(tmp_path, NormAblation("group"), EMAWeightAveraging()).fit(module, loader(16))
    with pytest.raises(ValueError, match="two DropoutAblation callbacks would take back"):
        trainer(tmp_path, DropoutAblation(0.1), DropoutAblation(0.2, "spatial")).fit(Foreign(), loader(16))


def test_weight_average_averages_the_changed_network(tmp_path):
    module, average = Foreign(), WeightAverage(decay=0.5)
    trainer(tmp_path, average, NormAblation("group"), max_epochs=2).fit(module, loader(16), loader(8))
    assert average.average.weights.keys() == dict(module.named_parameters()).keys()
    assert average.average.steps == 8


def test_two_ablations_have_layers_of_their_own(tmp_path):
    module = Timm()
    file = saved(tmp_path, module, NormAblation("group", "network.layer1.*"), NormAblation("none", "network.layer4.*"))
    assert isinstance(module.network.layer1[0].bn1, nn.GroupNorm) and isinstance(module.network.layer4[0].bn1, NoNorm)
    with pytest.raises(ValueError, match=r"were changed by NormAblation\(kind='group', layers=\['network.layer1"):
        trainer(tmp_path, NormAblation("group", "network.layer1.*")).test(Timm(), loader(16), ckpt_path=file)


def test_layers_that_were_not_trained_with_are_warned_of(tmp_path):
    with pytest.warns(
        UserWarning, match=r"changed 1 layers of Foreign just now, which was not trained with them, to test"
    ):
        trainer(tmp_path, NormAblation("group")).test(Foreign(), loader(16), verbose=False)
    with pytest.warns(UserWarning, match="keeps the statistics of a new Foreign, which normalise nothing"):
        trainer(tmp_path, NormAblation("frozen")).fit(Foreign(), loader(16))


def test_frozen_statistics_stay_in_training(tmp_path):
    module = Foreign()
    trainer(tmp_path).fit(module, loader(16))
    before = weights(module)
    trainer(tmp_path, NormAblation("frozen", train_affine=False)).fit(module, loader(16))
    after = weights(module)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {f"network.{name}" for name in ("0.weight", "0.bias", "5.weight", "5.bias")}
    assert isinstance(module.network[1], FrozenBatchNorm)


def test_adversarial_training_of_a_timm_network(tmp_path):
    network = TimmNetwork("resnet10t", num_classes=10, in_channels=1)
    helper = MNISTConvNet(image_size=8, width=4, hidden=8, norm="batch")
    module = AdversarialClassifier(
        network,
        PGD(eps=0.1, step_size=0.05, steps=1),
        HAT(helper),
        engine=Engine(channels_last=True),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    )
    run = trainer(tmp_path, NormAblation("group"), DropoutAblation(0.2, "droppath"), limit_train_batches=2)
    run.fit(module, digits())
    assert isinstance(network.model.bn1, nn.GroupNorm) and isinstance(helper.features[1], nn.BatchNorm2d)
    assert network.model.layer4[0].bn2.dropout_ablation.p == pytest.approx(0.2)
    assert network.model.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_deep_network_without_normalisation_learns(tmp_path, precision):
    torch.manual_seed(0)
    module = RegularizedClassifier(
        ResNet18(in_channels=1, width=8), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    )
    losses = []
    see = At("on_train_batch_end", lambda run, _: losses.append(float(run.callback_metrics["train/loss"])))
    data = digits(batch_size=32)
    run = trainer(tmp_path, NormAblation("none"), see, max_epochs=8, precision=precision, num_sanity_val_steps=0)
    run.fit(module, data)
    assert sum(losses[-3:]) / 3 < 0.85 * losses[0]


def test_arguments():
    assert NormAblation("group").text == "NormAblation(kind='group')"
    assert DropoutAblation("1/4", "dropblock").text == "DropoutAblation(p=0.25, kind='dropblock', block_size=7)"
    with pytest.raises(
        ValueError, match="kind must be one of batch, group, layer, instance, none, frozen, dual; got 'bn'"
    ):
        NormAblation("bn")
    with pytest.raises(ValueError, match="train_affine=False has no effect with kind='group'"):
        NormAblation("group", train_affine=False)
    with pytest.raises(ValueError, match="p must be at least 0, got -1"):
        DropoutAblation(-1)
    with pytest.raises(ValueError, match="kind must be one of dropout, spatial, dropblock, droppath; got 'path'"):
        DropoutAblation(0.1, "path")
    with pytest.raises(ValueError, match="block_size must be an integer of at least 1, got 0"):
        DropoutAblation(0.1, "dropblock", block_size=0)


class TwoHeads(Foreign):
    """The head that counts comes first, as where an auxiliary one is declared last."""

    def __init__(self):
        super().__init__()
        self.network[4] = nn.Identity()
        self.auxiliary = nn.Linear(128, 2)


def test_it_is_said_once_where_dropout_is(tmp_path, caplog):
    def said(callback, module, *more):
        caplog.clear()
        with caplog.at_level("INFO"):
            run = trainer(tmp_path, callback)
            run.fit(module, loader(4))
            for name in more:
                getattr(run, name)(module, loader(4), **({} if name == "predict" else {"verbose": False}))
        return [record.getMessage() for record in caplog.records if "DropoutAblation" in record.getMessage()]

    start = "DropoutAblation(p=0.3, kind='dropout'"
    assert said(DropoutAblation(0.3), TwoHeads(), "test", "validate") == [
        f"{start}) attaches dropout to TwoHeads: auxiliary, the last linear layer in the order of its modules; for "
        "others, name layers after which to drop with layers=[...]."
    ]
    assert said(DropoutAblation(0.3, layers="network.3"), TwoHeads()) == [
        f"{start}, layers=['network.3']) attaches dropout to TwoHeads: network.3."
    ]
    assert said(DropoutAblation(0.3), Foreign()) == [f"{start}) sets dropout that Foreign has: network.4."]
    both = DropoutAblation(0.3, layers=["network.3", "network.4"])
    assert [line.partition(") ")[2] for line in said(both, Foreign())] == [
        "sets dropout that Foreign has: network.4.",
        "attaches dropout to Foreign: network.3.",
    ]
    off = DropoutAblation(0)
    assert said(off, Foreign()) == [
        "DropoutAblation(p=0.0, kind='dropout') switches off what there is of this kind in Foreign."
    ]

import copy
import warnings

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from lightning_advreg.attacks import FGSM, NFGSM, PGD
from lightning_advreg.callbacks import RobustAccuracy

from .foreign import At, Foreign, Probe, images, loader, trainer

PGD3 = PGD(eps=0.05, step_size=0.03, steps=3, seed=3)


def direct(module, attack, batches):
    """The accuracy under attack, without Lightning."""
    module.eval()
    right = total = 0
    for x, y in batches:
        right += (module(attack(module, x, y)).argmax(1) == y).sum().item()
        total += len(y)
    return torch.tensor(right / total)


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize(("run", "stage"), [("validate", "val"), ("test", "test")])
def test_equals_the_attack_outside_lightning(tmp_path, run, stage, inference_mode):
    module, batches = Foreign(seed=1), loader(43, batch_size=8)
    expected = direct(copy.deepcopy(module), PGD3, batches)
    clean = direct(copy.deepcopy(module), lambda model, x, y: x, batches)
    run = getattr(trainer(tmp_path, RobustAccuracy(PGD3), inference_mode=inference_mode), run)
    (result,) = run(module, batches, verbose=False)
    assert result[f"{stage}/robust_acc/pgd"] == expected
    assert 0 < expected < clean


def test_several_attacks_at_once_and_in_two_callbacks(tmp_path):
    module, batches = Foreign(seed=1), loader(20)
    attacks = {"small": FGSM(eps=0.02), "large": FGSM(eps=0.2)}
    callbacks = RobustAccuracy(attacks), RobustAccuracy({"whole": FGSM(eps=1)}, max_samples=8)
    (result,) = trainer(tmp_path, *callbacks).validate(module, batches, verbose=False)
    for name, attack in attacks.items():
        assert result[f"val/robust_acc/{name}"] == direct(copy.deepcopy(module), attack, batches)
    assert result["val/robust_acc/whole"] == direct(module, FGSM(eps=1), list(batches)[:2])


def test_the_attack_runs_in_float32_under_mixed_precision(tmp_path):
    module, batches, probe = Foreign(seed=1), loader(20), Probe()
    expected = direct(copy.deepcopy(module), PGD3, batches)
    callback = RobustAccuracy({"pgd": PGD3, "probe": probe})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (result,) = trainer(tmp_path, callback, precision="bf16-mixed").validate(module, batches, verbose=False)
    assert probe.autocast == [False] * 5
    assert result["val/robust_acc/pgd"] == expected


def test_a_batch_leaves_the_module_as_it_was(tmp_path):
    module = Foreign()
    module.network[0].weight.requires_grad_(False)
    seen = []

    def state(trainer, module):
        seen.append(
            {
                "training": [child.training for child in module.modules()],
                "requires_grad": [p.requires_grad for p in module.parameters()],
                "grad": [p.grad.tolist() for p in module.parameters()],
                "buffers": {name: buffer.tolist() for name, buffer in module.named_buffers()},
            }
        )

    def prepare(trainer, module):
        module.network.train()
        module.network[4].eval()
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)

    callbacks = (
        At("on_validation_start", prepare),
        At("on_validation_batch_start", state),
        RobustAccuracy(PGD3),
        At("on_validation_batch_end", state),
    )
    module.validation_step = lambda batch, batch_idx: None
    trainer(tmp_path, *callbacks).validate(module, loader(4), verbose=False)
    before, after = seen
    assert before == after
    assert before["training"][1:7] == [True, True, True, True, True, False]
    assert before["requires_grad"][:2] == [False, True]


def test_training_is_bitwise_the_same_with_and_without_it(tmp_path):
    def train(*callbacks):
        torch.manual_seed(0)
        module = Foreign()
        trainer(tmp_path, *callbacks, max_epochs=2).fit(module, loader(16, shuffle=True), loader(8, seed=1))
        return module.state_dict()

    without, with_it = train(), train(RobustAccuracy({"unseeded": PGD(steps=2), "probe": Probe()}))
    assert without.keys() == with_it.keys()
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_unseeded_attacks_draw_anew_in_every_batch_and_the_same_in_every_epoch(tmp_path):
    probe = Probe()
    torch.manual_seed(0)
    run = trainer(tmp_path, RobustAccuracy({"probe": probe}), max_epochs=2, num_sanity_val_steps=0)
    run.fit(Foreign(), loader(8, shuffle=True), loader(12))
    assert probe.draws[:3] == probe.draws[3:]
    assert len(set(probe.draws)) == 3


def test_max_samples_attacks_the_first_images_of_every_loader(tmp_path):
    probe = Probe()
    callback = RobustAccuracy({"probe": probe}, max_samples=6)
    trainer(tmp_path, callback).validate(Foreign(), [loader(12), loader(5)], verbose=False)
    assert probe.sizes == [4, 2, 4, 1]


@pytest.mark.parametrize("run", ["validate", "test"])
def test_several_loaders_are_logged_apart(tmp_path, run):
    module, loaders = Foreign(seed=1), [loader(20), loader(30, seed=1)]
    expected = [direct(copy.deepcopy(module), PGD3, batches) for batches in loaders]
    assert expected[0] != expected[1]
    run_trainer = trainer(tmp_path, RobustAccuracy(PGD3))
    getattr(run_trainer, run)(module, loaders, verbose=False)
    stage = {"validate": "val", "test": "test"}[run]
    logged = {k: v for k, v in run_trainer.callback_metrics.items() if "robust" in k}
    assert logged == {f"{stage}/robust_acc/pgd/dataloader_{i}": value for i, value in enumerate(expected)}


def test_validate_after_fit_counts_the_loaders_of_validate(tmp_path):
    run = trainer(tmp_path, RobustAccuracy(FGSM(eps=0.02)))
    module = Foreign()
    run.fit(module, loader(8), loader(8))
    results = run.validate(module, [loader(8), loader(6)], verbose=False)
    assert "val/robust_acc/fgsm/dataloader_1" in {**results[0], **results[1]}


def test_skips_epochs_in_fit_but_never_validate_or_test(tmp_path):
    epochs, probe = [], Probe()

    def note(model, x, y):
        epochs.append(run.current_epoch)
        return x

    callback = RobustAccuracy({"note": note, "probe": probe}, every_n_epochs=2)
    run = trainer(tmp_path, callback, max_epochs=4)
    module = Foreign()
    run.fit(module, loader(4), loader(8))
    assert epochs == [0, 0, 1, 1, 3, 3]  # the first two are the sanity check
    for function in (run.validate, run.test):
        probe.sizes.clear()
        function(module, loader(8), verbose=False)
        assert probe.sizes == [4, 4]


def test_the_sanity_check_attacks_and_leaves_no_trace(tmp_path):
    probe, after_sanity, totals = Probe(), [], []

    def total(trainer, module):
        totals.append(module._RobustAccuracy_probe["val/robust_acc/probe"].total.item())

    callbacks = (
        RobustAccuracy({"probe": probe}),
        At("on_sanity_check_end", lambda trainer, module: probe.sizes.append("sanity")),
        At("on_train_start", lambda trainer, module: after_sanity.append(dict(trainer.callback_metrics))),
        At("on_validation_epoch_end", total),
    )
    run = trainer(tmp_path, *callbacks, max_epochs=2, num_sanity_val_steps=1, val_check_interval=0.5)
    run.fit(Foreign(), loader(8), loader(10))
    assert probe.sizes == [4, "sanity", *[4, 4, 2] * 4]
    assert after_sanity == [{}]
    assert totals == [4, 10, 10, 10, 10]


def test_attacks_may_differentiate_and_change_what_they_are_given(tmp_path):
    class Transferred(Foreign):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            # made under inference mode, so that autograd refuses it
            return batch[0] * 1, batch[1] + 0

    def in_place(model, x, y):
        gradient = torch.autograd.grad(model(x.requires_grad_())[range(len(y)), y].sum(), x)[0]
        return x.detach().sub_(0.05 * gradient.sign()).clamp_(0, 1)

    module, batches = Transferred(seed=1), loader(20)
    expected = direct(copy.deepcopy(module), lambda model, x, y: in_place(model, x.clone(), y), batches)
    callback = RobustAccuracy({"first": in_place, "second": in_place})
    (result,) = trainer(tmp_path, callback).validate(module, batches, verbose=False)
    assert result["val/robust_acc/first"] == result["val/robust_acc/second"] == expected


def test_loaders_may_become_fewer_during_a_run(tmp_path):
    class Reloading(Foreign):
        def val_dataloader(self):
            return [loader(8), loader(8)] if self.current_epoch == 0 else loader(8)

    names = []

    def note(trainer, module):
        names.append(list(module._RobustAccuracy_fgsm))

    callbacks = RobustAccuracy(FGSM(eps=0.02)), At("on_validation_epoch_end", note)
    run = trainer(tmp_path, *callbacks, max_epochs=2, num_sanity_val_steps=0, reload_dataloaders_every_n_epochs=1)
    run.fit(Reloading(), loader(8))
    name = "val/robust_acc/fgsm"
    assert names == [[f"{name}/dataloader_0", f"{name}/dataloader_1"], [name]]


def test_checkpoints_and_early_stopping_can_monitor_it(tmp_path):
    monitor = "val/robust_acc/pgd"
    scores = []
    checkpoint = ModelCheckpoint(tmp_path, monitor=monitor, mode="max", save_top_k=1)
    stopping = EarlyStopping(monitor, mode="max", stopping_threshold=0.0)
    note = At("on_validation_end", lambda trainer, module: scores.append(trainer.callback_metrics[monitor].item()))
    # in front of it: the order of the list must not matter
    callbacks = stopping, checkpoint, RobustAccuracy(PGD3), note
    run = trainer(tmp_path, *callbacks, enable_checkpointing=True, max_epochs=3, num_sanity_val_steps=0)
    module = Foreign()
    run.fit(module, loader(8), loader(20))
    assert run.current_epoch == 1  # stopped after the first epoch, as any score beats 0
    assert checkpoint.best_model_score.item() == scores[0] > 0
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert saved["state_dict"].keys() == Foreign().state_dict().keys()


def test_metrics_are_on_the_module_during_a_run_and_gone_after_it(tmp_path):
    module = Foreign()
    names = dict(module.named_modules()).keys()
    during = []
    note = At("on_test_epoch_end", lambda trainer, module: during.append(dict(module.named_modules()).keys() - names))
    trainer(tmp_path, RobustAccuracy(FGSM(eps=0.1)), note).test(module, loader(4), verbose=False)
    assert during == [{"_RobustAccuracy_fgsm", "_RobustAccuracy_fgsm.test/robust_acc/fgsm"}]
    assert dict(module.named_modules()).keys() == names


def test_an_error_in_the_attack_comes_through_and_leaves_the_module_clean(tmp_path):
    module = Foreign()
    names = dict(module.named_modules()).keys()

    def broken(model, x, y):
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        trainer(tmp_path, RobustAccuracy({"broken": broken})).validate(module, loader(4), verbose=False)
    assert dict(module.named_modules()).keys() == names
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_works_on_a_module_that_logged_metrics_of_its_own_before(tmp_path):
    class WithMetric(Foreign):
        def __init__(self):
            super().__init__()
            self.accuracy = MulticlassAccuracy(2)

        def validation_step(self, batch, batch_idx):
            self.accuracy(self(batch[0]), batch[1])
            self.log("val/acc", self.accuracy)

    module = WithMetric()
    trainer(tmp_path).validate(module, loader(4), verbose=False)
    (result,) = trainer(tmp_path, RobustAccuracy(FGSM(eps=0.1))).validate(module, loader(4), verbose=False)
    assert result.keys() == {"val/acc", "val/robust_acc/fgsm"}


def test_pixels_out_of_range_are_an_error_and_not_a_number(tmp_path):
    x, y = images(4)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got values from -1.9107 to 1.98827"):
        trainer(tmp_path, RobustAccuracy(PGD3)).validate(
            Foreign(), DataLoader([(4 * x[i] - 2, y[i]) for i in range(4)], batch_size=4), verbose=False
        )


def test_batches_that_are_no_pairs_are_refused(tmp_path):
    x, y = images(4)
    module = Foreign()
    module.validation_step = lambda batch, batch_idx: None
    batches = DataLoader([{"pixels": x[i], "label": y[i]} for i in range(4)])
    with pytest.raises(
        TypeError, match=r"RobustAccuracy needs batches \(x, y\) .* got dict with the keys pixels, label"
    ):
        trainer(tmp_path, RobustAccuracy(PGD3)).validate(module, batches, verbose=False)


def test_a_module_without_forward_is_refused_before_any_time_is_spent(tmp_path):
    class NoForward(Foreign):
        forward = pl.LightningModule.forward

    with pytest.raises(TypeError, match="calls NoForward to get logits, but it defines no `forward`"):
        trainer(tmp_path, RobustAccuracy(PGD3)).validate(NoForward(), loader(4), verbose=False)


def test_two_callbacks_cannot_share_a_name(tmp_path):
    callbacks = RobustAccuracy({"a": FGSM(), "b": FGSM()}), RobustAccuracy({"b": PGD()})
    with pytest.raises(ValueError, match="two RobustAccuracy callbacks have an attack named 'b'"):
        trainer(tmp_path, *callbacks).validate(Foreign(), loader(4), verbose=False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"attacks": {}}, ValueError, "at least one attack"),
        ({"attacks": {"a/b": PGD()}}, ValueError, "without '/' and '.', such as 'pgd20', got 'a/b'"),
        ({"attacks": {"eps0.1": PGD()}}, ValueError, "got 'eps0.1'"),
        ({"attacks": {"": PGD()}}, ValueError, "got ''"),
        ({"attacks": NFGSM()}, ValueError, r"attacks\['nfgsm'\] is NFGSM, which leaves its budget"),
        ({"attacks": {"pgd": "PGD"}}, TypeError, r"attacks\['pgd'\] must be an attack, called as .* got 'PGD'"),
        ({"attacks": PGD(), "max_samples": 0}, ValueError, "max_samples must be an integer of at least 1, got 0"),
        ({"attacks": PGD(), "max_samples": 0.5}, ValueError, "max_samples must be an integer of at least 1, got 0.5"),
        ({"attacks": PGD(), "every_n_epochs": 0}, ValueError, "every_n_epochs must be an integer of at least 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        RobustAccuracy(**arguments)


def test_yaml_builds_it_by_class_names():
    parser = LightningArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    pgd = {"class_path": "PGD", "init_args": {"eps": "8/255", "steps": 20}}
    several = {"class_path": "RobustAccuracy", "init_args": {"attacks": {"pgd20": pgd}, "max_samples": 100}}
    single = {"class_path": "RobustAccuracy", "init_args": {"attacks": pgd}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jsonargparse renames the method below in version 5
        built = parser.instantiate_classes(parser.parse_object({"callbacks": [several, single]})).callbacks
    expected = PGD(eps=8 / 255, steps=20)
    assert [callback.attacks for callback in built] == [{"pgd20": expected}, {"pgd": expected}]
    assert built[0].max_samples == 100

"""What adversarially trained and regularised classifiers share."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.callbacks import RobustAccuracy
from lightning_advreg.constraints import Budget, MaxNorm, WeightClip
from lightning_advreg.objectives import PGDAT
from lightning_advreg.penalties import L1, L2, ElasticNet

from .parts import AtBatches, ForeignNet, adversarial, conv, digits, regularized, trainer


def norms(network):
    return [w.detach().flatten(1).norm(dim=1).max() for w in network.parameters() if w.dim() > 1]


def largest(network):
    return max(w.detach().abs().max() for w in network.parameters() if w.dim() > 1)


def squares(network):
    return sum(w.square().sum() for w in network.parameters() if w.dim() > 1)


def absolutes(network):
    return sum(w.abs().sum() for w in network.parameters() if w.dim() > 1)


def fit(model, data=None, **settings):
    fitting = trainer(**{"limit_train_batches": 3, "limit_val_batches": 1, **settings})
    fitting.fit(model, datamodule=data or digits())
    return fitting


def first_losses(model, expected, **settings):
    """Compare the loss of the first batches with ``expected(x, y)``, computed on the weights they were taken at."""
    seen = []

    class Watch(AtBatches):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            with torch.random.fork_rng():
                self.expected = expected(module, *batch)

    def see(trainer, module, batch):
        seen.append((trainer.callback_metrics["train/loss"].clone(), watch.expected.detach()))

    watch = Watch(see)
    fit(model, callbacks=[watch], **settings)
    assert len(seen) == 3
    for loss, value in seen:
        torch.testing.assert_close(loss, value)


def test_the_regularised_loss_is_cross_entropy_and_penalties_literally():
    def expected(module, x, y):
        log_p = module.network(x).log_softmax(1)
        smooth = -(0.9 * log_p[range(len(y)), y] + 0.1 * log_p.mean(1)).mean()
        w = module.network
        return smooth + 0.01 * absolutes(w) + 0.5 * 0.02 * squares(w) + 0.03 * absolutes(w) + 0.5 * 0.04 * squares(w)

    penalties = [L1(0.01), L2(0.02), ElasticNet(0.03, 0.04)]
    model = RegularizedClassifier(conv(norm="group"), penalties=penalties, label_smoothing=0.1)
    first_losses(model, expected)


def test_a_penalty_may_be_any_function_of_the_network():
    def bias_energy(network):
        return sum(p.square().sum() for p in network.parameters() if p.dim() == 1)

    model = RegularizedClassifier(ForeignNet(), penalties=[bias_energy])
    first_losses(model, lambda m, x, y: F.cross_entropy(m(x), y) + m.network.layer.bias.square().sum())
    assert list(model.penalties) == ["bias_energy"]


def test_the_adversarial_loss_is_that_of_the_attacked_images_literally():
    attack = PGD(eps=0.2, step_size=0.1, steps=2)

    def expected(module, x, y):
        x_adv = attack(module.network, x, y)
        return (
            0.75 * F.cross_entropy(module.network(x_adv), y, label_smoothing=0.1)
            + 0.25 * F.cross_entropy(module.network(x), y, label_smoothing=0.1)
            + 0.5 * 1e-2 * squares(module.network)
        )

    objective = PGDAT(label_smoothing=0.1, clean_weight=0.25)
    model = AdversarialClassifier(conv(norm="group"), attack=attack, objective=objective, penalties=[L2(1e-2)])
    # the draws of the attack are repeated: expected() runs on a fork of the generator that training uses
    first_losses(model, expected)


def test_fgsm_rs_training_is_one_step_from_a_random_start():
    def expected(module, x, y):
        delta = torch.empty_like(x).uniform_(-0.2, 0.2)
        start = (x + delta).clamp(0, 1).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(module.network(start), y), start)
        moved = start.detach() + 0.25 * grad.sign()
        x_adv = (x + (moved - x).clamp(-0.2, 0.2)).clamp(0, 1)
        return F.cross_entropy(module.network(x_adv), y)

    first_losses(AdversarialClassifier(conv(norm="group"), attack=FGSM(eps=0.2, random_start=True)), expected)


def test_each_penalty_is_logged_under_its_name():
    model = RegularizedClassifier(ForeignNet(), penalties=[L1(0.5), L2(1.0), L1(0.25)], optimizer=frozen_sgd)
    metrics = fit(model).callback_metrics
    for name, value in (
        ("l1", 0.5 * absolutes(model.network)),
        ("l2", 0.5 * squares(model.network)),
        ("l1_2", 0.25 * absolutes(model.network)),
    ):
        torch.testing.assert_close(metrics[f"train/penalty/{name}"], value.detach())


frozen_sgd = partial(torch.optim.SGD, lr=0.0)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("build", [adversarial, regularized])
def test_hard_limits_hold_before_the_first_step_and_after_every_one(build, accumulate):
    checked = []

    class First(AtBatches):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            checked.append((float(max(norms(module.network))), float(largest(module.network))))

    model = build(
        constraints=[MaxNorm(0.3), WeightClip("1/8")],
        optimizer=partial(torch.optim.SGD, lr=5.0),
        lr_scheduler=None,
        network=conv(norm="group"),
    )
    assert float(largest(model.network)) > 1 / 8
    see = First(lambda trainer, module, batch: checked.append((max(norms(module.network)), largest(module.network))))
    fit(model, callbacks=[see], limit_train_batches=4, accumulate_grad_batches=accumulate)
    assert len(checked) == 8
    assert max(norm for norm, _ in checked) <= 0.3 + 1e-6
    assert max(value for _, value in checked) <= 1 / 8


def test_soft_limits_pull_where_hard_ones_hold():
    def trained(penalties):
        torch.manual_seed(0)
        model = RegularizedClassifier(ForeignNet(), penalties=penalties, optimizer=partial(torch.optim.SGD, lr=0.1))
        fit(model, max_epochs=2, limit_train_batches=6)
        return absolutes(model.network)

    assert trained([L1("1/10")]) < 0.6 * trained([])


def test_a_budget_is_checked_before_any_time_is_spent():
    with pytest.raises(ValueError, match="network exceeds its budget: 650 parameters used, 600 allowed"):
        RegularizedClassifier(ForeignNet(), constraints=[Budget(parameters=600)])
    with pytest.raises(ValueError, match=r"network exceeds its budget: .* layers used, 1 allowed"):
        AdversarialClassifier(conv(), constraints=[Budget(layers=1)])


@pytest.mark.parametrize("penalty", [L2(0.1), ElasticNet(0.1, 0.1)])
def test_weight_decay_counted_twice_is_announced(penalty):
    model = RegularizedClassifier(
        ForeignNet(), penalties=[L1(0.1), penalty], optimizer=partial(torch.optim.AdamW, weight_decay=0.05)
    )
    name = type(penalty).__name__.lower()
    with pytest.warns(UserWarning, match=f"squared weights count twice: in penalty '{name}' .*weight_decay=0.05"):
        fit(model)


def test_weight_decay_alone_is_not_announced(recwarn):
    fit(RegularizedClassifier(ForeignNet(), penalties=[L1(0.1)], optimizer=partial(torch.optim.AdamW, lr=0.1)))
    fit(RegularizedClassifier(ForeignNet(), penalties=[L2(0.1)], optimizer=partial(torch.optim.SGD, lr=0.1)))
    assert not [w for w in recwarn if "count twice" in str(w.message)]


@pytest.mark.parametrize("build", [adversarial, regularized])
def test_metrics_of_validation_and_test_equal_a_direct_computation(build):
    attack = PGD(eps=0.1, step_size=0.05, steps=2, seed=3)
    model = build(optimizer=partial(torch.optim.Adam, lr=1e-2), lr_scheduler=None)
    # 32 and 360 images in batches of 7: the last batch is smaller, so a mean of means would differ
    data = digits(eval_batch_size=7)
    fitting = fit(model, data=data, limit_val_batches=1.0, callbacks=[RobustAccuracy({"pgd2": attack})])
    found = {key: float(value) for key, value in fitting.callback_metrics.items()}
    found |= fitting.test(model, datamodule=data, verbose=False)[0]
    model.eval()
    for stage, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        x, y = (torch.cat(part) for part in zip(*loader, strict=True))
        with torch.no_grad():
            logits = model(x)
        assert found[f"{stage}/acc"] == pytest.approx((logits.argmax(1) == y).float().mean().item())
        assert found[f"{stage}/loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-4)
        assert 0 <= found[f"{stage}/robust_acc/pgd2"] <= found[f"{stage}/acc"]


def test_robust_accuracy_equals_a_direct_computation_for_an_attack_without_chance():
    attack = FGSM(eps=0.15)
    model = regularized(optimizer=partial(torch.optim.Adam, lr=1e-2), lr_scheduler=None)
    data = digits()
    fitting = fit(model, data=data, max_epochs=3, limit_train_batches=6)
    tester = trainer(callbacks=[RobustAccuracy(attack)])
    (found,) = tester.test(model, datamodule=data, verbose=False)
    model.eval()
    x, y = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    hits = model(attack(model, x, y)).argmax(1) == y
    assert found["test/robust_acc/fgsm"] == pytest.approx(hits.float().mean().item())
    assert found["test/robust_acc/fgsm"] < found["test/acc"]
    assert fitting.global_step == 18


def test_training_accuracy_is_that_of_the_logits_the_objective_computed():
    always_right = partial(RegularizedClassifier, ForeignNet(), optimizer=frozen_sgd)()
    expected = []
    see = AtBatches(lambda t, m, batch: expected.append((m(batch[0]).argmax(1) == batch[1]).float().mean()))
    found = fit(always_right, callbacks=[see]).callback_metrics
    assert float(found["train/acc"]) == pytest.approx(float(torch.stack(expected).mean()))
    assert "train/robust_acc" not in found
    found = fit(adversarial()).callback_metrics
    assert "train/robust_acc" in found
    assert "train/acc" not in found


def test_the_files_of_a_logger_hold_the_promised_keys(tmp_path):
    model = adversarial(penalties=[L2(0.1)])
    fitting = fit(model, logger=CSVLogger(tmp_path), callbacks=[RobustAccuracy({"fgsm": FGSM(eps=0.1)})])
    fitting.test(model, datamodule=digits(), verbose=False)
    header = set((tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0].split(","))
    assert header >= {
        "train/loss",
        "train/penalty/l2",
        "train/robust_acc",
        "train/eps_factor",
        "val/loss",
        "val/acc",
        "val/robust_acc/fgsm",
        "test/acc",
        "test/robust_acc/fgsm",
    }

import copy
import json

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import APGD, FGSM, PGD, AutoAttack, DeepFool
from lightning_advreg.callbacks import RobustAccuracy, RobustEvaluation, robust_evaluation
from lightning_advreg.callbacks.evaluation_pictures import most_telling
from lightning_advreg.evaluation import CurveSettings, evaluate_robustness

from ..modules.parts import conv, digits
from .evaluating import NAME, PGD3, PICTURES, callback, pictures, results, run
from .foreign import At, Foreign, Probe, images, loader, trainer

AA = AutoAttack(eps=0.05, steps=5, queries=20)

pytestmark = pytest.mark.filterwarnings("ignore:the DLR loss divides", "error:The search runs on")


@pytest.mark.parametrize("inference_mode", [True, False])
def test_it_is_the_evaluation_outside_lightning(tmp_path, inference_mode):
    attacks = {"aa": AA, "pgd": PGD3}
    module, (x, y) = Foreign(seed=1), images(30)
    direct = evaluate_robustness(
        copy.deepcopy(module).eval(), x, y, attacks, curve=CurveSettings.around(PGD3), seed=4
    ).as_dict()
    # as LightningCLI does, whose optimizers hold what cannot be copied
    module.optimizer = (None for _ in range(3))
    evaluating = RobustEvaluation(attacks, seed=4)
    (logged,) = run(tmp_path, evaluating, loader(30, batch_size=8), module, inference_mode=inference_mode)
    (report,) = evaluating.reports
    assert results(tmp_path) == report.as_dict() == direct
    assert 0 < report.worst_case.correct < report.clean.correct < 30
    robust = {name.removeprefix("test/robust_acc/"): value for name, value in logged.items() if "robust" in name}
    stages = {f"aa/{name}": rate for name, rate in report.attacks["aa"].stages.items()}
    expected = {"aa": report.attacks["aa"].robust, "pgd": report.attacks["pgd"].robust, **stages}
    expected["worst_case"] = report.worst_case
    assert robust == {name: pytest.approx(rate.accuracy) for name, rate in expected.items()}
    assert len(stages) == 4
    times = json.loads((tmp_path / f"{NAME}_timings.json").read_text())
    assert times["attacks"].keys() == attacks.keys() and times["curve"] > 0
    assert pictures(tmp_path) == PICTURES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", f"{NAME}.json", f"{NAME}_timings.json"]


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(robust_evaluation, "AutoAttack", lambda **s: AutoAttack(steps=3, queries=5, **s))


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("settings", "name", "norm", "eps"),
    [
        ({}, "autoattack", "l2", 0.5),
        ({"version": "fast"}, "autoattack_fast", "l2", 0.5),
        ({"eps": "1/4"}, "autoattack", "l2", 0.25),
        ({"norm": "linf", "eps": 0.1}, "autoattack", "linf", 0.1),
    ],
)
def test_norm_and_budget_are_those_of_training(tmp_path, short, settings, name, norm, eps):
    module = AdversarialClassifier(conv(), attack=PGD(norm="l2", eps=0.5))
    evaluating = RobustEvaluation(**settings, max_samples=6, masking=False, examples=0, seed=3)
    trainer(tmp_path, evaluating).test(module, datamodule=digits(), verbose=False)
    (report,) = evaluating.reports
    assert report.clean.images == 6
    assert list(report.attacks) == [name]
    attack = report.attacks[name].attack
    assert (attack["norm"], attack["eps"], attack["seed"]) == (norm, eps, 3)
    assert attack["version"] == settings.get("version", "standard")
    assert report.curve.norm == norm and report.curve.attack["attack"] == "APGD"
    assert report.curve.eps == tuple(eps * factor for factor in (0, 0.25, 0.5, 1, 1.5, 2, 4))


@pytest.mark.usefixtures("no_pictures")
def test_other_settings_of_the_curve(tmp_path):
    evaluating = callback({"fgsm": FGSM(eps=0.2), "pgd": PGD3}, curve_eps=["1/10", 0])
    run(tmp_path, evaluating)
    assert evaluating.reports[0].curve.eps == (0, 0.1)
    assert evaluating.reports[0].curve.attack["attack"] == "PGD"
    run(tmp_path, callback(curve_eps=[]))
    assert results(tmp_path)["curve"] is None


def test_the_first_images_of_every_loader(tmp_path):
    evaluating = callback({"pgd": PGD3}, max_samples=6)
    run_trainer = trainer(tmp_path, evaluating)
    run_trainer.test(Foreign(seed=1), [loader(12), loader(5, seed=1)], verbose=False)
    assert [report.clean.images for report in evaluating.reports] == [6, 5]
    for index, (report, seed) in enumerate(zip(evaluating.reports, (0, 1), strict=True)):
        x, y = images(12 if seed == 0 else 5, seed)
        expected = evaluate_robustness(Foreign(seed=1).eval(), x[:6], y[:6], {"pgd": PGD3}, masking=False)
        assert results(tmp_path, f"_dataloader_{index}") == report.as_dict() == expected.as_dict()
        name = f"test/robust_acc/pgd/dataloader_{index}"
        assert run_trainer.callback_metrics[name] == pytest.approx(report.worst_case.accuracy)
        assert f"test/robust_acc/worst_case/dataloader_{index}" in run_trainer.callback_metrics
    assert "test_per_class_dataloader_1_000000.png" in pictures(tmp_path)


def test_the_module_is_left_as_it_was(tmp_path):
    module = Foreign()
    module.network[0].weight.requires_grad_(False)
    seen = []

    def state(trainer, module):
        seen.append(
            {
                "training": [child.training for child in module.modules()],
                "requires_grad": [p.requires_grad for p in module.parameters()],
                "grad": [p.grad is None for p in module.parameters()],
                "state": {name: value.tolist() for name, value in module.state_dict().items()},
                "random": torch.get_rng_state().tolist(),
            }
        )

    def prepare(trainer, module):
        module.network.train()
        module.network[4].eval()

    hooks = At("on_test_epoch_end", prepare), At("on_test_epoch_end", state)
    evaluating = RobustEvaluation({"pgd": PGD3, "probe": Probe()})
    trainer(tmp_path, *hooks, evaluating, At("on_test_epoch_end", state)).test(module, loader(8), verbose=False)
    before, after = seen
    assert before == after
    assert before["training"][1:7] == [True, True, True, True, True, False]
    assert before["requires_grad"][:2] == [False, True]


@pytest.mark.usefixtures("no_pictures")
def test_attacks_run_in_float32_under_mixed_precision(tmp_path):
    probe = Probe()
    expected = callback({"pgd": PGD3})
    run(tmp_path, expected)
    evaluating = callback({"pgd": PGD3, "probe": probe})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(tmp_path, evaluating, precision="bf16-mixed")
    assert probe.autocast == [False]
    assert evaluating.reports[0].attacks["pgd"].as_dict() == expected.reports[0].attacks["pgd"].as_dict()


def test_a_module_in_half_precision(tmp_path):
    evaluating = callback(curve_eps=None)
    run(tmp_path, evaluating, precision="bf16-true")
    assert evaluating.reports[0].x_adv.dtype == torch.bfloat16
    assert pictures(tmp_path) == PICTURES


@pytest.mark.usefixtures("no_pictures")
def test_batch_size_and_seed(tmp_path):
    drawn = []
    for seed in (0, 0, 5):
        probe = Probe()
        torch.manual_seed(len(drawn))
        evaluating = callback({"probe": probe}, batch_size=7, seed=seed)
        run(tmp_path, evaluating)
        right = evaluating.reports[0].clean.correct
        assert sum(probe.sizes) == right and probe.sizes[0] == 7
        drawn.append(probe.draws)
    assert drawn[0] == drawn[1] != drawn[2]
    # every batch has random numbers of its own
    assert len(set(drawn[0])) == len(drawn[0]) > 1


def test_fast_dev_run_leaves_no_files(tmp_path):
    evaluating = callback(curve_eps=None)
    run(tmp_path, evaluating, fast_dev_run=True)
    assert evaluating.reports[0].clean.images == 4
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.usefixtures("no_pictures")
def test_too_few_names_are_refused_before_the_attack(tmp_path):
    probe = Probe()
    with pytest.raises(
        ValueError, match="class_names has 1 names, but Foreign gives 2 classes; give one name per class"
    ):
        run(tmp_path, callback({"probe": probe}, class_names=["left"]))
    assert probe.sizes == []


def test_it_acts_in_test_alone(tmp_path):
    # without a budget, which test would ask for
    evaluating = RobustEvaluation()
    run_trainer = trainer(tmp_path, evaluating)
    run_trainer.fit(Foreign(), loader(8), loader(8))
    run_trainer.validate(Foreign(), loader(8), verbose=False)
    assert evaluating.reports == [] and not list(tmp_path.glob("robust*"))


@pytest.mark.usefixtures("no_pictures")
def test_a_second_test_forgets_the_first(tmp_path):
    evaluating = callback()
    for n in (8, 5):
        run(tmp_path, evaluating, loader(n))
        assert [report.clean.images for report in evaluating.reports] == [n]
        assert results(tmp_path)["clean"]["images"] == n


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([RobustEvaluation()], r"needs a budget, and Foreign has no training attack .* such as eps=8/255, or attacks"),
        ([RobustEvaluation(DeepFool(), curve_eps=[])], "masking needs an attack with a budget eps > 0"),
        (
            [RobustEvaluation(DeepFool(), masking=False, curve_eps=[0.1])],
            r"curve_eps=\[0.1\] needs an attack with a budget",
        ),
        ([RobustEvaluation(FGSM(), curve_eps=[0])], "different budgets, one above 0 at least"),
        ([callback(), callback(FGSM())], "two RobustEvaluation callbacks would write the same files"),
        ([callback(), RobustAccuracy(PGD3)], "both log test/robust_acc/pgd; rename the attack of one of them"),
    ],
)
def test_setup_refuses(tmp_path, callbacks, message):
    module = Foreign()
    module.test_step = lambda *args: pytest.fail("the test began")
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, *callbacks).test(module, loader(4), verbose=False)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"attacks": {}}, ValueError, "attacks must name at least one attack"),
        ({"attacks": {"a": "pgd"}}, TypeError, r"attacks\['a'\] must be an attack"),
        ({"attacks": APGD(targeted=True)}, ValueError, r"attacks\['apgd'\] is targeted"),
        ({"attacks": PGD3, "eps": 0.1}, ValueError, "version, norm and eps are settings of AutoAttack"),
        ({"attacks": PGD3, "version": "fast"}, ValueError, "give them, or attacks, but not both"),
        ({"norm": "l2"}, ValueError, "norm='l2' needs an eps of that norm; give both, or neither"),
        ({"eps": 0}, ValueError, "eps must be above 0, got 0"),
        ({"eps": "a"}, ValueError, "eps must be a number such as 0.03 or a fraction such as 8/255, got 'a'"),
        ({"eps": 0.1, "norm": "l3"}, ValueError, "norm must be"),
        ({"version": "quick"}, ValueError, "version must be standard, plus, rand or fast, got 'quick'"),
        ({"max_samples": 0}, ValueError, "max_samples must be an integer of at least 1, got 0"),
        ({"examples": -1}, ValueError, "examples must be an integer of at least 1, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1, got 0"),
        ({"curve_eps": [-0.1]}, ValueError, "curve_eps must be at least 0, got -0.1"),
    ],
)
def test_bad_arguments(settings, error, message):
    with pytest.raises(error, match=message):
        RobustEvaluation(**settings)


def test_batches_must_be_pairs(tmp_path):
    with pytest.raises(TypeError, match=r"RobustEvaluation needs batches \(x, y\) of images and labels"):
        evaluating = callback()
        module = Foreign()
        module.test_step = lambda *args: None
        run(tmp_path, evaluating, DataLoader(images(4)[0], batch_size=2), module)


def test_images_that_fell_are_shown_before_others():
    x = torch.zeros(6, 1, 2, 2)
    x_adv = x.clone()
    x_adv[2, 0, 0, 1] = x_adv[5, 0, 1, 0] = 0.1
    assert most_telling(x, x_adv, 1).tolist() == [2]
    assert most_telling(x, x_adv, 4).tolist() == [0, 1, 2, 5]
    assert most_telling(x, x_adv, 9).tolist() == [0, 1, 2, 3, 4, 5]

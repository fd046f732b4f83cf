import dataclasses
import pickle
import re

import jsonargparse
import pytest
import torch

from lightning_advreg.attacks import FAB, FGSM, NFGSM, PGD, Attack, AutoAttack, BoundedAttack, Square

# jsonargparse 4.49 renames instantiate_classes; the oldest supported release has no other name for it
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.mark.parametrize("attack", [FGSM, PGD])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": -0.1}, r"eps must be at least 0, got -0.1"),
        ({"eps": "8:255"}, r"eps must be a number such as 0.03 or a fraction such as 8/255, got '8:255'"),
        ({"step_size": -1}, r"step_size must be at least 0, got -1"),
        ({"step_size": float("nan")}, r"step_size must be a number .* got nan"),
        ({"norm": "l3"}, r"norm must be one of linf, l2, l1, got 'l3'"),
        ({"model_mode": "test"}, r"model_mode must be eval, train or batch_stats, got 'test'"),
    ],
)
def test_arguments_out_of_range_are_named(attack, arguments, message):
    with pytest.raises(ValueError, match=message):
        attack(**arguments)


@pytest.mark.parametrize("attack", [FGSM, NFGSM, PGD, Square, FAB, AutoAttack])
def test_no_linf_budget_is_above_1(attack):
    for eps, said, remedy in [(8, "8", "8/255"), (1.5, "1.5", "1.5/255"), ("510/255", "510/255", "2/255")]:
        message = (
            f"eps of {attack.__name__} is {said}, but pixels are in [0, 1] and no Linf budget above 1 means anything; "
            f"write {remedy}?"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            attack(eps=eps)
    assert attack(eps=1).radius == 1
    if attack is not NFGSM:
        assert attack(norm="l2", eps=8).radius == 8


@pytest.mark.parametrize("attack", [FGSM, NFGSM, PGD, Square, FAB, AutoAttack])
def test_a_scaled_linf_budget_ends_at_the_whole_box(attack):
    assert attack(eps=0.6).scaled(2).radius == 1
    # rounding, as of a curve that ends at 1
    assert attack(eps=0.1).scaled(1 / 0.1 * (1 + 1e-15)).radius == 1
    if attack is not NFGSM:
        assert attack(norm="l2", eps=0.6).scaled(2).radius == 1.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"steps must be an integer of at least 1, got 0"),
        ({"restarts": 0}, r"restarts must be an integer of at least 1, got 0"),
        ({"restarts": 2, "random_start": False}, r"restarts without random_start would all be alike"),
    ],
)
def test_pgd_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PGD(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (255 * x, y), ValueError, r"images must lie in \[0, 1\], got values from"),
        (lambda x, y: (x, y + 1), ValueError, r"labels must be in \[0, 6\), for 6 classes, got labels from 1 to 6"),
        (lambda x, y: (x, y - 1), ValueError, r"labels must be in \[0, 6\), for 6 classes, got labels from -1 to 4"),
        (lambda x, y: ((255 * x).byte(), y), TypeError, r"images must be floating point in \[0, 1\], got torch.uint8"),
        (lambda x, y: (x, y.float()), TypeError, r"labels must be integer class indices, got torch.float32"),
        (lambda x, y: (x, y[:3]), ValueError, r"labels must have shape \(5,\), one per image, got \(3,\)"),
    ],
)
def test_bad_batches_are_refused(net, batch, change, error, message):
    with pytest.raises(error, match=message):
        PGD()(net, *change(*batch))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_labels_of_every_integer_dtype_work(net, batch, dtype, loss):
    x, y = batch
    attack = PGD(loss=loss, random_start=False)
    assert torch.equal(attack(net, x, y.to(dtype)), attack(net, x, y))


def test_bad_budgets_per_image_are_refused(net, batch):
    with pytest.raises(ValueError, match=r"eps must be one number or one per image, shape \(5,\), got \(2,\)"):
        PGD()(net, *batch, eps=torch.rand(2))
    with pytest.raises(ValueError, match=r"eps must be at least 0 for every image, got -0.5"):
        PGD()(net, *batch, eps=torch.tensor([0.1, 0.1, -0.5, 0.1, 0.1]))


def test_attacks_are_values():
    attack = PGD(eps="8/255", step_size="2/255")
    assert attack == PGD(eps=8 / 255, step_size=2 / 255)
    assert attack.radius == 8 / 255
    assert hash(attack) == hash(PGD())
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert all(isinstance(v, bool | int | float | str | None) for v in dataclasses.asdict(attack).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.eps = 1
    with pytest.raises(TypeError, match="positional argument"):
        PGD("l2")


def test_an_attack_without_a_budget_says_what_to_do_about_a_schedule():
    class Blank(Attack):
        def __call__(self, model, x, y):
            return x.detach()

    with pytest.raises(TypeError, match="Blank has no `scaled` method, which a schedule of its eps needs; leave"):
        Blank().scaled(0.5)
    with pytest.raises(TypeError, match="abstract"):
        BoundedAttack()


@pytest.fixture
def parser():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Attack, "attack")
    return parser


def test_eps_is_read_as_people_write_it_on_the_command_line(parser):
    arguments = ["--attack=PGD", "--attack.eps=8/255", "--attack.step_size=1e-2", "--attack.norm=l2"]
    attack = parser.instantiate_classes(parser.parse_args(arguments)).attack
    assert attack == PGD(eps=8 / 255, step_size=0.01, norm="l2")


def test_eps_is_read_as_people_write_it_in_yaml(parser, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "attack:\n  class_path: lightning_advreg.attacks.FGSM\n  init_args:\n    eps: 8/255\n    step_size: 1e-3\n"
    )
    attack = parser.instantiate_classes(parser.parse_args([f"--config={config}"])).attack
    assert attack == FGSM(eps=8 / 255, step_size=1e-3)


def test_a_negative_eps_is_refused_from_the_command_line(parser):
    config = parser.parse_args(["--attack=PGD", "--attack.eps=-1"])
    with pytest.raises(ValueError, match="eps must be at least 0"):
        parser.instantiate_classes(config)

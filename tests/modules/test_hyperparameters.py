import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.constraints import Budget, MaxNorm
from lightning_advreg.modules import GAN, LinearOneCycle
from lightning_advreg.modules.base import by_name
from lightning_advreg.modules.hyperparameters import Undescribable, class_path, describe, describe_all
from lightning_advreg.networks import MNISTConvNet, ResNet18

from .parts import ForeignNet


@pytest.mark.parametrize("value", [None, True, 3, 0.25, "8/255", [1, [2.0, None]], {"a": {"b": False}}])
def test_plain_values_stay_as_they_are(value):
    assert describe(value) == value
    assert type(describe(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "kind"), [(np.float64(0.5), float), (np.float32(0.5), float), (np.int64(3), int), (np.str_("a"), str)]
)
def test_numbers_of_numpy_become_plain(value, kind):
    assert type(describe(value)) is kind
    assert describe(value) == value


def test_tuples_become_lists_that_a_config_file_can_hold():
    assert describe((1, (2, 3))) == [1, [2, 3]]


def test_dataclasses_are_described_whole_and_rebuilt_from_it():
    described = describe(PGD(norm="l2", eps="1/2", step_size=0.1, steps=3, seed=4))
    assert described["class_path"] == "lightning_advreg.attacks.PGD"
    assert PGD(**described["init_args"]) == PGD(norm="l2", eps=0.5, step_size=0.1, steps=3, seed=4)


def test_fields_that_the_constructor_does_not_take_are_left_out():
    @dataclasses.dataclass
    class Counted:
        a: int
        b: int = dataclasses.field(default=0, init=False)

    Counted.__qualname__ = "Counted"
    assert describe(Counted(1))["init_args"] == {"a": 1}


def test_networks_are_described_by_what_they_were_given():
    network = ResNet18(num_classes=7, width=8)
    assert describe(network) == {
        "class_path": "lightning_advreg.networks.ResNet18",
        "init_args": {"num_classes": 7, "width": 8},
    }


def test_classes_and_partials_of_classes():
    assert describe(torch.optim.SGD) == {"class_path": "torch.optim.SGD"}
    assert describe(partial(torch.optim.SGD, lr=0.1)) == {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
    nested = partial(partial(LinearOneCycle, warmup=0.2), total_steps=3)
    assert describe(nested)["init_args"] == {"warmup": 0.2, "total_steps": 3}


def test_collections_are_described_item_by_item():
    described = describe({"hard": [MaxNorm(3.0), Budget(layers=2)], "attack": FGSM(eps=0)})
    paths = [item["class_path"].rpartition(".")[2] for item in [*described["hard"], described["attack"]]]
    assert paths == ["MaxNorm", "Budget", "FGSM"]


def test_callables_made_by_the_command_line():
    parser = ArgumentParser()
    parser.add_argument("--optimizer", type=OptimizerCallable)
    parser.add_argument("--scheduler", type=LRSchedulerCallable)
    made = parser.instantiate_classes(
        parser.parse_object(
            {
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
                "scheduler": {"class_path": "lightning_advreg.modules.LinearOneCycle"},
            }
        )
    )
    optimizer = describe(made.optimizer)
    assert optimizer["class_path"] == "torch.optim.SGD"
    assert optimizer["init_args"]["lr"] == 0.5
    assert describe(made.scheduler)["class_path"] == "lightning_advreg.modules.LinearOneCycle"


class Unsuitable(MNISTConvNet):
    pass


def local_class():
    class Local(MNISTConvNet):
        pass

    return Local


@pytest.mark.parametrize(
    "value",
    [
        ForeignNet(),
        lambda parameters: None,
        torch.zeros(2),
        partial(torch.optim.SGD, [], 0.1),
        partial(lambda cls, lr: cls, torch.optim.SGD, lr=0.1),
        partial(torch.optim.SGD, lr=torch.zeros(1)),
        [1, ForeignNet()],
        {"a": {"b": nn.ReLU()}},
        MNISTConvNet(image_size=8).float,
        local_class()(image_size=8),
        local_class(),
        object(),
    ],
)
def test_what_plain_values_cannot_rebuild_is_refused(value):
    with pytest.raises(Undescribable):
        describe(value)


def test_a_class_of_the_main_script_is_refused(monkeypatch):
    # another program cannot import it
    monkeypatch.setattr(Unsuitable, "__module__", "__main__")
    with pytest.raises(Undescribable, match="Unsuitable is defined where another program cannot import it"):
        describe(Unsuitable(image_size=8))


def test_arguments_that_cannot_be_described_are_left_out():
    assert describe_all({"network": ForeignNet(), "n": 1, "attack": lambda m, x, y: x}) == {"n": 1}


def test_class_paths_are_the_shortest_that_import():
    assert class_path(GAN) == "lightning_advreg.modules.GAN"
    assert class_path(torch.optim.Adam) == "torch.optim.Adam"
    assert class_path(ForeignNet) == f"{__package__}.parts.ForeignNet"


def test_names_of_penalties():
    def decay(module):
        return 0

    assert list(by_name([PGD(), FGSM(), PGD(), decay, PGD()])) == ["pgd", "fgsm", "pgd_2", "decay", "pgd_3"]

"""Numbers that change during training."""

import math
import pickle
from dataclasses import FrozenInstanceError, dataclass

import jsonargparse
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_advreg.modules.hyperparameters import describe
from lightning_advreg.schedules import Constant, Piecewise, Ramp, Schedule, check_schedule

# jsonargparse 4.49 renames instantiate_classes; the oldest supported release has no other name for it
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.mark.parametrize(
    ("shape", "middle"), [("linear", 1.25), ("cosine", 1 + (1 - math.cos(math.pi / 4)) / 2), ("exponential", 2**0.25)]
)
def test_a_ramp_goes_from_start_to_end(shape, middle):
    ramp = Ramp(epochs=4, start=1, end=2, start_epoch=3, shape=shape)
    assert [ramp.value(epoch) for epoch in (0, 2.9, 3)] == [1, 1, 1]
    assert ramp.value(4) == pytest.approx(middle)
    assert [ramp.value(epoch) for epoch in (7, 7.1, 1e9)] == [2, 2, 2]


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential"])
@pytest.mark.parametrize(("start", "end"), [(0.1, 0.3), (0.3, 0.1), (0.7, 0.7)])
@given(epoch=st.floats(0, 12), later=st.floats(0, 12))
def test_a_ramp_is_monotone_and_keeps_its_bounds(shape, start, end, epoch, later):
    ramp = Ramp(epochs="7/3", start=start, end=end, start_epoch=2, shape=shape)
    assert ramp.bounds == (min(start, end), max(start, end))
    first, second = ramp.value(min(epoch, later)), ramp.value(max(epoch, later))
    assert (second - first) * (end - start) >= -1e-15
    assert ramp.bounds[0] - 1e-15 <= first <= ramp.bounds[1] + 1e-15


def test_a_ramp_ends_at_its_end_to_the_last_digit():
    # 0.1 + (0.3 - 0.1) is not 0.3
    assert Ramp(epochs=3, start=0.1, end=0.3).value(3) == 0.3


def test_a_ramp_of_no_epochs_is_a_jump():
    ramp = Ramp(epochs=0, start=5, end=6, start_epoch=2)
    assert [ramp.value(epoch) for epoch in (0, 1.99, 2, 3)] == [5, 5, 6, 6]
    assert Ramp(epochs=0).value(0) == 1


@pytest.mark.parametrize(
    ("between", "expected"),
    [("step", [4, 4, 1, 1, 2, 2]), ("linear", [4, 2.5, 1, 1.75, 2, 2])],
)
def test_milestones(between, expected):
    schedule = Piecewise(milestones=[[0, 4], ["1/2", 1], [2.5, "2"]], between=between)
    assert [schedule.value(epoch) for epoch in (0, 0.25, 0.5, 2, 2.5, 99)] == pytest.approx(expected)
    assert schedule.bounds == (1, 4)


def test_a_constant():
    assert [Constant("8/255").value(epoch) for epoch in (0, 7)] == [8 / 255] * 2
    assert Constant(-2).bounds == (-2, -2)


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (Constant, {"number": "x"}, ValueError, "number must be a number such as 0.03 .* got 'x'"),
        (Ramp, {"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
        (Ramp, {"epochs": 1, "start_epoch": "-1/2"}, ValueError, "start_epoch must be at least 0, got '-1/2'"),
        (Ramp, {"epochs": 1, "end": math.inf}, ValueError, "end must be a number .* got inf"),
        (Ramp, {"epochs": 1, "shape": "steep"}, ValueError, "shape must be linear, cosine or exponential, got 'steep'"),
        (
            Ramp,
            {"epochs": 1, "shape": "exponential"},
            ValueError,
            "exponential ramp needs a start and an end above 0, got start=0 and end=1; take a small number",
        ),
        (Piecewise, {"milestones": 3}, TypeError, r"milestones must be a list of pairs .* \[\[0, 1\], .* got 3"),
        (Piecewise, {"milestones": "01"}, TypeError, "milestones must be a list of pairs .* got '01'"),
        (Piecewise, {"milestones": [0, 1]}, TypeError, r"milestones must be a list of pairs .* got \[0, 1\]"),
        (Piecewise, {"milestones": [[0, 1, 2]]}, TypeError, r"milestones must be a list of pairs .* got \[\[0, 1, 2\]"),
        (Piecewise, {"milestones": []}, ValueError, "milestones must begin at epoch 0, got none"),
        (Piecewise, {"milestones": [[5, 1]]}, ValueError, "milestones must begin at epoch 0, got 5; put the number"),
        (
            Piecewise,
            {"milestones": [[0, 1], [3, 1], [3, 2]]},
            ValueError,
            "order of their epochs, got 3 after 3",
        ),
        (Piecewise, {"milestones": [[0, 1], [-3, 1]]}, ValueError, "epoch of a milestone must be at least 0, got -3"),
        (Piecewise, {"milestones": [[0, "y"]]}, ValueError, "the number of a milestone must be a number .* got 'y'"),
        (Piecewise, {"milestones": [[0, 1]], "between": "cosine"}, ValueError, "between must be step or linear, got"),
    ],
)
def test_bad_arguments_are_named(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**arguments)


SCHEDULES = [
    Constant("1/3"),
    Ramp(epochs=5, start="1/10", end=2, start_epoch=1, shape="exponential"),
    Piecewise(milestones=[[0, 1], [10, "1/3"]], between="linear"),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_they_are_values_that_plain_values_describe(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule and len({schedule, schedule}) == 1
    with pytest.raises(FrozenInstanceError):
        schedule.number = 1
    described = describe(schedule)
    assert described["class_path"] == f"lightning_advreg.schedules.{type(schedule).__name__}"
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Schedule, "schedule")
    assert parser.instantiate_classes(parser.parse_object({"schedule": described})).schedule == schedule


def test_yaml_names_them_without_a_path(tmp_path):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(Schedule, "schedule")
    path = tmp_path / "config.yaml"
    path.write_text("schedule: {class_path: Piecewise, init_args: {milestones: [[0, 1/2], [10, 2]]}}")
    parsed = parser.parse_args([f"--config={path}"])
    assert parser.instantiate_classes(parsed).schedule == Piecewise(milestones=[(0, 0.5), (10, 2)])
    parsed = parser.parse_args(["--schedule=Ramp", "--schedule.epochs=5/2", "--schedule.shape=cosine"])
    assert parser.instantiate_classes(parsed).schedule == Ramp(epochs=2.5, shape="cosine")


@dataclass(frozen=True)
class Own(Schedule):
    slope: float = 1.0

    def value(self, epoch):
        return self.slope * epoch


def test_an_argument_is_checked():
    for schedule in (Ramp(epochs=1), Constant(0), Own(-1.0)):
        check_schedule(schedule, "weight", minimum=0)
    check_schedule(Constant(-1), "weight")
    for bad in (0.5, None, lambda epoch: epoch):
        with pytest.raises(TypeError, match=r"weight must be a schedule, such as Ramp\(epochs=5\) or .*, got"):
            check_schedule(bad, "weight")
    with pytest.raises(ValueError, match=r"weight must be at least 0, got -0.5 from Ramp\(epochs=1.0"):
        check_schedule(Ramp(epochs=1, end=-0.5), "weight", minimum=0)

import copy
import pickle

import pytest

from lightning_advreg.recorded import Recorded


class Point(Recorded):
    def __init__(self, x, y=0, *, name="p", **extra):
        self.place = (x, y, name, extra)


class Child(Point):
    def __init__(self, x):
        super().__init__(x, name="child")


def test_arguments_are_recorded_by_name_without_defaults():
    assert Point(1).init_args == {"x": 1}
    assert Point(1, 2, name="q").init_args == {"x": 1, "y": 2, "name": "q"}


def test_arguments_rebuild_the_object():
    point = Point(1, y=2, colour="red")
    assert point.init_args == {"x": 1, "y": 2, "colour": "red"}
    assert Point(**point.init_args).place == point.place


def test_a_subclass_records_its_own_arguments():
    assert Child(3).init_args == {"x": 3}


def test_a_subclass_without_a_constructor_inherits_the_signature():
    class Same(Point):
        pass

    assert Same(1, 5).init_args == {"x": 1, "y": 5}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda point: pickle.loads(pickle.dumps(point))])
def test_copies_keep_the_record(duplicate):
    point = duplicate(Point([1], name="q"))
    assert point.init_args == {"x": [1], "name": "q"}
    assert point.place == ([1], 0, "q", {})


def test_wrong_arguments_are_refused_as_by_any_class():
    with pytest.raises(TypeError, match="multiple values for argument 'x'"):
        Point(1, x=2)
    with pytest.raises(TypeError, match="missing"):
        Point()

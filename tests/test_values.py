import math

import numpy as np
import pytest

from lightning_advreg.values import to_float


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("0.031", 0.031),
        ("1e-3", 0.001),
        (" 1 / 4 ", 0.25),
        ("-1/2", -0.5),
        ("1.5/3", 0.5),
        ("3", 3.0),
        (" 2.5 ", 2.5),
        (0.3, 0.3),
        (0, 0.0),
        (2, 2.0),
        (np.float64(0.25), 0.25),
    ],
)
def test_numbers_as_people_write_them(text, value):
    number = to_float(text, "eps")
    assert number == value
    assert isinstance(number, float)


@pytest.mark.parametrize("numerator", range(1, 17))
def test_a_fraction_is_the_float_that_python_gives(numerator):
    assert to_float(f"{numerator}/255", "eps") == numerator / 255


@pytest.mark.parametrize(
    "value",
    [
        *["abc", "", "1/0", "1/2/3", "/", "8/", "nan", "inf", "-inf", "1e400", "1e400/1", "1,5", "8:255"],
        *[math.nan, math.inf, -math.inf, 10**400, True, False, None, [0.1], 1j],
    ],
    ids=lambda v: repr(v)[:10],
)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match=r"^step_size must be a number such as 0.03 or a fraction such as 8/255, got "):
        to_float(value, "step_size")


def test_the_message_shows_the_value():
    with pytest.raises(ValueError, match=r"got 'eight/255'\.$"):
        to_float("eight/255", "eps")


def test_bounds_are_inclusive():
    assert to_float("0", "eps", minimum=0) == 0
    assert to_float("1/1", "eps", maximum=1) == 1
    with pytest.raises(ValueError, match=r"^eps must be at least 0, got '-1/255'\.$"):
        to_float("-1/255", "eps", minimum=0)
    with pytest.raises(ValueError, match=r"^eps must be at most 1, got 1.01\.$"):
        to_float(1.01, "eps", maximum=1)


def test_below_is_exclusive():
    assert to_float("254/255", "share", below=1) == 254 / 255
    assert to_float(-3, "share", below=0) == -3
    for value in (1, "1.5", "3/2"):
        with pytest.raises(ValueError, match=rf"^share must be less than 1, got {value!r}\.$"):
            to_float(value, "share", minimum=0, below=1)
    with pytest.raises(ValueError, match=r"^share must be less than 0, got 0\.$"):
        to_float(0, "share", below=0)

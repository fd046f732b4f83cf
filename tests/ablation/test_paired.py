import math
import random

import pytest
from scipy.stats import ttest_rel

from lightning_advreg.ablation import holm, paired_difference


@pytest.mark.parametrize("pairs", [2, 3, 5, 30])
def test_p_is_that_of_scipy(pairs):
    draw = random.Random(pairs)
    ours = [draw.gauss(0.5, 0.1) for _ in range(pairs)]
    base = [draw.gauss(0.45, 0.1) for _ in range(pairs)]
    compared = paired_difference(ours, base)
    assert compared.p == pytest.approx(ttest_rel(ours, base).pvalue, rel=1e-10)
    assert compared.mean == pytest.approx(sum(ours) / pairs - sum(base) / pairs)
    # the sign turns, the p-value stays
    turned = paired_difference(base, ours)
    assert (turned.p, turned.mean) == (pytest.approx(compared.p), pytest.approx(-compared.mean))


def test_two_pairs_have_the_closed_form_of_cauchy():
    compared = paired_difference([0.3, 0.5], [0.1, 0.2])
    # t = mean / (|d1 - d2| / 2) = 0.25 / 0.05, and with one degree of freedom p = 1 - 2 atan(t) / pi
    assert compared.p == pytest.approx(1 - 2 * math.atan(5) / math.pi)
    assert compared.sd == pytest.approx(0.1 / math.sqrt(2))


def test_pairs_matter():
    # the same values, paired otherwise, show nothing
    base = [0.1, 0.5, 0.9]
    assert paired_difference([0.12, 0.53, 0.93], base).p < 0.05
    assert paired_difference([0.93, 0.12, 0.53], base).p > 0.5


def test_without_spread_there_is_no_test():
    assert paired_difference([0.2, 0.2], [0.2, 0.2]).p == 1
    equal = paired_difference([0.3, 0.6, 0.9], [0.2, 0.5, 0.8])
    assert math.isnan(equal.p)
    assert equal.sd == 0
    single = paired_difference([0.3], [0.1])
    assert (single.pairs, single.mean) == (1, pytest.approx(0.2))
    assert math.isnan(single.p)


def test_no_pairs_are_refused():
    for values, base in (([], []), ([1.0], [])):
        with pytest.raises(ValueError, match="must be pairs, at least one"):
            paired_difference(values, base)


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; the last may not fall under the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_counts_only_what_was_tested():
    corrected = holm([math.nan, 0.02, 0.03])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.04, 0.04])
    with pytest.raises(ValueError, match=r"p-values must lie in \[0, 1\]"):
        holm([1.5])

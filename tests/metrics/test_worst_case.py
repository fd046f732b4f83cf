import pytest
import torch

from lightning_advreg.metrics import WorstCaseAccuracy, wilson_interval

A = torch.tensor([True, True, False, True])
B = torch.tensor([True, False, True, True])


def test_an_image_counts_only_if_it_withstood_every_attack():
    accuracy = WorstCaseAccuracy(["a", "b"])
    accuracy.update({"b": B, "a": A & torch.tensor([True, True, True, False])})  # in any order
    result = {name: value.item() for name, value in accuracy.compute().items()}
    assert result == {"a": 0.5, "b": 0.75, "worst_case": 0.25}
    assert list(result) == ["a", "b", "worst_case"]


def test_images_that_are_not_counted_enter_no_sum():
    accuracy = WorstCaseAccuracy(["a", "b"])
    accuracy.update({"a": A, "b": B}, counted=torch.tensor([False, True, True, True]))
    assert accuracy.correct.tolist() == [2, 2, 1]
    assert accuracy.total == 3


def test_intervals_go_by_name():
    accuracy = WorstCaseAccuracy(["a", "b"])
    assert accuracy.intervals() == {"a": None, "b": None, "worst_case": None}
    accuracy.update({"a": A, "b": B})
    assert accuracy.intervals(0.9) == {
        "a": wilson_interval(3, 4, 0.9),
        "b": wilson_interval(3, 4, 0.9),
        "worst_case": wilson_interval(2, 4, 0.9),
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "names must be a sequence of at least one name"),
        ("pgd", "names must be a sequence of at least one name, .*got 'pgd'"),
        (["a", ""], "names must be a sequence"),
        (["a", "a"], r"names must be distinct, got \['a', 'a'\]"),
        (["a", "worst_case"], "the name 'worst_case' is that of all attacks together"),
    ],
)
def test_bad_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        WorstCaseAccuracy(names)


def test_bad_batches_are_refused_and_count_nothing():
    accuracy = WorstCaseAccuracy(["a", "b"])
    with pytest.raises(ValueError, match=r"missing: \['b'\], unknown: \[\]"):
        accuracy.update({"a": A})
    with pytest.raises(ValueError, match=r"missing: \['b'\], unknown: \['c'\]"):
        accuracy.update({"a": A, "c": B})
    with pytest.raises(ValueError, match=r"correct\['b'\] must be a bool mask of shape \(4,\), got .* shape \(3,\)"):
        accuracy.update({"a": A, "b": B[:3]})
    with pytest.raises(ValueError, match=r"correct\['a'\] must be a bool mask of shape \(N,\), got torch.int64"):
        accuracy.update({"a": A.long(), "b": B})
    with pytest.raises(ValueError, match=r"correct\['a'\] must be a bool mask of shape \(N,\), got .* shape \(\)"):
        accuracy.update({"a": torch.tensor(True), "b": B})
    with pytest.raises(ValueError, match=r"counted must be a bool mask of shape \(4,\)"):
        accuracy.update({"a": A, "b": B}, A[:1])
    assert accuracy.total == 0

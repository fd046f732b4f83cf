import pytest
from rich.console import Console

from lightning_advreg.reporting import markdown_table, results_table

ROWS = [
    {"model": "standard", "clean acc": 0.9512, "val/robust_acc/pgd": 0.0, "loss": 0.123456, "epochs": 30},
    {"model": "a|b", "clean acc": 1, "epochs": 7, "note": "late"},
]


def test_markdown_shows_accuracies_as_percent_and_missing_values_as_a_dash():
    assert markdown_table(ROWS).splitlines() == [
        "| model | clean acc | val/robust_acc/pgd | loss | epochs | note |",
        "| :-- | --: | --: | --: | --: | :-- |",
        "| standard | 95.12 % | 0.00 % | 0.1235 | 30 | - |",
        r"| a\|b | 100.00 % | - | - | 7 | late |",
    ]


def test_the_terminal_shows_the_same_cells_with_numbers_to_the_right():
    console = Console(width=120)
    with console.capture() as capture:
        console.print(results_table(ROWS, "CIFAR-10"))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["CIFAR-10"] in lines
    assert ["standard", "95.12", "%", "0.00", "%", "0.1235", "30", "-"] in lines
    justify = [column.justify for column in results_table(ROWS, "").columns]
    assert justify == ["left", "right", "right", "right", "right", "left"]


def test_a_table_without_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        markdown_table([])

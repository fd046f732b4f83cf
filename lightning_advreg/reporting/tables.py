"""Tables of results, for the terminal and for Markdown."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

Row = Mapping[str, str | float]


def results_table(rows: Sequence[Mapping[str, str | float]], title: str) -> Table:
    """Lay results out for the terminal.

    A column whose name contains ``acc`` holds accuracies as fractions in [0, 1], and shows them as percent. Other
    numbers show four significant digits. Columns are those of all rows, in order of appearance.

    Args:
        rows: One mapping from column to value a row; a missing value is shown as a dash.
        title: What stands above the table.

    Returns:
        A table for ``rich.print``.

    Raises:
        ValueError: If there are no rows.

    Example:
        >>> table = results_table([{"model": "PGD-AT", "clean acc": 0.8412}], "CIFAR-10")
        >>> [column.header for column in table.columns]
        ['model', 'clean acc']
    """
    table = Table(title=title, box=box.SIMPLE_HEAD)
    columns = _columns(rows)
    for name, numeric in columns.items():
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in columns))
    return table


def markdown_table(rows: Sequence[Mapping[str, str | float]]) -> str:
    """Lay results out in Markdown, with the formats of :func:`results_table`.

    Args:
        rows: One mapping from column to value a row; a missing value is shown as a dash.

    Returns:
        The table, lines ending in a newline.

    Raises:
        ValueError: If there are no rows.

    Example:
        >>> print(markdown_table([{"model": "PGD-AT", "clean acc": 0.8412}]), end="")
        | model | clean acc |
        | :-- | --: |
        | PGD-AT | 84.12 % |
    """
    columns = _columns(rows)
    lines = [list(columns), ["--:" if numeric else ":--" for numeric in columns.values()]]
    lines += [[_cell(name, row.get(name)) for name in columns] for row in rows]
    # a bar would end the cell
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _columns(rows: Sequence[Row]) -> dict[str, bool]:
    """Give the names of all columns, and whether they hold nothing but numbers."""
    if not rows:
        raise ValueError("a table needs at least one row.")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: not any(isinstance(row.get(name), str) for row in rows) for name in names}


def _cell(column: str, value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if "acc" in column.lower():
        return f"{100 * value:.2f} %"
    return str(value) if isinstance(value, int) else f"{value:.4g}"

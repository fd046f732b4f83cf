import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_every_row_has_tests_that_exist():
    rows = [line for line in (REPOSITORY / "docs" / "bad_input.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| what is wrong")]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row.rsplit(" | ", 1)[-1])
        assert named, row
        for path, test in named:
            assert f"\ndef {test}(" in (REPOSITORY / path).read_text(), (path, test)

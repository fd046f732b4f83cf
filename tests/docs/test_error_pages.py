"""The page of errors: all messages of the source, and twenty of them with cause and remedy."""

import re
import textwrap

import pytest

from .pages import DOCS, site


@pytest.fixture(scope="module")
def found():
    return site("error_pages").messages()


def quoted():
    text = (DOCS / "errors.md").read_text().partition("## All messages")[0]
    for title, body in re.findall(r"^### (.+?)\n(.*?)(?=^##)", text + "##", re.M | re.S):
        yield title, " ".join(re.sub(r"^> ?", "", line) for line in body.splitlines() if line.startswith(">")), body


def test_the_twenty_are_in_the_source(found):
    twenty = list(quoted())
    assert len(twenty) == 20
    for title, words, body in twenty:
        assert "**Cause.**" in body and "**Remedy.**" in body, title
        assert any(same(words, one.text) for one in found), (title, words)


def same(words, message):
    """Whether words of the page are those of a message, where either may have a hole for a part of the other."""
    if re.search(pattern(words), message):
        return True
    return len(message.replace("…", "")) > 25 and re.fullmatch(pattern(message), words) is not None


def pattern(text):
    return ".*".join(re.escape(part.strip()) for part in text.split("…"))


def test_other_words_are_not_the_same():
    assert same("the budget eps of … is 8, write …?", "the budget eps of … is …, write …?")
    assert same("labels must be in [0, …), got labels to …", "labels must be …, got labels to …")
    assert not same("the budget eps of … is 8, write …!", "the budget eps of … is …, write …?")
    assert not same("something else", "… …")


def test_messages_of_every_kind_are_read(tmp_path):
    package = tmp_path / "lightning_advreg" / "room"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__all__ = ['Thing']\nfrom lightning_advreg.room.thing import Thing\n")
    (tmp_path / "lightning_advreg" / "__init__.py").write_text("__all__ = []\n")
    (package / "thing.py").write_text(
        textwrap.dedent(
            '''
            import warnings
            ADVICE = "do better"
            class Thing:
                """A thing."""
                def act(self, x):
                    if x < 0:
                        raise ValueError(f"x must be at least 0, got {x!r}; {ADVICE}.")
                    message = "many of " + ("these" if x else "those")
                    raise TypeError(message)
            def helper(x):
                warnings.warn(_words(x), stacklevel=2)
                raise AssertionError("nobody sees this")
            def _words(x):
                if x:
                    return f"{x} is odd."
                return "nothing is odd."
            '''
        )
    )
    errors, rooms = site("error_pages"), site("repository").rooms(tmp_path)
    read = [(one.owner, one.kind, one.text) for one in errors.messages(tmp_path)]
    assert read == [
        ("Thing", "ValueError", "x must be at least 0, got …; do better."),
        ("Thing", "TypeError", "many of these"),
        ("Thing", "TypeError", "many of those"),
        ("helper", "warning", "… is odd."),
        ("helper", "warning", "nothing is odd."),
    ]
    section = errors.section(errors.messages(tmp_path), rooms)
    assert "[`lightning_advreg.room.Thing`][lightning_advreg.room.Thing]" in section
    assert "in `lightning_advreg.room.thing`" in section


def test_hardly_a_message_of_the_source_is_left_out(found):
    said = {one.text for one in found}
    assert len(said) > 500
    kinds = {one.kind for one in found}
    assert {"ValueError", "RefusedFile", "warning", "alarm", "sign of gradient masking", "command line"} <= kinds

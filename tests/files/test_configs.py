import pytest

from lightning_advreg.files import RefusedFile
from lightning_advreg.files.configs import check_config, check_configs, check_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text, message",
    [
        (BOMB, r"stands for more than 20000 values"),
        ("x: &a [*a]", r"refers to \*a inside of it"),
        ("x: " + "[" * 10_000, r"nested more than 60 levels deep"),
        ("x: [" + "1, " * 30_000 + "]", r"stands for more than 20000 values"),
    ],
)
def test_values_without_an_end_are_refused(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "outer.yaml").write_text("model: a.yaml")
    for arguments in (
        ["fit", "--config", f"{tmp_path}/a.yaml"],
        ["fit", f"-c={tmp_path}/outer.yaml"],
        ["fit", f"--model={text}"],
    ):
        with pytest.raises(RefusedFile, match=message):
            check_configs(arguments)


def test_what_is_a_configuration_passes(tmp_path):
    text = "base: &base {eps: 8/255}\nattack: {<<: *base, steps: 3}\nmore: [*base, *base]\nself: a.yaml\n"
    (tmp_path / "a.yaml").write_text(text)
    check_config(tmp_path / "a.yaml")
    assert check_yaml(text, "a.yaml") == ["a.yaml"]
    # what is no YAML is the parser's to say
    check_yaml("a: [", "a.yaml")


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.yaml").mkdir()
    (tmp_path / "c.yaml").write_text("")
    for name, message in (
        ("a", "is not text in UTF-8"),
        ("b", "is a folder, not a configuration"),
        ("c", "is an empty file"),
    ):
        with pytest.raises(RefusedFile, match=rf"{name}.yaml .*{message}|{name}.yaml {message}"):
            check_config(tmp_path / f"{name}.yaml")
    with pytest.raises(FileNotFoundError, match=r"there is no configuration .*d.yaml; the folder has a.yaml, c.yaml"):
        check_config(tmp_path / "d.yaml")

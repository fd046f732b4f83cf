"""What is said about a command line that is wrong; tests/cli/test_bad_input.py asks the command line itself."""

import pytest

from lightning_advreg.parsing import check_syntax, explanation

KEYS = ["model", "data", "seed_everything", "trainer", "trainer.max_epochs", "trainer.max_steps", "optimizer"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Subcommand 'fit' does not accept option 'trainer.max_epoch'",
            "there is no setting 'trainer.max_epoch'; did you mean trainer.max_epochs or trainer.max_steps?",
        ),
        (
            "Subcommand 'fit' does not accept option 'modell.class_path'",
            "there is no setting 'modell.class_path'; did you mean model?",
        ),
        (
            "Unrecognized arguments: --trainr.max_epochs=3",
            "there is no setting 'trainr.max_epochs'; did you mean trainer?",
        ),
        ("Unrecognized arguments: --zzzz", "there is no setting 'zzzz'."),
        (
            "Problem with given class_path 'lightning.LightningModule':\n    Option 'init_arg.network' is not accepted",
            "there is no key 'init_arg' beside class_path; did you mean init_args?",
        ),
        (
            "argument subcommand: invalid choice: 'fitt' (choose from 'fit', 'test')",
            "there is no command 'fitt'; did you mean fit?",
        ),
        (
            "the following arguments are required: fit.data, fit.model",
            "there is no data, model; give a configuration (--config quickstart), or --model and --data.",
        ),
        (
            "Problem with given class_path 'lightning_advreg.AdversarialClassifier':\n"
            "        the following arguments are required: network",
            "AdversarialClassifier needs network, which is not given; add it to the init_args of "
            "AdversarialClassifier.",
        ),
        (
            'Parser key "trainer.max_epochs":\n  Does not validate against any of the Union subtypes\n  Subtypes: '
            "[<class 'int'>, <class 'NoneType'>]\n  Errors:\n    - Expected a <class 'int'>\n    - Expected a <class "
            "'NoneType'>\n  Given value type: <class 'str'>\n  Given value: many",
            "trainer.max_epochs must be of type int, got 'many'; give a value of that type.",
        ),
        ("an error of another kind", None),
    ],
)
def test_explanations(message, said):
    assert explanation(message, KEYS) == said


def test_arguments_and_classes_are_those_of_their_kind():
    inner = (
        "Problem with given class_path 'lightning_advreg.networks.MNISTConvNet':\n Option 'image_sise' is not accepted"
    )
    said = explanation(f"Problem with given class_path 'lightning_advreg.AdversarialClassifier':\n {inner}")
    # of the inner class, with all that it takes
    assert said.startswith("MNISTConvNet has no argument 'image_sise'; did you mean image_size? It takes ")
    assert "num_classes" in said and "attack" not in said
    text = "Parser key \"{}\":\n Subtypes: [<class '{}'>, <class 'NoneType'>]\n Expected a dot import path string: {}"
    said = explanation(text.format("objective", "lightning_advreg.objectives.base.Objective", "TRADSE"))
    assert said.startswith("there is no class 'TRADSE' for objective; did you mean TRADES?")
    # of a key whose type is not said, the types of what has it are not those to look among
    outer = "Parser key \"model\":\n Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>]\n"
    said = explanation(f'{outer} Parser key "network":\n Expected a dot import path string: MNISTConvNett')
    assert said.startswith("there is no class 'MNISTConvNett' for network; did you mean MNISTConvNet?")
    # MaxNorm is near, but no attack
    said = explanation(text.format("attack", "lightning_advreg.attacks.base.Attack", "MaxNorn"))
    assert "MaxNorm" not in said and "my_package.MyClass" in said


def test_yaml_that_cannot_be_read_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, message in (
        ("trainer: {}\nmodel: [open\n", r"mine.yaml, line \d: this is no YAML: .*; close brackets and quotes"),
        ("a: b: c\n", r"mine.yaml, line 1: this is no YAML"),
        ("model:\n\tclass_path: A\n", r"mine.yaml, line 2: this is no YAML: .*indent with spaces"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            check_syntax(path)
    path.write_bytes(b"\xff\xfe\x00model")
    with pytest.raises(ValueError, match=r"mine.yaml is no text in UTF-8"):
        check_syntax(path)
    # tags that only some loaders know are none of its business
    path.write_text("a: !mine 3\n")
    check_syntax(path)

"""What ``lightning-advreg`` can do, in one screen, and which module does it."""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fit": ("train a model, by a configuration", ""),
        "validate": ("measure a model on the validation images", ""),
        "test": ("measure a model on the test images, also under attack", ""),
        "predict": ("write the outputs of a classifier, or the samples of a GAN", ""),
        "demo": ("train one network plainly and one under attack, and compare", "lightning_advreg.demo"),
        "ablate": ("train and test every cell of a grid, and compare", "lightning_advreg.ablation.command"),
        "report": ("show runs and ablations as one HTML page", "lightning_advreg.report.command"),
        "export": ("write the weights of a run as safetensors", "lightning_advreg.export"),
        "samples": ("write labelled images of a GAN, to train with", "lightning_advreg.samples"),
        "zoo": ("show, copy or measure the trained networks that come along", "lightning_advreg.zoo.command"),
        "configs": ("list, print or copy the configurations that come along", "lightning_advreg.configs_command"),
    }
)
"""What each command does, and the module whose ``main`` does it; without one it is the command line of Lightning."""

_EXAMPLES = """\
examples:
  lightning-advreg fit --config quickstart
  lightning-advreg fit --config mnist_trades --data.init_args.data_dir data
  lightning-advreg configs --copy mnist_trades"""

_END = """\
lightning-advreg COMMAND --help says what a command takes; --version, which
release this is. Guides: README.md and docs/, beside the source."""


def overview() -> str:
    """Give what ``lightning-advreg --help`` says, which fits into a terminal of 80 columns and 24 lines.

    Example:
        >>> from lightning_advreg.commands import overview
        >>> print(overview().splitlines()[0])
        usage: lightning-advreg COMMAND ...
    """
    lines = [f"  {name:<10}{line}" for name, (line, _) in COMMANDS.items()]
    title = "Train classifiers that withstand attack and overfitting, and GANs; attack them."
    return "\n".join(["usage: lightning-advreg COMMAND ...", "", title, "", *lines, "", _EXAMPLES, "", _END]) + "\n"


def unknown_command(name: str) -> str:
    """Say in one line that there is no such command, and which come nearest.

    Args:
        name: What was given.

    Example:
        >>> from lightning_advreg.commands import unknown_command
        >>> unknown_command("fitt")
        "there is no command 'fitt'; did you mean fit?"
    """
    near = difflib.get_close_matches(name.lower(), COMMANDS, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"give one of {', '.join(COMMANDS)}."
    return f"there is no command {name!r}; {hint}"

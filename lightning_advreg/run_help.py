"""What ``lightning-advreg fit --help`` says, in a screen or two: the whole list of flags is twenty pages long."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType

_ALL = "all"
_WIDTH = 80
_COLUMN = 28
_KEPT = "\x1f"

_ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "fit": "Train a model. Checkpoints, figures and pictures go to the run folder, --trainer.default_root_dir.",
        "validate": "Measure a model on the validation images. Figures go to validate/results.json in the run folder.",
        "test": "Measure a model on the test images, also under attack. Figures go to test/results.json in the run "
        "folder.",
        "predict": "Write the samples of a GAN, with a picture of them, or the logits and classes that a classifier "
        "gives the test images, to predict/ in the run folder.",
    }
)

_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "--config NAME": "a name that `lightning-advreg configs` lists, or a file; given more than once, the last wins",
        "--data.init_args.data_dir FOLDER": "where the images are",
        "--trainer.max_epochs N": "how long to train",
        "--trainer.devices N": "how many GPUs or processes",
        "--trainer.accelerator NAME": "cpu, gpu or auto",
        "--trainer.default_root_dir FOLDER": "the run folder",
        "--seed_everything N": "seed of weights, batches and attacks",
        "--ckpt_path FILE": "the checkpoint to load",
        "--resume FOLDER": "continue the run of that folder, with its configuration",
        "--print_config": "print every value that would be used, and end",
    }
)
_ONLY_FIT = ("--trainer.max_epochs N", "--resume FOLDER")

_CHANGES = """\
to override a value, or add to a list (+=); flags stand behind --config:
  --model.init_args.optimizer.init_args.lr 0.01
  --model.init_args.penalties+=L2 --model.init_args.penalties.weight 1e-4
  --trainer.callbacks+=ConvergenceMonitor"""

_EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fit": (
            "--config quickstart --trainer.max_epochs 10",
            "--config quickstart --model.init_args.attack.init_args.eps 16/255",
            "--config mnist_trades --data.init_args.data_dir data",
        ),
        "validate": ("--config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt",),
        "test": (
            "--config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt",
            "--config quickstart --config eval/autoattack_fast --ckpt_path runs/quickstart/checkpoints/last.ckpt",
        ),
        "predict": ("--config digits_gan --ckpt_path runs/digits_gan/checkpoints/last.ckpt",),
    }
)


def wants_page(command: str, arguments: Sequence[str]) -> bool:
    """Tell whether a command line asks for the short page, rather than for the whole list or for a run.

    Args:
        command: The command, such as ``fit``.
        arguments: What stands behind it.

    Example:
        >>> from lightning_advreg.run_help import wants_page
        >>> wants_page("fit", ["--config", "quickstart", "--help"]), wants_page("fit", ["--help", "all"])
        (True, False)
    """
    places = [place for place, argument in enumerate(arguments) if argument in ("-h", "--help")]
    return command in _ABOUT and bool(places) and _ALL not in arguments[places[0] + 1 : places[0] + 2]


def page(command: str) -> str:
    """Give the short page of a command that a configuration drives, in lines of at most 80 characters.

    Args:
        command: One of ``fit``, ``validate``, ``test`` and ``predict``.

    Example:
        >>> from lightning_advreg.run_help import page
        >>> page("fit").splitlines()[0]
        'usage: lightning-advreg fit --config NAME [--config NAME] [--FLAG VALUE]'
    """
    program = f"lightning-advreg {command}"
    flags = {flag: text for flag, text in _FLAGS.items() if command == "fit" or flag not in _ONLY_FIT}
    if command == "fit":
        flags["--ckpt_path FILE"] = "continue from this checkpoint"
    return "\n".join(
        [
            f"usage: {program} --config NAME [--config NAME] [--FLAG VALUE]",
            "",
            *textwrap.wrap(_ABOUT[command], _WIDTH),
            "",
            "the usual flags:",
            *(line for flag, text in flags.items() for line in _entry(flag, text)),
            "",
            _CHANGES,
            "",
            "what a class takes:",
            f"  {program} --model.help AdversarialClassifier",
            f"  {program} --data.help MNISTDataModule",
            f"  {program} --trainer.callbacks.help RobustAccuracy",
            "",
            "examples:",
            *(line for example in _EXAMPLES[command] for line in _command(f"{program} {example}")),
            "",
            f"{program} --help {_ALL} lists every flag; --print_config behind a",
            "configuration, every value of it.",
            "",
        ]
    )


def _entry(flag: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - _COLUMN)
    first = f"  {flag}"
    beside = [f"{first:<{_COLUMN}}{lines[0]}"] if len(first) < _COLUMN - 1 else [first, f"{'':<{_COLUMN}}{lines[0]}"]
    return beside + [f"{'':<{_COLUMN}}{line}" for line in lines[1:]]


def _command(line: str) -> list[str]:
    # one that is broken must still run when it is copied; flags stay with their values
    kept = re.sub(r"(--\S+) (?!-)", rf"\1{_KEPT}", line)
    *broken, last = textwrap.wrap(
        kept, _WIDTH - 2, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return [part.replace(_KEPT, " ") for part in (*(f"{part} \\" for part in broken), last)]

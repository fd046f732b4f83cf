"""``lightning-advreg``, and ``python -m lightning_advreg``: the command line."""

import importlib
import os
import sys

from lightning_advreg import __version__
from lightning_advreg.commands import COMMANDS, overview, unknown_command
from lightning_advreg.run_help import page, wants_page


def console() -> None:
    """Run the command line as a program, whose exit status is 0 unless something fails.

    What needs no PyTorch, which takes seconds to import, is answered without it.
    """
    if "_ARGCOMPLETE" in os.environ:
        from lightning_advreg.completion import complete

        complete()
    command, arguments = "".join(sys.argv[1:2]), sys.argv[2:]
    if command in ("-h", "--help"):
        sys.stdout.write(overview())
        sys.exit(0)
    if command == "--version":
        sys.stdout.write(f"lightning-advreg {__version__}\n")
        sys.exit(0)
    if not command:
        sys.stderr.write(overview())
        sys.exit(2)
    if not command.startswith("-") and command not in COMMANDS:
        sys.stderr.write(f"lightning-advreg: error: {unknown_command(command)}\n")
        sys.exit(2)
    if wants_page(command, arguments):
        sys.stdout.write(page(command))
        sys.exit(0)
    module = COMMANDS[command][1] if command in COMMANDS else ""
    if module:
        sys.exit(importlib.import_module(module).main(arguments))
    from lightning_advreg.cli import console as run

    run()


if __name__ == "__main__":
    console()

"""Errors that are meant for the one who gave a command, told in one line where they end it."""

import dis
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from lightning_advreg.parsing import DEBUG, explanation, in_full, told

_PACKAGES = ("lightning_advreg", "lightning", "pytorch_lightning", "jsonargparse", "torch.optim")
"""Whose errors say what to do, where they are raised on purpose."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line, and status 1, at an error that is meant for the one who gave the command.

    Such are the errors that this library, Lightning, jsonargparse and the optimizers of PyTorch raise by a statement of
    their own. Others, such as a size that does not fit within a network, keep their traceback, and all do with
    ``JSONARGPARSE_DEBUG=true``.

    Raises:
        SystemExit: With the line, in place of such an error.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> from lightning_advreg.refusals import one_line_errors
        >>> with one_line_errors():
        ...     PGD(eps=-1, step_size=0.1, steps=3)
        Traceback (most recent call last):
        ...
        SystemExit: lightning-advreg: error: eps must be at least 0, got -1.
        JSONARGPARSE_DEBUG=true in front of the command shows where.
    """
    try:
        yield
    except Exception as error:
        module = _raised_on_purpose(error.__traceback__)
        if in_full() or module is None:
            raise
        # what jsonargparse says lies within pages of values
        said = told(str(error)) if module.startswith("jsonargparse") else explanation(str(error)) or str(error)
        sys.exit(f"lightning-advreg: error: {said}\n{DEBUG} in front of the command shows where.")


def _raised_on_purpose(traceback: TracebackType | None) -> str | None:
    """Give the module whose `raise` an error comes from; None where it is no package's of ours, or fails by itself."""
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    module = str(frame.f_globals.get("__name__", ""))
    ours = any(module == package or module.startswith(f"{package}.") for package in _PACKAGES)
    meant = frame.f_code.co_code[traceback.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return module if ours and meant else None

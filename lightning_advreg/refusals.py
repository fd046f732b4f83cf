"""Errors that are meant for the one who gave a command, told in one line where they end it."""

import dis
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType

from lightning_advreg.parsing import DEBUG, explanation, in_full, told
from lightning_advreg.values import to_float

_PACKAGES = ("lightning_advreg", "lightning", "pytorch_lightning", "jsonargparse", "torch.optim")
"""Whose errors say what to do, where they are raised on purpose."""

_ATTACKS = "lightning_advreg.attacks."


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


def check_budgets(settings: object) -> None:
    """Check that no attack of a configuration has an Linf budget that no pixel has room for.

    Args:
        settings: The configuration of a subcommand, as it was parsed, or a part of it.

    Raises:
        ValueError: If an eps is above 1.

    Example:
        >>> from lightning_advreg.refusals import check_budgets
        >>> attack = {"class_path": "lightning_advreg.attacks.PGD", "init_args": {"norm": "linf", "eps": 8}}
        >>> check_budgets({"model": {"init_args": {"attack": attack}}})
        Traceback (most recent call last):
        ...
        ValueError: eps of PGD is 8, but pixels are in [0, 1] and no Linf budget above 1 means anything; write 8/255?
    """
    if isinstance(settings, Sequence) and not isinstance(settings, str):
        for one in settings:
            check_budgets(one)
        return
    values = settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})
    path, arguments = values.get("class_path"), values.get("init_args")
    if isinstance(path, str) and path.startswith(_ATTACKS) and arguments is not None:
        given = arguments if isinstance(arguments, Mapping) else vars(arguments)
        eps = given.get("eps")
        if given.get("norm") == "linf" and isinstance(eps, int | float | str) and to_float(eps, "eps", minimum=0) > 1:
            written = f"{eps:g}" if isinstance(eps, float) else eps
            raise ValueError(
                f"eps of {path.rpartition('.')[2]} is {written}, but pixels are in [0, 1] and no Linf budget above 1 "
                f"means anything; write {written}/255?"
            )
    for one in values.values():
        check_budgets(one)


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

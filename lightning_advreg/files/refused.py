"""The one error of files that are not read, and what to say of others."""


class RefusedFile(ValueError):
    """A file that is not what it should be: its message names the file, what is wrong with it and what to do.

    Nothing of the file has been run, and nothing was changed by it.
    """


class UnfitWeights(RefusedFile, RuntimeError):
    """Weights of other names or shapes than those of the module; a ``RuntimeError`` too, as PyTorch raises there."""


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says, or its name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

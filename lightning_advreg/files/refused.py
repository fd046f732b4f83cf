"""The one error of files that are not read."""


class RefusedFile(ValueError):
    """A file that is not what it should be: its message names the file, what is wrong with it and what to do.

    Nothing of the file has been run, and nothing was changed by it.
    """


class UnfitWeights(RefusedFile, RuntimeError):
    """Weights of other names or shapes than those of the module; a ``RuntimeError`` too, as PyTorch raises there."""

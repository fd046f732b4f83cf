"""``python -m lightning_advreg``: the command line."""

from lightning_advreg.cli import console

if __name__ == "__main__":
    console()

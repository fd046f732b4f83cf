"""``lightning-advreg``, and ``python -m lightning_advreg``: the command line."""

import sys


def console() -> None:
    """Run the command line as a program, whose exit status is 0 unless something fails."""
    if sys.argv[1:2] == ["ablate"]:
        from lightning_advreg.ablation.command import main as ablate

        sys.exit(ablate(sys.argv[2:]))
    if sys.argv[1:2] == ["report"]:
        from lightning_advreg.report.command import main as report

        sys.exit(report(sys.argv[2:]))
    if sys.argv[1:2] == ["samples"]:
        from lightning_advreg.samples import main as samples

        sys.exit(samples(sys.argv[2:]))
    if sys.argv[1:2] == ["export"]:
        from lightning_advreg.export import main as export

        sys.exit(export(sys.argv[2:]))
    from lightning_advreg.cli import console as run

    run()


if __name__ == "__main__":
    console()

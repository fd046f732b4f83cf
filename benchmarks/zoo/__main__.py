"""Make the model zoo from finished runs: weights as safetensors, and cards with what is measured of them.

    python -m benchmarks.zoo --runs runs --data-dir DIR
    python -m benchmarks.zoo --runs runs --data-dir DIR --only mnist_trades
    python -m benchmarks.zoo --render

Each classifier is measured on all test images without an attack, with PGD-40 on the first ``--pgd-images`` and with
standard AutoAttack on the first ``--autoattack-images``. Whatever was measured stays in ``--work``, after every batch,
so that a run which was killed continues. The generator is judged in the features of the zoo's ``mnist_plain``, which
has to be made before. ``--render`` writes the cards again from their own front matter, without measuring.
"""

import argparse
import os
from pathlib import Path

# one thread, unless somebody says otherwise: figures are timed beside other work
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.zoo.building import IMAGES, Settings, build, render_again
from benchmarks.zoo.entries import ENTRIES
from lightning_advreg.zoo import cards


def main() -> None:
    """Build what is asked for, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder that holds MNIST/raw")
    parser.add_argument("--only", nargs="+", choices=list(ENTRIES), default=list(ENTRIES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=cards.FOLDER, help="folder of cards/ and weights/ (the package)")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="folder where progress is saved")
    parser.add_argument("--pgd-images", type=int, default=IMAGES["pgd40"])
    parser.add_argument("--autoattack-images", type=int, default=IMAGES["autoattack"])
    parser.add_argument("--samples", type=int, default=10_000, help="samples of a generator to judge")
    parser.add_argument("--weights", choices=["raw", "average"], help="instead of what the entry says; recorded")
    parser.add_argument("--no-progress", action="store_true", help="no bars")
    parser.add_argument("--render", action="store_true", help="write the cards in OUT again, from their front matter")
    options = parser.parse_args()
    settings = Settings(
        data_dir=options.data_dir, out=options.out, work=options.work, progress=not options.no_progress,
        images={"pgd40": options.pgd_images, "autoattack": options.autoattack_images}, samples=options.samples,
    )  # fmt: skip
    for name in ENTRIES:
        if name not in options.only:
            continue
        if options.render:
            render_again(ENTRIES[name], options.out)
        else:
            build(ENTRIES[name], options.runs, settings, which=options.weights)


if __name__ == "__main__":
    main()

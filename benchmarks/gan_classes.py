"""Which classes does a generator make? A classifier trained on the same data counts its samples.

    python -m benchmarks.gan_classes --gan GAN.ckpt --classifier CLASSIFIER.ckpt --grid samples.png

The classifier's own test accuracy bounds what its counts are worth. Samples are rounded to 8 bits first, as real images
are.
"""

import argparse
from pathlib import Path

import torch

from lightning_advreg import GAN
from lightning_advreg.metrics import ClassAccuracy, ClassifierFeatures, ModeCount
from lightning_advreg.reporting import image_grid, markdown_table, save_image


def main() -> None:
    """Count, and draw the samples of the fixed noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gan", type=Path, required=True, help="checkpoint of a GAN")
    parser.add_argument("--classifier", type=Path, required=True, help="checkpoint of a classifier of this library")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, default=None, help="where to draw the samples of the fixed noise")
    options = parser.parse_args()
    gan = GAN.load_from_checkpoint(options.gan, map_location="cpu").eval()
    extractor = ClassifierFeatures(options.classifier)
    classes = getattr(gan.generator, "num_classes", None)
    metrics = [ModeCount()] if classes is None else [ModeCount(), ClassAccuracy()]
    torch.manual_seed(options.seed)
    asked = None if classes is None else torch.arange(options.samples) % classes
    with torch.no_grad():
        for part in torch.randn(options.samples, gan.latent_dim).split(500):
            labels, asked = (None, None) if asked is None else (asked[: len(part)], asked[len(part) :])
            seen = extractor(gan.sample(part) if labels is None else gan.sample(part, labels), labels)
            for metric in metrics:
                metric.update(seen, "generated")
    counts = metrics[0].generated_counts.tolist()
    print(markdown_table([{"class": str(index), "samples": count} for index, count in enumerate(counts)]))
    figures = {name: value.item() for metric in metrics for name, value in metric.figures().items()}
    found = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    print(f"\n{extractor.name}: {found}; {options.samples} samples of {len(counts)} classes, mode_kl in nats")
    if options.grid is not None:
        fixed = (
            [gan.fixed_latent] if classes is None else [gan.fixed_latent, torch.arange(len(gan.fixed_latent)) % classes]
        )
        save_image(image_grid(gan.sample(*fixed), columns=8), options.grid)


if __name__ == "__main__":
    main()

"""Which classes does a generator make? A classifier trained on the same data counts its samples.

    python -m benchmarks.gan_classes --gan GAN.ckpt --classifier CLASSIFIER.ckpt --grid samples.png

The classifier's own test accuracy bounds what its counts are worth. Samples are rounded to 8 bits first, as real images
are.
"""

import argparse
from pathlib import Path

import torch

from lightning_advreg import GAN, RegularizedClassifier
from lightning_advreg.reporting import image_grid, markdown_table, save_image


def main() -> None:
    """Count, and draw the samples of the fixed noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gan", type=Path, required=True, help="checkpoint of a GAN")
    parser.add_argument("--classifier", type=Path, required=True, help="checkpoint of a RegularizedClassifier")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grid", type=Path, default=None, help="where to draw the samples of the fixed noise")
    options = parser.parse_args()
    gan = GAN.load_from_checkpoint(options.gan, map_location="cpu").eval()
    classifier = RegularizedClassifier.load_from_checkpoint(options.classifier, map_location="cpu").eval()
    torch.manual_seed(options.seed)
    with torch.no_grad():
        noise = torch.randn(options.samples, gan.latent_dim)
        images = torch.cat([gan.sample(part) for part in noise.split(500)]).mul(255).round().div(255)
        probabilities = torch.cat([classifier(part).softmax(1) for part in images.split(500)])
    counts = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1])
    shares = counts / counts.sum()
    divergence = (shares * (shares * len(counts)).clamp(min=1e-12).log()).sum()
    print(markdown_table([{"class": str(index), "samples": int(count)} for index, count in enumerate(counts)]))
    print(
        f"\n{int((counts > 0).sum())} of {len(counts)} classes, KL from uniform {divergence:.3f} nats, "
        f"mean confidence {probabilities.amax(1).mean():.3f}, {options.samples} samples"
    )
    if options.grid is not None:
        save_image(image_grid(gan.sample(gan.fixed_latent), columns=8), options.grid)


if __name__ == "__main__":
    main()

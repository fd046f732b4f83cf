"""The command ``lightning-advreg samples``: labelled images of a GAN, as extra training data."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_advreg.data.generated_file import write_generated
from lightning_advreg.modules import GAN
from lightning_advreg.modules.loading import load_module
from lightning_advreg.networks import Generator
from lightning_advreg.networks.pixels import to_bytes
from lightning_advreg.values import Number, to_float
from lightning_advreg.zoo import load_model, model_card, models

_LEAST_ACCEPTED = 0.001


class GeneratorAlone(nn.Module):
    """A generator without the rest of its GAN, with what is asked of a GAN to sample from it.

    Args:
        generator: From noise, and labels where it is conditional, to images.

    Raises:
        ValueError: If it is no generator.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        if not isinstance(generator, Generator):
            raise ValueError(f"samples come from a generator, and {type(generator).__name__} is none.")
        self.generator = generator
        self.latent_dim = generator.latent_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.generator.parameters()).device

    def sample(self, *inputs: Tensor) -> Tensor:
        """Give images for noise, and labels."""
        images: Tensor = self.generator(*inputs)
        return images


@dataclass(frozen=True, kw_only=True)
class LabelledSamples:
    """Images of a generator, and their labels.

    Attributes:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        made: How many were made to keep N.
        agreed: In which share of all made the classifier gives the label that the generator was asked for; None
            without a classifier, or labels to ask for.
    """

    images: Tensor
    labels: Tensor
    made: int
    agreed: float | None


def labelled_samples(
    gan: GAN | GeneratorAlone,
    num: int,
    *,
    classifier: LightningModule | None = None,
    min_confidence: Number = 0.0,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> LabelledSamples:
    """Make labelled images with the averaged generator.

    A conditional GAN is asked for each class in turn. Images of another one get the label that the classifier gives
    them. With a classifier, an image is kept if the probability of its label is at least ``min_confidence``; images are
    rounded to 8 bits first, as the file will hold them. Noise is drawn on the CPU, so that it is the same for any
    device.

    Args:
        gan: The GAN, or a generator of the zoo, on the device to use.
        num: How many to keep, at least 1.
        classifier: From images in [0, 1] to logits ``(N, K)``, on the same device.
        min_confidence: In [0, 1].
        seed: Of the noise.
        batch_size: How many to make at once.
        progress: Show a bar of the images that are kept.

    Raises:
        ValueError: If a number is out of its range, there is nothing to take labels from, the classifier knows fewer
            classes than the GAN, or less than one image in a thousand is kept.
    """
    share = to_float(min_confidence, "min_confidence", minimum=0, maximum=1)
    for name, value in (("num", num), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    classes = getattr(gan.generator, "num_classes", None)
    if classes is None and classifier is None:
        raise ValueError(
            "this GAN is not conditional and gives no labels; give a classifier that does (--label-by CLASSIFIER.ckpt)."
        )
    if classifier is None and share > 0:
        raise ValueError(
            f"min_confidence={share:g} is that of a classifier, and none is given; give one (--label-by "
            "CLASSIFIER.ckpt), or leave it out."
        )
    gan.eval()
    if classifier is not None:
        classifier.eval()
    parts: list[tuple[Tensor, Tensor]] = []
    kept = made = agreed = 0
    with tqdm(total=num, desc="samples", unit="img", disable=not progress, dynamic_ncols=True) as bar:
        for z, y in _inputs(gan, classes, seed, batch_size, num, filtered=share > 0):
            images, labels, sure, right = _batch(gan, z, y, classifier)
            chosen = sure >= share
            parts.append((images[chosen].cpu(), labels[chosen].cpu()))
            kept, made, agreed = kept + int(chosen.sum()), made + len(z), agreed + right
            bar.update(min(kept, num) - bar.n)
            if kept >= num:
                break
            if made >= 10 / _LEAST_ACCEPTED and kept < _LEAST_ACCEPTED * made:
                raise ValueError(
                    f"of {made} samples {kept} have a confidence of at least {share:g}; lower min_confidence, or train "
                    "the GAN for longer."
                )
    images, labels = (torch.cat(each)[:num] for each in zip(*parts, strict=True))
    counted = classes is not None and classifier is not None
    return LabelledSamples(images=images, labels=labels, made=made, agreed=agreed / made if counted else None)


def main(args: Sequence[str]) -> int:
    """Write labelled samples from the command line.

    Args:
        args: The arguments behind ``samples``.

    Returns:
        The exit status: 0, or 2 if something is wrong with the arguments.
    """
    parser = _parser()
    options = parser.parse_args(args)
    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        gan = _gan(options, device)
        classifier = None if options.label_by is None else load_module(options.label_by, device)
        if isinstance(classifier, GAN):
            raise ValueError(f"--label-by {options.label_by} is a GAN, not a classifier.")
        found = labelled_samples(
            gan,
            options.num,
            classifier=classifier,
            min_confidence=options.min_confidence,
            seed=options.seed,
            batch_size=options.batch_size,
            progress=True,
        )
        path = write_generated(options.out, found.images, found.labels)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(_summary(found, path))
    return 0


def _gan(options: argparse.Namespace, device: torch.device) -> GAN | GeneratorAlone:
    if options.zoo is not None:
        if not model_card(options.zoo).is_classifier:
            return GeneratorAlone(load_model(options.zoo, device=device))
        made = [name for name in models() if not model_card(name).is_classifier]
        raise ValueError(f"--zoo {options.zoo} is a classifier, not a generator; generators are {', '.join(made)}.")
    gan = load_module(options.ckpt_path, device)
    if not isinstance(gan, GAN):
        raise ValueError(f"--ckpt_path {options.ckpt_path} is a {type(gan).__name__}, not a GAN.")
    return gan


def _inputs(
    gan: GAN | GeneratorAlone, classes: int | None, seed: int, batch_size: int, num: int, *, filtered: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Give noise and labels, without an end where some of the images will be dropped."""
    generator, first = torch.Generator().manual_seed(seed), 0
    while filtered or first < num:
        count = batch_size if filtered else min(batch_size, num - first)
        z = torch.randn(count, gan.latent_dim, generator=generator).to(gan.device)
        y = None if classes is None else torch.arange(first, first + count, device=gan.device) % classes
        yield z, y
        first += count


@torch.no_grad()
def _batch(
    gan: GAN | GeneratorAlone, z: Tensor, y: Tensor | None, classifier: LightningModule | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Give images, labels, the probability of each, and on how many the classifier agrees with the generator."""
    module: Any = gan
    images = to_bytes(module.sample(z) if y is None else module.sample(z, y))
    if classifier is None:
        assert y is not None
        return images, y, torch.ones(len(z), device=images.device), 0
    probabilities = classifier(images.float() / 255).float().softmax(1)
    if y is None:
        sure, labels = probabilities.max(1)
        return images, labels, sure, 0
    if int(y.max()) >= probabilities.shape[1]:
        raise ValueError(
            f"the classifier knows {probabilities.shape[1]} classes, and the GAN makes images of more; give one that "
            "was trained on the GAN's data."
        )
    right = int((probabilities.argmax(1) == y).sum())
    return images, y, probabilities.gather(1, y.view(-1, 1)).squeeze(1), right


def _summary(found: LabelledSamples, path: Path) -> str:
    counts = torch.bincount(found.labels).tolist()
    lines = [f"{len(found.labels)} labelled images are in {path}; of each class: {', '.join(map(str, counts))}"]
    if found.made > len(found.labels):
        lines.append(f"{found.made} were made to keep so many")
    if found.agreed is not None:
        lines.append(f"The classifier gives {100 * found.agreed:.1f} % of all made the label they were made for")
    lines.append(f"Train with them: lightning-advreg fit --config ... --data.init_args.extra_path {path}")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-advreg samples", allow_abbrev=False,
        description="Write labelled images of a GAN as extra training data (extra_path of the DataModules).",
        epilog="example: lightning-advreg samples --ckpt_path runs/mnist_gan/checkpoints/last.ckpt --num 50000 "
        "--label-by runs/mnist_regularized/checkpoints/last.ckpt --min-confidence 0.9 --out generated.npz",
    )  # fmt: skip
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt_path", type=Path, help="checkpoint of a GAN")
    source.add_argument("--zoo", metavar="NAME", help="a generator of the zoo, such as mnist_dcgan_conditional")
    parser.add_argument("--num", type=int, required=True, help="images to write")
    parser.add_argument("--out", type=Path, default=Path("samples.npz"), help="file to write (samples.npz)")
    parser.add_argument(
        "--label-by",
        type=Path,
        default=None,
        help="checkpoint of a classifier, for labels or to check those of the GAN",
    )
    parser.add_argument("--min-confidence", default="0", help="least probability of the label, by the classifier (0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    parser.add_argument("--batch-size", type=int, default=256, help="images to make at once (256)")
    parser.add_argument("--device", default="", help="such as cpu or cuda:1 (a GPU if there is one)")
    return parser

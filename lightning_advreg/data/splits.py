"""Seeded, class-stratified order of a training set, from which validation and small training sets are cut."""

import torch
from torch import Tensor


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle so that every prefix, and every suffix, holds the classes in the proportions of the whole.

    The r-th of the n images of a class gets the place ``(r + 1/2) / n``; images are sorted by place, ties at random.
    Cutting the order anywhere therefore gives a stratified split, and shorter prefixes are nested in longer ones.

    Args:
        labels: Class indices, int64, of shape ``(N,)``.
        generator: A CPU generator.

    Returns:
        A permutation of ``0..N-1``, int64, of shape ``(N,)``.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> order = stratified_order(labels, torch.Generator().manual_seed(0))
        >>> labels[order[:3]].bincount().tolist(), labels[order[3:]].bincount().tolist()
        ([2, 1], [2, 1])
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    counts = labels.bincount()
    by_class = labels[shuffled].argsort(stable=True)
    first_of_class = (counts.cumsum(0) - counts)[labels[shuffled][by_class]]
    rank_in_class = torch.empty_like(shuffled)
    rank_in_class[by_class] = torch.arange(len(labels)) - first_of_class
    # float64: places of different classes that are equal as fractions must compare equal, or ties are not random
    places = (2 * rank_in_class + 1).double() / (2 * counts[labels[shuffled]]).double()
    return shuffled[places.argsort(stable=True)]


def count_of(size: int | float, total: int) -> int:
    """Give the number of images that a count or a fraction of ``total`` stands for.

    Args:
        size: A count (``int``) or a fraction (``float``), which is rounded to the nearest count.
        total: The number of images there are.

    Example:
        >>> count_of(0.1, 60000), count_of(5000, 60000)
        (6000, 5000)
    """
    return size if isinstance(size, int) else round(size * total)


def split_train_val(
    labels: Tensor, *, val_size: int | float, train_size: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a validation set, then a training set, from one stratified order.

    The validation set comes first, so that it does not depend on ``train_size``.

    Args:
        labels: Class indices of the official training set, int64, of shape ``(N,)``.
        val_size: Number of images for validation, or their fraction.
        train_size: Number of images for training; all that remain where it is None.
        generator: A CPU generator.

    Returns:
        Rows for training and rows for validation, int64, disjoint.

    Raises:
        ValueError: If nothing is left for training, if a fraction above 0 rounds to no image, or if ``train_size`` is
            more than what is left.

    Example:
        >>> train, val = split_train_val(
        ...     torch.arange(10) % 2, val_size=4, train_size=None, generator=torch.Generator().manual_seed(0)
        ... )
        >>> len(train), len(val), (val % 2).sum().item()
        (6, 4, 2)
    """
    total = len(labels)
    val_count = count_of(val_size, total)
    left = total - val_count
    if left < 1:
        raise ValueError(
            f"val_size={val_size} takes {val_count} of the {total} images of the training set and leaves none to train "
            "on; make val_size smaller."
        )
    if val_size > 0 and val_count == 0:
        raise ValueError(
            f"val_size={val_size} of {total} images is an empty validation set; make val_size larger, or 0 for none."
        )
    if train_size is not None and train_size > left:
        raise ValueError(
            f"train_size={train_size} is more than the {left} images that val_size={val_size} leaves of the {total} of "
            "the training set; make train_size or val_size smaller."
        )
    order = stratified_order(labels, generator)
    val, train = order[:val_count], order[val_count:]
    return train[:train_size], val

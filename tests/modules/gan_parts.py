"""Tiny conditional networks and data that the tests of the GAN share."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from .parts import SHAPE, plain_gan

CLASSES = 3


class ConditionalGenerator(nn.Module):
    """Each class has a brightness of its own, noise adds to it."""

    latent_dim = 4

    def __init__(self, num_classes=CLASSES, batch_norm=False):
        super().__init__()
        self.num_classes = num_classes
        self.embedding = nn.Embedding(num_classes, 4)
        self.norm = nn.BatchNorm1d(4) if batch_norm else nn.Identity()
        self.layer = nn.Linear(4, 64)
        self.seen = []

    def forward(self, z, y):
        self.seen.append(y.detach().clone())
        return self.layer(self.norm(z + self.embedding(y))).sigmoid().view(-1, *SHAPE)


class SplitDiscriminator(nn.Module):
    """In two parts, conditional by a projection, or with an auxiliary classifier, or neither."""

    def __init__(self, num_classes=None, auxiliary=None, features=6):
        super().__init__()
        self.num_classes = num_classes
        self.layer = nn.Linear(64, features)
        self.head = nn.Linear(features, 1)
        if num_classes is not None:
            self.embedding = nn.Embedding(num_classes, features)
        if auxiliary is not None:
            self.classifier = nn.Linear(features, auxiliary)
            self.classify = self.classifier.forward
        self.shown, self.labels = [], []

    def features(self, x):
        self.shown.append(x.detach().clone())
        return self.layer(x.flatten(1)).tanh()

    def score(self, features, y=None):
        self.labels.append(y)
        logits = self.head(features).squeeze(1)
        return logits if y is None else logits + (features * self.embedding(y)).sum(1)

    def forward(self, x, y=None):
        return self.score(self.features(x), y)


def conditional_gan(**settings):
    return plain_gan(
        **{
            "generator": ConditionalGenerator(),
            "discriminator": SplitDiscriminator(num_classes=CLASSES),
            "num_fixed": 7,
            **settings,
        }
    )


def labelled(count=32, batch_size=8, classes=CLASSES):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, *SHAPE, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(count) % classes), batch_size=batch_size)

"""A small network and stages of attacks for tests of suites."""

from dataclasses import dataclass

import torch
from torch import nn

from lightning_advreg.attacks import PGD, Attack, Square


@dataclass(frozen=True, kw_only=True)
class Recording(Attack):
    """Falls on those whose first pixel is below a bound; notes what it was given."""

    calls: list
    bound: float = 0.5

    def __call__(self, model, x, y):
        self.calls.append((type(model), x[:, 0, 0, 0].tolist(), torch.rand(1).item()))
        x_adv = x.clone()
        fell = x[:, 0, 0, 0] < self.bound
        if fell.any():
            x_adv[fell] = torch.tensor([[[1.0, 0.0]]])
        return x_adv


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    x = torch.rand(40, 3, 6, 6)
    model(x)
    model.eval()
    with torch.no_grad():
        return model, x, model(x).argmax(1)


STAGES = {"pgd": PGD(eps=0.01, step_size=0.004, steps=4), "square": Square(eps=0.02, queries=30)}

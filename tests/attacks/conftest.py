import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def net():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(54, 6),
    )
    # running statistics away from their defaults, so that eval and train modes differ
    model(torch.rand(16, 3, 6, 6))
    return model.eval()


@pytest.fixture
def batch():
    return torch.rand(5, 3, 6, 6), torch.tensor([0, 1, 2, 3, 5])


@pytest.fixture
def wavy():
    """A model with many local maxima, where restarts matter."""
    inner, outer = torch.randn(12, 8), torch.randn(8, 5)
    return lambda x: torch.sin(9 * x.flatten(1) @ inner) @ outer

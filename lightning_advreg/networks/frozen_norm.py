"""BatchNorm whose statistics stay what they are."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm(nn.Module):
    """BatchNorm by its running statistics in every mode, ``weight (x - mean) / sqrt(var + eps) + bias``.

    ``torchvision.ops.FrozenBatchNorm2d`` with a scale and shift that may be trained. It is no subclass of PyTorch's
    BatchNorm, so that ``Trainer(sync_batchnorm=True)`` leaves it alone, and it is in eval mode always.

    Args:
        num_features: The number of channels.
        eps: What is added to the variance.

    Example:
        >>> norm = FrozenBatchNorm(2).train()
        >>> _ = norm(5 + torch.rand(4, 2, 3, 3))
        >>> norm.training, norm.running_mean
        (False, tensor([0., 0.]))
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.training = False

    def train(self, mode: bool = True) -> "FrozenBatchNorm":
        """Put what is attached to the layer into a mode, and stay in eval mode."""
        super().train(mode)
        self.training = False
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features ``(N, C, ...)``."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return f"{self.num_features}, eps={self.eps}"

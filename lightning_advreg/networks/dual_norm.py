"""BatchNorm with statistics of their own for clean and for attacked images."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_choice

Branch: TypeAlias = Literal["clean", "adversarial"]
"""One of the two halves of a :class:`DualBatchNorm`."""

_BATCH: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_pass: ContextVar[Branch | None] = ContextVar("pass", default=None)


def clean_pass() -> AbstractContextManager[None]:
    """Let passes within this context be those of clean images, for every :class:`DualBatchNorm`.

    Example:
        >>> with clean_pass():
        ...     print(current_pass())
        clean
    """
    return _told("clean")


def adversarial_pass() -> AbstractContextManager[None]:
    """Let passes within this context be those of attacked images, for every :class:`DualBatchNorm`.

    ``AdversarialClassifier`` runs its training steps in it. A training loop of one's own enters it around objective and
    attack, and objectives mark the passes of clean images by :func:`run_clean`.

    Example:
        >>> with adversarial_pass():
        ...     print(current_pass())
        adversarial
    """
    return _told("adversarial")


def current_pass() -> Branch | None:
    """Give which pass the code runs in, or None where nothing says so, as in evaluation.

    Example:
        >>> current_pass() is None
        True
    """
    return _pass.get()


def run_clean(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a model on clean images: as a clean pass where training tells passes apart, and as it is elsewhere.

    Elsewhere is evaluation, which has one branch for all images, whether they are attacked or not.

    Args:
        model: From images to logits.
        x: Clean images ``(N, C, H, W)``.

    Returns:
        Logits ``(N, K)``.

    Example:
        >>> with adversarial_pass():
        ...     print(run_clean(lambda x: current_pass(), None))
        clean
    """
    if current_pass() is None:
        return model(x)
    with clean_pass():
        return model(x)


class DualBatchNorm(nn.Module):
    """Two BatchNorms, one for clean and one for attacked images (auxiliary BatchNorm, Xie et al. 2020, section 4.2).

    Features of clean and of attacked images are distributed differently, and one BatchNorm estimates a mixture that is
    neither (Xie & Yuille 2020). Each half has running statistics, and a scale and shift, of its own. In training the
    context says which half a pass belongs to, see :func:`adversarial_pass` and :func:`clean_pass`. In eval mode outside
    of such a context it is ``evaluate``, for all images: a deployed network does not know whether it is attacked.

    It is no subclass of PyTorch's BatchNorm, but its halves are, so that ``Trainer(sync_batchnorm=True)`` finds them.

    Args:
        num_features: The number of channels.
        dims: The number of dimensions of a feature map: 1 (or none), 2 or 3.
        eps: What is added to the variance.
        momentum: The weight of a new batch in the running statistics, or None for the mean of all batches.
        evaluate: The half that evaluation uses. ``"adversarial"`` is the robust one; AdvProp deploys ``"clean"``, whose
            clean accuracy is higher, and which is hardly robust.

    Raises:
        ValueError: If ``evaluate`` or ``dims`` is none of these.
        RuntimeError: In training mode, if nothing tells which half a pass belongs to.

    Example:
        >>> import torch
        >>> norm = DualBatchNorm(2)
        >>> with clean_pass():
        ...     _ = norm(5 + torch.rand(4, 2, 3, 3))
        >>> norm.adversarial.running_mean, int(norm.clean.num_batches_tracked)
        (tensor([0., 0.]), 1)
    """

    def __init__(
        self,
        num_features: int,
        *,
        dims: int = 2,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        evaluate: Branch = "adversarial",
    ) -> None:
        super().__init__()
        if dims not in _BATCH:
            raise ValueError(f"dims must be 1, 2 or 3, got {dims!r}.")
        self.num_features, self.eps = num_features, eps
        self.evaluate: Branch = checked_branch(evaluate)
        self.clean, self.adversarial = (_BATCH[dims](num_features, eps=eps, momentum=momentum) for _ in range(2))

    @property
    def evaluated(self) -> nn.Module:
        """The half that evaluation uses."""
        return self.clean if self.evaluate == "clean" else self.adversarial

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features ``(N, C, ...)``."""
        branch = _pass.get()
        if branch is None and self.training:
            raise RuntimeError(
                "a DualBatchNorm in training mode must know whether images are clean or attacked, and nothing says so: "
                "train with AdversarialClassifier, or run passes within clean_pass() and adversarial_pass() of "
                "lightning_advreg.networks.dual_norm; otherwise use NormAblation('batch')."
            )
        features: Tensor = (self.clean if (branch or self.evaluate) == "clean" else self.adversarial)(x)
        return features

    def extra_repr(self) -> str:
        """Show which half evaluation uses."""
        return f"evaluate={self.evaluate!r}"


def dual_norms(network: nn.Module) -> list[DualBatchNorm]:
    """Give the layers of a network that tell clean from attacked images.

    Example:
        >>> dual_norms(nn.Sequential(nn.BatchNorm2d(2)))
        []
    """
    return [layer for layer in network.modules() if isinstance(layer, DualBatchNorm)]


def evaluate_by_(network: nn.Module, branch: Branch) -> None:
    """Let every :class:`DualBatchNorm` of a network evaluate by one of its halves, in place.

    Args:
        network: The network.
        branch: ``"clean"`` or ``"adversarial"``.

    Raises:
        ValueError: If ``branch`` is neither.

    Example:
        >>> net = nn.Sequential(DualBatchNorm(2))
        >>> evaluate_by_(net, "clean")
        >>> net[0].evaluated is net[0].clean
        True
    """
    for layer in dual_norms(network):
        layer.evaluate = checked_branch(branch, "branch")


def checked_branch(branch: str, name: str = "evaluate") -> Branch:
    """Give ``branch``, if it is one.

    Raises:
        ValueError: If it is none.

    Example:
        >>> checked_branch("clean")
        'clean'
    """
    check_choice(name, branch, get_args(Branch))
    return branch  # type: ignore[return-value]


@contextmanager
def _told(branch: Branch) -> Iterator[None]:
    token = _pass.set(branch)
    try:
        yield
    finally:
        _pass.reset(token)

"""Attacks that run for minutes or hours: in batches, on survivors, with progress that is shown and saved."""

from dataclasses import dataclass

from torch import Tensor

from lightning_advreg.attacks.acceleration import Acceleration, SearchModel
from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.model_state import Model


@dataclass(frozen=True, kw_only=True)
class LongAttack(SearchAttack):
    """What the attacks of an evaluation share, beside their search.

    A call takes any number of images, in batches. Images that the model gets wrong already come back as they are. The
    search runs on a fast copy of the network, and every success is confirmed on the network itself.

    Args:
        seed: Seed of the random numbers; each batch draws from a stream of its own. None draws from the default
            generators.
        batch_size: Images attacked at once; None chooses what fits the memory. Where a batch does not fit after all,
            it is halved.
        progress: Show a bar with images left and accuracy so far.
        checkpoint: A folder where progress is saved after every batch, so that the same call continues where it was
            killed, and ends with the same result.
        acceleration: How the network is made fast; None searches on the network itself.
    """

    seed: int | None = 0
    batch_size: int | None = None
    progress: bool = False
    checkpoint: str | None = None
    acceleration: Acceleration | None = Acceleration()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None:
            self._check_counts("batch_size")

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, eps: Tensor | None = None) -> Tensor:
        """Attack any number of images.

        Args:
            model: Any callable from [0, 1] images to logits.
            x: Images in [0, 1], floating point, of shape ``(N, C, H, W)``; on the CPU or on the model's device.
            y: Labels (targets, if ``targeted``), integers of shape ``(N,)``.
            eps: A budget per image of shape ``(N,)``, in place of the attack's own. All images are one batch then.

        Returns:
            Attacked images with the shape, dtype and device of ``x``, detached.

        Raises:
            TypeError: If ``x`` is not floating point or ``y`` is not integer.
            ValueError: If pixels lie outside [0, 1], labels are out of range, an eps is negative, shapes disagree, the
                loss needs more classes than the model has, or ``checkpoint`` holds another evaluation.
        """
        if isinstance(model, SearchModel) or eps is not None:
            # from within an evaluation, which has seen to the rest
            return super().__call__(model, x, y, eps=eps)
        from lightning_advreg.attacks.suite import evaluate

        return evaluate(self, model, x, y).x_adv

    def stages(self, num_classes: int) -> dict[str, SearchAttack]:
        """Give the attacks by name that run one after another, each on the survivors of those before it.

        Args:
            num_classes: How many classes the network knows.
        """
        return {type(self).__name__.lower(): self}

"""Features of images whose channels are grey images of their own, as in stacked MNIST."""

from torch import Tensor

from lightning_advreg.metrics.gan_features import FeatureExtractor


class StackedFeatures(FeatureExtractor):
    """What an extractor for grey images sees in each channel, put together.

    With ``C`` channels of ``K`` classes there are ``K ** C`` classes: three stacked digits make 1000 modes (Metz et al.
    2017), of which :class:`ModeCount` tells how many a generator makes. Class ``(a, b, c)`` is number ``a K^2 + b K +
    c``, as in :class:`~lightning_advreg.data.StackedMNISTDataModule`.

    Args:
        extractor: Of grey images, with classes.
        channels: The number of channels, 1 or more.

    Raises:
        ValueError: If the extractor knows no classes, or there are no channels.

    Example:
        >>> import torch
        >>> from lightning_advreg.metrics.gan_classifier_features import ClassifierFeatures
        >>> from lightning_advreg.networks import MNISTConvNet
        >>> stacked = StackedFeatures(ClassifierFeatures(MNISTConvNet(image_size=8, hidden=5)))
        >>> seen = stacked(torch.rand(2, 3, 8, 8))
        >>> seen.features.shape, seen.logits.shape
        (torch.Size([2, 15]), torch.Size([2, 1000]))
    """

    def __init__(self, extractor: FeatureExtractor, channels: int = 3) -> None:
        super().__init__()
        if extractor.num_classes is None or channels < 1:
            raise ValueError(
                "StackedFeatures needs an extractor with classes, such as ClassifierFeatures, and at least one "
                f"channel; got {extractor.name} and {channels}."
            )
        self.extractor, self.channels = extractor, channels
        self.num_classes = extractor.num_classes**channels
        self.name = f"{extractor.name}-x{channels}"
        self.needs_bytes = extractor.needs_bytes

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the features of all channels ``(N, C * F)``, and the logarithms of joint probabilities ``(N, K ** C)``.

        Raises:
            ValueError: If images have another number of channels.
        """
        if images.shape[1] != self.channels:
            raise ValueError(f"images must have {self.channels} channels, got {images.shape[1]}; set channels.")
        # as one batch of grey images
        features, logits = self.extractor.extract(images.flatten(0, 1)[:, None])
        assert logits is not None
        each = logits.log_softmax(1).unflatten(0, (len(images), self.channels))
        joint = each[:, 0]
        for channel in range(1, self.channels):
            joint = (joint[:, :, None] + each[:, channel, None, :]).flatten(1)
        return features.view(len(images), -1), joint

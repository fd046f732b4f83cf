"""The LightningModules."""

from lightning_advreg.modules.adversarial import AdversarialClassifier
from lightning_advreg.modules.classifier import Classifier
from lightning_advreg.modules.engine import Engine
from lightning_advreg.modules.gan import GAN
from lightning_advreg.modules.regularized import RegularizedClassifier
from lightning_advreg.modules.schedules import LinearOneCycle

__all__ = ["GAN", "AdversarialClassifier", "Classifier", "Engine", "LinearOneCycle", "RegularizedClassifier"]

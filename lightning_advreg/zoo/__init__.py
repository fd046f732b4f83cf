"""The model zoo: small trained networks that come along, with what was measured of them.

Cards are read without PyTorch; :func:`load_model` imports it, and no Lightning.
"""

from lightning_advreg.zoo.cards import Figure, ModelCard, model_card, models
from lightning_advreg.zoo.loading import load_model, weights_path

__all__ = ["Figure", "ModelCard", "load_model", "model_card", "models", "weights_path"]

"""LightningModules, DataModules and callbacks for classifiers that withstand attack and overfitting, and for GANs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_advreg.modules import GAN, AdversarialClassifier, RegularizedClassifier

__version__ = "0.1.0"
__all__ = ["GAN", "AdversarialClassifier", "RegularizedClassifier", "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Lightning takes seconds to import; `import lightning_advreg.attacks` must not wait for it
    if name in __all__:
        return getattr(importlib.import_module("lightning_advreg.modules"), name)
    raise AttributeError(f"module 'lightning_advreg' has no attribute {name!r}")

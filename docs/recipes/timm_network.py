"""A network of timm, trained by TRADES and evaluated with AutoAttack."""

from functools import partial

import lightning as L
import timm
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import RobustEvaluation
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.networks import Normalize
from lightning_advreg.objectives import TRADES


def timm_network(name, **arguments):
    """Give a network of timm from pixels in [0, 1]: what timm's transforms would normalise with comes first."""
    network = timm.create_model(name, num_classes=10, **arguments)  # pretrained=True downloads its weights
    config = timm.data.resolve_model_data_config(network)
    return nn.Sequential(Normalize(config["mean"], config["std"]), network)


class Colour(nn.Module):
    """Gray digits as three equal channels, which pretrained networks expect."""

    def forward(self, x):
        return x.expand(-1, 3, -1, -1)


def main(epochs=5, max_samples=100):
    L.seed_everything(0)
    # a small vision transformer for images of 8x8 pixels; any name and arguments of timm will do
    network = timm_network("vit_tiny_patch16_224", img_size=8, patch_size=2, embed_dim=64, num_heads=4, depth=2)
    module = AdversarialClassifier(
        nn.Sequential(Colour(), network),
        attack=PGD(eps=0.15, step_size=0.1, steps=3),
        objective=TRADES(beta=4),
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
    )
    # the budget is that of the training attack; "standard" is the suite whose number is quoted
    evaluation = RobustEvaluation(version="fast", max_samples=max_samples, examples=0)
    trainer = L.Trainer(max_epochs=epochs, callbacks=[evaluation], default_root_dir="runs/recipes", logger=False)
    data = DigitsDataModule(batch_size=64)
    trainer.fit(module, datamodule=data)
    trainer.test(module, datamodule=data)  # logs test/robust_acc/autoattack_fast, writes robust_evaluation.json
    return trainer, module


if __name__ == "__main__":
    main()

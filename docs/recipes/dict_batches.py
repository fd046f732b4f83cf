"""A module with dict batches and an auxiliary loss: the callbacks are told where images and labels are."""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import AdversarialTraining, ConvergenceMonitor, RobustAccuracy, RobustEvaluation


class TwoHeads(L.LightningModule):
    """Names the digit, and on the side estimates how much ink it took."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64), nn.ReLU())
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)
        self.trunk(torch.zeros(1, 1, 8, 8))

    def forward(self, x):
        return self.digit(self.trunk(x))  # what is attacked: logits

    def training_step(self, batch, batch_idx):
        features = self.trunk(batch["pixels"])
        auxiliary = F.mse_loss(self.ink(features).squeeze(1), batch["ink"])
        return F.cross_entropy(self.digit(features), batch["digit"]) + 0.5 * auxiliary

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch["pixels"]).argmax(1) == batch["digit"]).float().mean())

    def test_step(self, batch, batch_idx):
        self.log("test_acc", (self(batch["pixels"]).argmax(1) == batch["digit"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main(epochs=5, max_samples=100):
    L.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    data = [{"pixels": image, "digit": int(y), "ink": image.mean()} for image, y in zip(x, labels, strict=True)]
    train, val = DataLoader(data[:1400], batch_size=64, shuffle=True), DataLoader(data[1400:], batch_size=200)

    keys = ("pixels", "digit")  # for batches that are tuples, places such as (0, 2); in YAML, keys: [pixels, digit]
    callbacks = [
        AdversarialTraining(PGD(eps=0.15, step_size=0.05, steps=5), keys=keys),  # "ink" is handed on as it is
        RobustAccuracy({"pgd20": PGD(eps=0.15, step_size=0.03, steps=20)}, keys=keys),
        RobustEvaluation(version="fast", eps=0.15, max_samples=max_samples, examples=0, keys=keys),
        ConvergenceMonitor(),  # looks where AdversarialTraining looks
    ]
    trainer = L.Trainer(max_epochs=epochs, callbacks=callbacks, default_root_dir="runs/recipes", logger=False)
    module = TwoHeads()
    trainer.fit(module, train, val)
    trainer.test(module, val)
    return trainer, module


if __name__ == "__main__":
    main()

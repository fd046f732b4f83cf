"""An image classifier as Lightning's examples write it, trained and tested under attack without a change to it."""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import AdversarialTraining, ConvergenceMonitor, RobustAccuracy


class ImageClassifier(L.LightningModule):
    """Your own module: ``forward`` gives logits for images in [0, 1], and batches are (x, y)."""

    def __init__(self, learning_rate=2e-3):
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 3 * 3, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)


def main(epochs=5):
    L.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16  # gray values to [0, 1]
    data = TensorDataset(x, torch.tensor(labels))
    train = DataLoader(torch.utils.data.Subset(data, range(1400)), batch_size=64, shuffle=True)
    val = DataLoader(torch.utils.data.Subset(data, range(1400, 1797)), batch_size=200)

    callbacks = [
        AdversarialTraining(PGD(eps=0.15, step_size=0.05, steps=5)),  # training_step sees attacked images
        RobustAccuracy({"pgd20": PGD(eps=0.15, step_size=0.03, steps=20)}),  # logs val/robust_acc/pgd20
        ConvergenceMonitor(),  # says so when training goes wrong
    ]
    trainer = L.Trainer(max_epochs=epochs, callbacks=callbacks, default_root_dir="runs/recipes", logger=False)
    module = ImageClassifier()
    trainer.fit(module, train, val)
    return trainer, module


if __name__ == "__main__":
    main()

"""A network of torchvision whose images come normalised: the attack and its budget stay in pixels from 0 to 1."""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from torchvision.transforms import v2

from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import AdversarialTraining, RobustAccuracy
from lightning_advreg.networks import Normalize

WEIGHTS = models.ShuffleNet_V2_X0_5_Weights.DEFAULT
MEAN, STD = WEIGHTS.transforms().mean, WEIGHTS.transforms().std


class FineTuned(L.LightningModule):
    """Your own module; its images were normalised by the transforms that the weights ask for."""

    def __init__(self):
        super().__init__()
        self.network = models.shufflenet_v2_x0_5(weights=None, num_classes=10)  # weights=WEIGHTS downloads them

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def main(epochs=5):
    L.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    gray = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    pixels = v2.Resize(32, antialias=True)(gray).expand(-1, 3, -1, -1).clamp(0, 1)
    x, y = v2.Normalize(MEAN, STD)(pixels), torch.tensor(labels)
    train = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=64, shuffle=True)
    val = DataLoader(TensorDataset(x[1400:], y[1400:]), batch_size=200)

    # with the numbers of the transform, eps=0.1 is a tenth of the range of a pixel, as papers mean it
    attack = PGD(eps=0.1, step_size=0.05, steps=3, random_start=False)
    callbacks = [AdversarialTraining(attack, mean=MEAN, std=STD), RobustAccuracy(attack, mean=MEAN, std=STD)]
    trainer = L.Trainer(max_epochs=epochs, callbacks=callbacks, default_root_dir="runs/recipes", logger=False)
    module = FineTuned()
    trainer.fit(module, train, val)

    # outside of the Trainer, and wherever you can choose, normalisation is the first layer
    from_pixels = nn.Sequential(Normalize(MEAN, STD), module.network).eval()
    x_adv = attack(from_pixels, pixels[1400:], y[1400:])
    robust = (from_pixels(x_adv).argmax(1) == y[1400:]).float().mean()
    print(f"accuracy under attack {robust:.3f}, largest change of a pixel {(x_adv - pixels[1400:]).abs().max():.3f}")
    return trainer, module, pixels[1400:], x_adv, robust


if __name__ == "__main__":
    main()

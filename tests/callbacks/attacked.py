"""A module that remembers the attacked images it was trained on."""

import copy

from lightning_advreg.attacks import PGD

from .foreign import Foreign, loader, trainer

ATTACK = PGD(eps=0.1, step_size=0.05, steps=2, random_start=False)
MEAN, STD = (0.4,), (0.3,)


class Seen(Foreign):
    """Remembers what its training step was given, and the weights of that moment."""

    def __init__(self, seed=1):
        super().__init__(seed)
        self.network[4].p = 0.0
        self.seen, self.weights = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        self.weights.append(copy.deepcopy(self.network))
        return super().training_step(self.pair(batch), batch_idx)

    def pair(self, batch):
        return batch


class Batches:
    """A loader of batches that are there already; Lightning takes a list for several loaders."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class OfDicts(Seen):
    def pair(self, batch):
        return batch["image"], batch["label"]


def fit(tmp_path, module, callback, data=None, callbacks=(), ckpt_path=None, **settings):
    run = trainer(tmp_path, callback, *callbacks, limit_val_batches=0, **settings)
    run.fit(module, loader(16) if data is None else data, ckpt_path=ckpt_path, weights_only=True)
    return run


def expected(network, x, y, attack=ATTACK):
    return attack(copy.deepcopy(network), x, y)

"""What test_adversarial_ddp.py runs in two processes."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, NFGSM, PGD, WorstOf
from lightning_advreg.objectives import (
    ALP,
    GAT,
    HAT,
    LIET,
    MART,
    PGDAT,
    PGI,
    TRADES,
    AdversarialMixup,
    AverageOverAttacks,
    FreeAT,
    GradAlign,
    NuAT,
)
from lightning_advreg.perturbations import ASAM, AWP, SAM

from .parts import conv, every_constraint, trainer

_PGD = PGD(eps=0.2, step_size=0.1, steps=2)
_NORMS = WorstOf([_PGD, PGD(norm="l2", eps=1.0, step_size=0.5, steps=2)])


def runs():
    """Give every objective and weight perturbation: name -> arguments of the module."""
    plain = {
        "pgd_at": PGDAT(clean_weight=0.5),
        "trades": TRADES(),
        "mart": MART(),
        "alp": ALP(),
        "mixup": AdversarialMixup(),
        "hat": HAT(conv(norm="batch")),
        "nuat": NuAT(),
        "gat": GAT(),
        "liet": LIET(),
        "pgi": PGI(),
        "free": FreeAT(replays=2),
    }
    return {
        **{name: {"attack": _PGD, "objective": objective} for name, objective in plain.items()},
        "gradalign": {"attack": FGSM(eps=0.2), "objective": GradAlign()},
        "nfgsm": {"attack": NFGSM(eps=0.2), "objective": PGDAT()},
        "max": {"attack": _NORMS, "objective": PGDAT()},
        "average": {"attack": _NORMS, "objective": AverageOverAttacks()},
        "awp": {"attack": _PGD, "objective": TRADES(), "weight_perturbation": AWP()},
        "sam": {"attack": _PGD, "weight_perturbation": SAM()},
        "asam": {"attack": _PGD, "weight_perturbation": ASAM()},
        "constraints": {"attack": _PGD, "constraints": every_constraint()},
    }


def batches(size, rank, processes):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 10, (32,), generator=generator)
    # image r, r + 2, ... to rank r, so that the batches of both together are those of one process
    return DataLoader(TensorDataset(images[rank::processes], labels[rank::processes]), batch_size=size // processes)


def fit(arguments, rank=0, processes=1, **settings):
    torch.manual_seed(1)
    model = AdversarialClassifier(**{"network": conv(norm="batch"), **arguments})
    settings = {"use_distributed_sampler": False, "precision": "64-true", **settings}
    trainer(max_epochs=2, **settings).fit(model, batches(16, rank, processes))
    return {name: value for name, value in model.network.state_dict().items() if "running" not in name}


def pgd_at():
    """PGD-AT without batch statistics and without chance: what one process and two agree on."""
    torch.manual_seed(1)
    attack = PGD(eps=0.2, step_size=0.1, steps=3, random_start=False)
    return {"network": conv(norm="group"), "attack": attack, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}

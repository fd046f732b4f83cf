"""A model whose worst case is known, for attacks that search without gradients."""

import torch

from lightning_advreg.attacks.base import SearchAttack

P = {"linf": torch.inf, "l2": 2, "l1": 1}


def run(attack, model, x, y, **keywords):
    return SearchAttack.__call__(attack, model, x, y, **keywords)


class Scored:
    """Two logits that differ by a score, less a lead that a search has to make up; remembers what it was asked."""

    def __init__(self, slope, lead=1e4):
        self.slope, self.lead, self.asked = slope, lead, []

    def score(self, x):
        return (x * self.slope).flatten(1).sum(1)

    def __call__(self, x):
        assert not torch.is_grad_enabled()
        self.asked.append(x.clone())
        score = self.score(x).double()
        return torch.stack([torch.full_like(score, self.lead), score], 1)


def zeros(x):
    return torch.zeros(len(x), dtype=torch.long)

"""Every objective trains in two processes, and PGD-AT as in one."""

import os

import pytest
import torch

from .two_processes import fit, pgd_at, runs


def in_pair(folder):
    rank = int(os.environ["RANK"])
    for name, arguments in (("equal", pgd_at()), *runs().items()):
        weights = fit(arguments, rank, 2, strategy="ddp", devices=2)
        torch.save(weights, folder / f"{name}-{rank}.pt")


@pytest.fixture(scope="module")
def weights(pair):
    return {path.stem: torch.load(path, weights_only=True) for path in pair.glob("*.pt")}


def test_two_processes_give_the_weights_of_one(weights):
    single = fit(pgd_at())
    for rank in range(2):
        for name, value in single.items():
            torch.testing.assert_close(weights[f"equal-{rank}"][name], value, rtol=0, atol=1e-5)
    start = pgd_at()["network"].state_dict()
    assert any((single[name] - start[name]).abs().max() > 1e-3 for name in single)


@pytest.mark.parametrize("name", runs())
def test_every_objective_keeps_the_processes_together(weights, name):
    first, second = weights[f"{name}-0"], weights[f"{name}-1"]
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert all(value.isfinite().all() for value in first.values())


def test_hard_limits_hold_in_two_processes(weights):
    kernels = [value for value in weights["constraints-0"].values() if value.dim() > 1]
    assert len(kernels) > 2
    for kernel in kernels:
        assert kernel.abs().max() <= 0.5
        assert (kernel == 0).sum() == int(0.5 * kernel.numel() + 0.5)
        assert torch.linalg.svdvals(kernel.flatten(1))[0] < 1.6

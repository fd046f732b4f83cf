"""Changed layers in two processes: ``python -m torch.distributed.run --nproc_per_node 2 -m ...``."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.callbacks import DropoutAblation, NormAblation

from .foreign import Foreign, images, trainer

_PROGRAM = ["torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"]


def fit(folder, kind, rank=0, processes=1, **settings):
    module = Foreign().double()
    x, y = images(16)
    # image r, r + 2, ... to rank r, so that the batches of both together are those of one process
    data = TensorDataset(x[rank::processes].double(), y[rank::processes])
    settings = {"use_distributed_sampler": False, "precision": "64-true", "max_epochs": 2, **settings}
    # without chance, which would differ between the processes
    callbacks = [NormAblation(kind), DropoutAblation(0)]
    trainer(folder, *callbacks, **settings).fit(module, DataLoader(data, batch_size=8 // processes))
    return module.state_dict()


def test_two_processes_train_changed_layers_as_one_does(tmp_path):
    command = [sys.executable, "-m", *_PROGRAM, "localhost:0", "-m", __name__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in ("group", "none"):
        alone = fit(tmp_path, kind)
        for rank in range(2):
            both = torch.load(tmp_path / f"{kind}-{rank}.pt", weights_only=True)
            torch.testing.assert_close(both, dict(alone), rtol=0, atol=1e-9)


def main():
    warnings.simplefilter("ignore")
    rank = int(os.environ["RANK"])
    for kind in ("group", "none"):
        weights = fit(sys.argv[1], kind, rank, 2, strategy="ddp", devices=2)
        torch.save(dict(weights), Path(sys.argv[1]) / f"{kind}-{rank}.pt")


if __name__ == "__main__":
    main()

"""Adversarial training with weights that processes have a part of each, by FSDP2; of one process where it is whole."""

import os
from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import RobustAccuracy
from tests.modules.parts import conv, trainer
from tests.modules.two_processes import batches

ATTACK = PGD(eps=0.2, step_size=0.1, steps=3, random_start=False)


class Sharded(AdversarialClassifier):
    def configure_model(self):
        mesh = self.device_mesh["data_parallel"]
        if not isinstance(next(self.network.parameters()), DTensor):
            for layer in self.network.modules():
                if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                    fully_shard(layer, mesh=mesh)
            fully_shard(self.network, mesh=mesh)


def fit(cls, rank=0, processes=1, epochs=2, **settings):
    torch.manual_seed(1)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    model = cls(conv(norm="group"), ATTACK, optimizer=sgd, engine=None)
    # in single precision, which ModelParallelStrategy takes on the CPU
    x, y = batches(16, rank, processes).dataset.tensors
    data = DataLoader(TensorDataset(x.float(), y), batch_size=16 // processes)
    callbacks = [RobustAccuracy({"pgd": ATTACK})]
    run = trainer(max_epochs=epochs, use_distributed_sampler=False, callbacks=callbacks, **settings)
    run.fit(model, data, data)
    return model, {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("val/")}


def in_pair(folder):
    rank = int(os.environ["RANK"])
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo")
    model, metrics = fit(Sharded, rank, 2, strategy=strategy, devices=2)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    shares = sum(parameter.to_local().numel() for parameter in model.network.parameters())
    torch.save([whole, metrics, shares], folder / f"{rank}.pt")


def test_two_processes_with_half_of_the_weights_each_train_as_one(pair):
    (whole, metrics, first), (_, others, second) = (torch.load(pair / f"{rank}.pt") for rank in range(2))
    model, expected = fit(AdversarialClassifier)
    torch.manual_seed(1)
    start = conv(norm="group").state_dict()
    weights = model.network.state_dict()
    assert max((weights[name] - start[name]).abs().max() for name in start) > 0.01
    for name, value in weights.items():
        torch.testing.assert_close(whole[f"network.{name}"], value, rtol=0, atol=1e-5)
    assert metrics == pytest.approx(expected, rel=1e-5) == others
    assert first + second == sum(value.numel() for value in weights.values()) and min(first, second) > 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="FSDPStrategy of Lightning takes GPUs alone, two or more")
def test_fsdp_of_lightning_trains_on_two_gpus(tmp_path):
    policy = {torch.nn.Conv2d, torch.nn.Linear}
    run = trainer(
        accelerator="gpu",
        devices=2,
        strategy=FSDPStrategy(auto_wrap_policy=policy, use_orig_params=True),
        default_root_dir=tmp_path,
    )
    model: LightningModule = AdversarialClassifier(conv(norm="group"), ATTACK, engine=None)
    run.fit(model, batches(16, 0, 1))
    assert run.callback_metrics["train/loss"].isfinite()

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from lightning_advreg.networks import MNISTConvNet, Network, Normalize


class Scaled(Network):
    def __init__(self, factor, /, size=2, *, bias=True):
        super().__init__()
        self.layer = nn.Linear(size, size, bias=bias)
        self.factor = factor


class Wider(Scaled):
    def __init__(self, extra=1, **kwargs):
        super().__init__(2.0, **kwargs)
        self.extra = extra


class Untouched(MNISTConvNet):
    pass


def test_init_args_holds_what_was_given_and_nothing_else():
    assert Scaled(3.0, bias=False).init_args == {"factor": 3.0, "bias": False}
    assert MNISTConvNet(5, 3, width=2).init_args == {"num_classes": 5, "in_channels": 3, "width": 2}


def test_subclass_without_a_constructor_records_that_of_its_parent():
    assert Untouched(7).init_args == {"num_classes": 7}


def test_arguments_caught_by_kwargs_rebuild_the_network():
    network = Wider(4, size=3, bias=False)
    assert network.init_args == {"extra": 4, "size": 3, "bias": False}
    rebuilt = Wider(**network.init_args)
    assert rebuilt.extra == 4 and rebuilt.layer.weight.shape == (3, 3) and rebuilt.layer.bias is None


def test_unknown_argument_is_an_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        MNISTConvNet(depth=3)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_keep_init_args_and_weights(duplicate):
    network = MNISTConvNet(5, width=2)
    copied = duplicate(network)
    assert copied.init_args == {"num_classes": 5, "width": 2}
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(copied(x), network(x), rtol=0, atol=0)


def test_deepcopy_does_not_share_init_args():
    network = MNISTConvNet(width=2)
    copy.deepcopy(network).init_args["width"] = 9
    assert network.init_args == {"width": 2}


def test_init_args_load_as_weights_only():
    file = io.BytesIO()
    torch.save(MNISTConvNet(in_channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)).init_args, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["mean"] == (0.1, 0.2, 0.3)


def test_normalize_works_per_channel():
    x = torch.stack([torch.full((2, 2), 0.5), torch.full((2, 2), 1.0)])[None]
    y = Normalize((0.5, 0.2), (1.0, 0.4))(x)
    torch.testing.assert_close(y[0, :, 0, 0], torch.tensor([0.0, 2.0]))


def test_normalize_adds_nothing_to_the_state_dict():
    assert Normalize((0.5,), (0.5,)).state_dict() == {}


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (3, 4, 4)])
def test_normalize_does_not_broadcast_channels_or_batch(shape):
    with pytest.raises(ValueError, match=r"must have shape \(N, 3, H, W\), got"):
        Normalize((0.5,) * 3, (0.5,) * 3)(torch.rand(shape))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((), ())])
def test_normalize_rejects_bad_statistics(mean, std):
    with pytest.raises(ValueError, match="mean and std need one value per channel, std positive"):
        Normalize(mean, std)

"""The file of generated images."""

import pickle
import re

import numpy as np
import pytest
import torch

from lightning_advreg.data.generated import GeneratedData
from lightning_advreg.data.npz import stored_array

from .generated_images import N, digits, numbers, write
from .sources import pixels


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "generated.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.filterwarnings("ignore:.*is compressed")
def test_fetched_images_are_those_of_the_file(tmp_path, save, order):
    image = np.asarray(pixels(30, 5, 4, 3), order=order)
    label = np.arange(30)[::-1].astype(np.uint8)
    # a member before and after the image, so that an offset into the wrong one shows
    save(tmp_path / "a.npz", aaa=np.zeros(3), image=image, label=label, zzz=np.ones(7))
    data = GeneratedData(tmp_path / "a.npz")
    x, y = data.fetch(torch.tensor([29, 0, 0, 7]))
    assert x.dtype == torch.uint8 and x.is_contiguous() and y.dtype == torch.int64
    assert x.equal(torch.from_numpy(image[[29, 0, 0, 7]].transpose(0, 3, 1, 2).copy()))
    assert y.tolist() == [0, 29, 29, 22] and len(data) == 30


def test_uncompressed_images_are_mapped_and_compressed_ones_announced(tmp_path, recwarn):
    mapped = GeneratedData(write(tmp_path / "a.npz"))
    assert isinstance(mapped._images.base, np.memmap) and not recwarn.list
    path = write(tmp_path / "b.npz", count=2**14, shape=(8, 8, 2), save=np.savez_compressed)
    with pytest.warns(UserWarning, match=r"b.npz is compressed, and takes 2 MiB of memory in every process; write"):
        loaded = GeneratedData(path)
    assert not isinstance(loaded._images.base, np.memmap)


def test_batches_are_copies_that_may_be_written_to(path):
    data = GeneratedData(path)
    data.fetch(torch.arange(3))[0].fill_(0)
    assert numbers(data.fetch(torch.arange(3))[0] / 255).tolist() == [0, 1, 2]


def test_pickling_sends_the_path_and_not_the_images(tmp_path):
    data = GeneratedData(write(tmp_path / "a.npz", count=2000), "1/2")
    sent = pickle.dumps(data)
    again = pickle.loads(sent)
    assert len(sent) < 1000 and again.counts(4) == (2, 2)
    assert again.fetch(torch.tensor([9]))[0].equal(data.fetch(torch.tensor([9]))[0])


def test_header_is_read_without_the_array(tmp_path):
    stored = stored_array(write(tmp_path / "a.npz", shape=(4, 6, 3)), "image")
    assert stored.shape == (N, 4, 6, 3) and stored.dtype == np.uint8 and stored.nbytes == N * 72


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "lacks the arrays label; it has image, and extra_path needs image and label"),
        ({"image": None}, "lacks the arrays image; it has label"),
        ({"image": np.zeros((N, 8, 8, 1))}, r"image in .* must be uint8 of shape \(N, H, W, C\), got float64"),
        ({"image": np.zeros((N, 8, 8), np.uint8)}, r"must be uint8 .*, got uint8 of shape \(200, 8, 8\)"),
        ({"label": np.zeros(N)}, r"label in .* must be integers of shape \(200,\), .* got float64"),
        ({"label": np.zeros(N - 1, int)}, r"integers of shape \(200,\), .* of shape \(199,\)"),
        ({"label": np.array([object()] * N)}, r"must be integers of shape \(200,\), .* got object"),
        ({"image": np.zeros((N, 1, 8, 8), np.uint8)}, r"shape \(1, 8, 8\), expected \(8, 8, 1\) \(H, W, C\)"),
        ({"label": np.full(N, 10)}, r"goes from 10 to 10, but must lie in \[0, 10\)"),
        ({"label": np.full(N, -1)}, r"goes from -1 to -1"),
    ],
)
def test_wrong_files(tmp_path, changes, message):
    data = digits(write(tmp_path / "a.npz", **changes))
    with pytest.raises(ValueError, match=message):
        data.setup("fit")


def test_a_file_that_is_absent_or_no_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"no file {re.escape(str(tmp_path / 'a.npz'))}; set extra_path"):
        digits(str(tmp_path / "a.npz")).setup("fit")
    (tmp_path / "b.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"b.npz is no .npz file"):
        digits(str(tmp_path / "b.npz")).setup("fit")

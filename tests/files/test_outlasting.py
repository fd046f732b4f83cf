import errno
import json
import os

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_advreg.callbacks import log_image
from lightning_advreg.files import write_json
from lightning_advreg.files.outlasting import outlasting

from ..test_metrics_file import no_more_than


def test_a_full_disk_is_a_warning_and_the_former_file_stays(tmp_path):
    path = tmp_path / "alarms.json"
    write_json(path, [1])
    warned = pytest.warns(UserWarning, match=r"alarms\.json could not be written \(File too large\)")
    with no_more_than(4), warned, outlasting(path):
        write_json(path, list(range(100)))
    assert json.loads(path.read_text()) == [1]


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EISDIR, errno.EMFILE])
def test_other_errors_are_raised(number):
    with pytest.raises(OSError, match=os.strerror(number)), outlasting("picture.png"):
        raise OSError(number, os.strerror(number))


def test_pictures_are_not_worth_a_run(tmp_path):
    trainer = Trainer(logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    with no_more_than(16), pytest.warns(UserWarning, match=r"val_noise_000001\.png could not be written"):
        log_image(trainer, "val/noise", torch.rand(3, 8, 8), step=1)
    assert list((tmp_path / "images").iterdir()) == []

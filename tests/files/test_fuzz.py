"""The small version of ``python -m benchmarks.fuzz``."""

import contextlib

import pytest
import torch

from benchmarks.fuzz import what_becomes
from benchmarks.mutations import mutated_checkpoint, mutated_config
from lightning_advreg.files import RefusedFile, read_checkpoint, read_tensors
from lightning_advreg.files.configs import check_config

from .parts import trained

CONFIG = {
    "model": {
        "class_path": "RegularizedClassifier",
        "init_args": {"network": {"class_path": "MNISTConvNet", "init_args": {"width": 4}}, "penalties": []},
    },
    "trainer": {"max_epochs": 1},
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "last.ckpt"
    trained(path)
    return path.read_bytes()


def test_mutated_checkpoints_run_nothing_and_are_refused_with_a_reason(content, tmp_path):
    path, canary = tmp_path / "last.ckpt", tmp_path / "canary"
    outcomes, kinds = [], set()
    for seed in range(150):
        changed, kind = mutated_checkpoint(content, seed, canary)
        path.write_bytes(changed)
        outcomes.append(what_becomes(lambda: read_checkpoint(path), seed))
        kinds.add(kind)
        assert not canary.exists(), (seed, kind)
    assert set(outcomes) <= {"read", "refused"} and len(kinds) == 7
    # a mutation may land where it means nothing, such as in the version of a record
    assert outcomes.count("refused") > 120


def test_the_hostile_ones_are_hostile(content, tmp_path):
    """Without this library's care they run, or the test above would show nothing."""
    ran = 0
    for seed in range(60):
        changed, kind = mutated_checkpoint(content, seed, tmp_path / "canary")
        if kind == "pickle that calls":
            (tmp_path / "last.ckpt").write_bytes(changed)
            with contextlib.suppress(Exception):
                torch.load(tmp_path / "last.ckpt", weights_only=False)
            ran += (tmp_path / "canary").exists()
            (tmp_path / "canary").unlink(missing_ok=True)
            with pytest.raises(RefusedFile):
                read_tensors(tmp_path / "last.ckpt")
    assert ran


def test_mutated_configurations_are_looked_at_without_an_end_in_none(tmp_path):
    path, kinds = tmp_path / "config.yaml", set()
    for seed in range(150):
        text, kind = mutated_config(CONFIG, seed, "stranger")
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        assert what_becomes(lambda: check_config(path), seed) in ("read", "refused"), (seed, kind)
        kinds.add(kind)
    assert len(kinds) == 8

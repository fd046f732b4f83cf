"""The animation of a generator's samples."""

import itertools

import pytest
import torch
from PIL import Image

from lightning_advreg.callbacks import GeneratedSamples, animation
from lightning_advreg.callbacks.animation import evenly, write_gif
from lightning_advreg.reporting import save_image

from .foreign import At, loader, trainer
from .test_generator_pictures import SIDE, Painter


def frames(path):
    with Image.open(path) as animated:
        found = []
        for index in range(animated.n_frames):
            animated.seek(index)
            found.append((animated.convert("L").getpixel((40, 40)), animated.info["duration"]))
        return found, animated.info["loop"]


class Ageing(Painter):
    def sample(self, z, y=None):
        return torch.full((len(z), 1, SIDE, SIDE), (self.current_epoch + 1) / 10)


def test_the_pictures_of_all_epochs_become_an_animation_also_after_a_resume(tmp_path):
    def callback():
        return GeneratedSamples(num_images=1, every_n_epochs=2, frame_seconds=0.1)

    first = trainer(tmp_path, callback(), max_epochs=2)
    first.fit(Ageing(), loader(4))
    assert not (tmp_path / "images" / "samples.gif").exists()
    first.save_checkpoint(tmp_path / "last.ckpt")
    # of an earlier, longer run in this folder
    save_image(torch.ones(1, SIDE + 4, SIDE + 4), tmp_path / "images" / "samples_000099.png")
    trainer(tmp_path, callback(), max_epochs=6).fit(Ageing(), loader(4), ckpt_path=tmp_path / "last.ckpt")
    found, loop = frames(tmp_path / "images" / "samples.gif")
    assert found == [(51, 100), (102, 100), (153, 500)] and loop == 0


def test_an_interrupted_run_keeps_its_pictures(tmp_path):
    class Stop(Exception):
        pass

    def stop(running, module):
        if running.current_epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        trainer(tmp_path, GeneratedSamples(num_images=1), At("on_train_epoch_start", stop), max_epochs=4).fit(
            Ageing(), loader(4)
        )
    assert sorted(path.name for path in tmp_path.rglob("samples*")) == ["samples_000001.png", "samples_000002.png"]


def test_no_animation_if_none_is_asked_for(tmp_path):
    trainer(tmp_path, GeneratedSamples(num_images=1, frame_seconds=None), max_epochs=2).fit(Ageing(), loader(4))
    assert not list(tmp_path.rglob("*.gif"))


def test_colours_of_frames_stay(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    colours = torch.tensor([[1.0, 0.2, 0.0], [0.0, 0.4, 0.8]])
    for path, colour in zip(paths, colours, strict=True):
        save_image(colour.view(3, 1, 1).expand(3, 8, 8), path)
    write_gif(paths, tmp_path / "c.gif", frame_seconds=0.2)
    with Image.open(tmp_path / "c.gif") as animated:
        for index, colour in enumerate(colours):
            animated.seek(index)
            assert animated.convert("RGB").getpixel((3, 3)) == pytest.approx((colour * 255).tolist(), abs=2)


def test_long_runs_are_thinned_evenly_with_both_ends(tmp_path):
    paths = [tmp_path / str(i) for i in range(1000)]
    chosen = [int(path.name) for path in evenly(paths, 100)]
    assert len(set(chosen)) == 100 and (chosen[0], chosen[-1]) == (0, 999)
    assert max(b - a for a, b in itertools.pairwise(chosen)) == 11


def test_wandb_gets_the_animation(tmp_path):
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    class Listening(WandbLogger):
        """Starts no run."""

        def __init__(self):
            self.rows = []

        @property
        def experiment(self):
            return self

        @property
        def save_dir(self):
            return str(tmp_path)

        name, version = "", ""

        def log(self, row):
            self.rows.append(row)

    logger = Listening()
    for step in (1, 2):
        save_image(torch.full((1, 8, 8), step / 4), tmp_path / "images" / f"samples_{step:06d}.png")
    path = animation.log_animation(trainer(tmp_path, logger=logger), "samples", steps=(1, 2, 3), frame_seconds=0.1)
    assert path == tmp_path / "images" / "samples.gif" and path.is_file()
    (name, video), place = logger.rows[0].items()
    # the axis of metrics, of which this Trainer has trained none
    assert place == ("trainer/global_step", 0)
    assert name == "samples_over_time" and isinstance(video, wandb.Video) and video._format == "gif"

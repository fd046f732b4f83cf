import lightning.pytorch as pl
import pytest
import torch

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.callbacks import AdversarialExamples, GeneratedSamples, pictures

from .foreign import At, Foreign, images, loader, trainer


@pytest.fixture
def shown(monkeypatch):
    """Arguments of every call that would draw or log."""
    calls = {"figure": [], "log": []}
    monkeypatch.setattr(pictures, "adversarial_examples_figure", lambda *args: calls["figure"].append(args))
    monkeypatch.setattr(
        pictures, "log_image", lambda _, name, image, *, step, batch=None: calls["log"].append((name, image, step))
    )
    return calls


@pytest.mark.parametrize(("run", "name"), [("validate", "val"), ("test", "test")])
def test_shows_the_first_images_and_what_the_network_says(tmp_path, shown, run, name):
    module, (x, y) = Foreign(seed=1), images(10)
    attack = FGSM(eps=0.1)
    callback = AdversarialExamples(attack, num_images=3, class_names=["left", "right"])
    getattr(trainer(tmp_path, callback), run)(module, loader(10), verbose=False)
    module.eval()
    x_adv = attack(module, x[:3], y[:3])
    ((*tensors, class_names),) = shown["figure"]
    expected = [x[:3], x_adv, y[:3], module(x[:3]).argmax(1), module(x_adv).argmax(1)]
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True))
    assert class_names == ["left", "right"]
    assert [entry[0] for entry in shown["log"]] == [f"{name}/adversarial_examples"]


def test_the_picture_is_written_in_the_epochs_that_are_due(tmp_path):
    callback = AdversarialExamples(PGD(steps=1), num_images=2, every_n_epochs=2)
    trainer(tmp_path, callback, max_epochs=4).fit(Foreign(), loader(12), loader(4))
    names = sorted(path.name for path in tmp_path.rglob("*.png"))
    # 3 batches an epoch, and nothing from the sanity check
    assert names == ["val_adversarial_examples_000006.png", "val_adversarial_examples_000012.png"]


def test_training_is_bitwise_the_same_with_and_without_pictures(tmp_path, shown):
    def train(*callbacks):
        torch.manual_seed(0)
        module = Foreign()
        trainer(tmp_path, *callbacks, max_epochs=2).fit(module, loader(16, shuffle=True), loader(8, seed=1))
        return module.state_dict()

    without, with_it = train(), train(AdversarialExamples(PGD(steps=2)))
    assert len(shown["figure"]) == 2
    assert all(torch.equal(without[name], with_it[name]) for name in without)


class Generator(Foreign):
    def __init__(self, rows=9):
        super().__init__()
        self.register_buffer("fixed_latent", torch.linspace(0, 1, rows).view(-1, 1))

    def sample(self, z):
        torch.rand(5)
        return z.view(-1, 1, 1, 1).expand(-1, 1, 32, 32)


def test_samples_come_from_the_fixed_latent_in_order(tmp_path, shown):
    callback = GeneratedSamples(num_images=5, every_n_epochs=2)
    states = []
    note = At("on_train_epoch_end", lambda trainer, module: states.append(torch.get_rng_state()))
    trainer(tmp_path, note, callback, note, max_epochs=4).fit(Generator(), loader(4))
    assert [(name, step) for name, _, step in shown["log"]] == [("samples", 2), ("samples", 4)]
    grid = shown["log"][0][1]
    assert grid.shape == (1, 2 * 66 + 2, 3 * 66 + 2)  # 5 images enlarged to 64 pixels, in rows of 3
    centres = [grid[0, 34 + 66 * row, 34 + 66 * column].item() for row in (0, 1) for column in (0, 1, 2)]
    assert centres == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 1])  # the last is white ground
    assert all(torch.equal(a, b) for a, b in zip(states[::2], states[1::2], strict=True))


def test_samples_are_written(tmp_path):
    trainer(tmp_path, GeneratedSamples(num_images=4)).fit(Generator(), loader(4))
    assert (tmp_path / "images" / "samples_000001.png").is_file()


def test_a_module_that_cannot_generate_is_refused_at_setup(tmp_path):
    with pytest.raises(TypeError, match=r"`fixed_latent` and a method `sample\(z\)`, which Foreign lacks"):
        trainer(tmp_path, GeneratedSamples()).fit(Foreign(), loader(4))
    with pytest.raises(ValueError, match=r"num_images must be at most 9, the rows .* got 10"):
        trainer(tmp_path, GeneratedSamples(num_images=10)).fit(Generator(), loader(4))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: AdversarialExamples(FGSM(), num_images=0), ValueError, "num_images must be an integer of at least 1"),
        (lambda: AdversarialExamples(FGSM(), every_n_epochs=0), ValueError, "every_n_epochs must be an integer"),
        (lambda: AdversarialExamples("pgd"), TypeError, r"called as attack\(model, x, y\), got 'pgd'"),
        (lambda: GeneratedSamples(num_images=-1), ValueError, "num_images must be an integer of at least 1, got -1"),
        (lambda: GeneratedSamples(every_n_epochs=1.5), ValueError, "every_n_epochs must be an integer .* got 1.5"),
    ],
)
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_module_without_forward_is_refused(tmp_path):
    class NoForward(Foreign):
        forward = pl.LightningModule.forward

    with pytest.raises(TypeError, match="AdversarialExamples calls NoForward to get logits"):
        trainer(tmp_path, AdversarialExamples(FGSM())).validate(NoForward(), loader(4), verbose=False)

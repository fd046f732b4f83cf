from functools import partial

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from lightning_advreg import GAN, AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.constraints import MaxNorm
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.objectives import WGAN
from lightning_advreg.penalties import L2

from .parts import BUILDERS, ForeignNet, adversarial, conv, digits, gan, generator, regularized, trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trained module of each kind, and its checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = {}
    for kind, build in BUILDERS.items():
        torch.manual_seed(0)
        model = build()
        fitting = trainer(limit_val_batches=1)
        fitting.fit(model, datamodule=digits())
        fitting.save_checkpoint(folder / f"{kind}.ckpt")
        made[kind] = (model, folder / f"{kind}.ckpt")
    return made


def save(model, path, **settings):
    fitting = trainer(limit_train_batches=2, limit_val_batches=0, **settings)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint(path)
    return path


def assert_equal_weights(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("kind", BUILDERS)
def test_it_holds_plain_values_and_tensors_alone(saved, kind):
    model, path = saved[kind]
    stored = torch.load(path, weights_only=True)
    assert stored["lightning_advreg"]["class"].endswith(type(model).__name__)
    assert stored["hyper_parameters"]["_class_path"] == f"lightning_advreg.modules.{type(model).__name__}"


@pytest.mark.parametrize("kind", BUILDERS)
def test_it_loads_without_any_argument(saved, kind, recwarn):
    model, path = saved[kind]
    torch.manual_seed(77)
    loaded = type(model).load_from_checkpoint(path)
    assert_equal_weights(model, loaded)
    assert not [w for w in recwarn if "default is used" in str(w.message)]


def test_everything_that_was_chosen_comes_back(saved):
    model, path = saved["adversarial"]
    loaded = AdversarialClassifier.load_from_checkpoint(path)
    assert loaded.attack == model.attack
    assert loaded.objective == model.objective
    assert loaded.constraints == model.constraints
    assert loaded.penalties == model.penalties
    assert loaded.eps_warmup_epochs == 2
    optimizer = loaded.optimizer(loaded.network.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.9)
    assert type(loaded.lr_scheduler(optimizer)).__name__ == "LinearOneCycle"


def test_the_gan_comes_back_with_its_counters_and_its_average(saved):
    model, path = saved["gan"]
    loaded = GAN.load_from_checkpoint(path)
    assert (loaded.batches_seen, loaded.images_seen, loaded.generator_steps) == (6, 96, 3)
    assert loaded.noise_level == model.noise_level > 0
    assert torch.equal(loaded.sample(loaded.fixed_latent), model.sample(model.fixed_latent))
    lrs = [loaded.optimizers_of[key](loaded.parameters()).defaults["lr"] for key in "dg"]
    assert lrs == [4e-3, 1e-3]


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_loaded_module_can_be_saved_and_loaded_again(saved, kind, tmp_path):
    model, path = saved[kind]
    loaded = type(model).load_from_checkpoint(path)
    again = save(loaded, tmp_path / "again.ckpt")
    torch.load(again, weights_only=True)
    last = type(model).load_from_checkpoint(again)
    assert_equal_weights(loaded, last)
    if kind != "gan":
        assert isinstance(last.optimizer(last.parameters()), type(model.optimizer(model.parameters())))
        assert last.constraints == model.constraints


@pytest.mark.parametrize("kind", BUILDERS)
def test_arguments_given_when_loading_win(saved, kind):
    model, path = saved[kind]
    if kind == "gan":
        assert GAN.load_from_checkpoint(path, n_critic=5, loss=WGAN()).loss == WGAN()
    else:
        loaded = type(model).load_from_checkpoint(path, constraints=[MaxNorm(9.0)], penalties=[])
        assert (loaded.constraints, loaded.penalties) == ((MaxNorm(9.0),), {})
        assert loaded.lr_scheduler is not None


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_checkpoint_of_another_class_is_refused(saved, kind):
    for other, (_, path) in saved.items():
        if other == kind:
            continue
        cls, saved_by = type(saved[kind][0]), type(saved[other][0]).__name__
        message = f"saved by lightning_advreg.modules.{saved_by}, not by .*{cls.__name__}; load it with {saved_by}"
        with pytest.raises(ValueError, match=message):
            cls.load_from_checkpoint(path)
        with pytest.raises(ValueError, match=message):
            trainer().fit(BUILDERS[kind](), datamodule=digits(), ckpt_path=path, weights_only=True)
        with pytest.raises(ValueError, match=message):
            trainer().test(BUILDERS[kind](), datamodule=digits(), ckpt_path=path, weights_only=True)


class Mine(RegularizedClassifier):
    """A subclass of the user's own."""


def test_a_subclass_loads_what_its_base_saved_but_not_the_other_way_round(saved, tmp_path):
    model, path = saved["regularized"]
    assert_equal_weights(Mine.load_from_checkpoint(path), model)
    path = save(Mine(conv()), tmp_path / "mine.ckpt")
    assert type(Mine.load_from_checkpoint(path)) is Mine
    with pytest.raises(ValueError, match=r"saved by .*Mine, not by"):
        RegularizedClassifier.load_from_checkpoint(path)


class Plain(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


def test_a_checkpoint_of_another_library_is_refused_too(tmp_path):
    fitting = trainer()
    fitting.strategy.connect(Plain())
    fitting.save_checkpoint(tmp_path / "plain.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"does not say how to build generator and discriminator.*generator=\.\.\."):
        GAN.load_from_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(RuntimeError, match="these weights do not fit GAN: it lacks"):
        trainer().test(gan(), datamodule=digits(), ckpt_path=tmp_path / "plain.ckpt", weights_only=True)


def test_a_network_of_the_users_own_is_asked_for(tmp_path):
    model = AdversarialClassifier(ForeignNet(), attack=FGSM(eps=0.1))
    path = save(model, tmp_path / "foreign.ckpt")
    torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match=r"does not say how to build network.*load_from_checkpoint\(path, network="):
        AdversarialClassifier.load_from_checkpoint(path)
    loaded = AdversarialClassifier.load_from_checkpoint(path, network=ForeignNet())
    assert_equal_weights(model, loaded)
    assert loaded.attack == FGSM(eps=0.1)


def test_both_networks_of_a_gan_are_asked_for(tmp_path):
    class Sketch(torch.nn.Module):
        latent_dim = 4

        def __init__(self):
            super().__init__()
            self.inner = generator()

        def forward(self, z):
            return self.inner(z)

    path = save(gan(generator=Sketch()), tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"does not say how to build generator, .*\(path, generator=\.\.\.\)"):
        GAN.load_from_checkpoint(path)
    assert isinstance(GAN.load_from_checkpoint(path, generator=Sketch()).generator_ema, Sketch)


def test_a_lambda_is_left_out_and_the_default_in_its_place_is_announced(tmp_path):
    model = regularized(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5), lr_scheduler=None)
    path = save(model, tmp_path / "lambda.ckpt")
    with pytest.warns(UserWarning, match=r"does not say which optimizer it was made with.*optimizer=\.\.\."):
        loaded = RegularizedClassifier.load_from_checkpoint(path)
    assert_equal_weights(model, loaded)
    given = RegularizedClassifier.load_from_checkpoint(path, optimizer=partial(torch.optim.SGD, lr=0.25))
    assert given.optimizer(given.parameters()).defaults["lr"] == 0.25
    given = RegularizedClassifier.load_from_checkpoint(path, optimizer=lambda p: torch.optim.SGD(p, lr=0.25))
    assert given.optimizer(given.parameters()).defaults["lr"] == 0.25


def test_a_warning_names_a_hard_limit_that_would_be_lost(tmp_path):
    class Mine(MaxNorm):
        pass

    path = save(regularized(constraints=[Mine(1.0)]), tmp_path / "limit.ckpt")
    with pytest.warns(UserWarning, match="does not say which constraints it was made with"):
        assert RegularizedClassifier.load_from_checkpoint(path).constraints == ()


def test_numbers_of_numpy_do_not_spoil_a_checkpoint(tmp_path):
    import numpy as np

    network = MNISTConvNet(image_size=8, width=4, hidden=8, dropout=np.float64(0.25))
    model = regularized(network=network, label_smoothing=np.float64(0.1), penalties=[L2(np.float64(0.1))])
    path = save(model, tmp_path / "numpy.ckpt")
    assert_equal_weights(RegularizedClassifier.load_from_checkpoint(path), model)


def test_it_loads_from_an_open_file_and_onto_a_device(saved):
    model, path = saved["regularized"]
    with open(path, "rb") as file:
        assert_equal_weights(RegularizedClassifier.load_from_checkpoint(file, map_location="cpu"), model)


def test_loading_leaves_the_random_state_alone_apart_from_new_weights(saved):
    _, path = saved["gan"]
    stored = torch.load(path, weights_only=True)["lightning_advreg"]["random_state"]
    torch.manual_seed(3)
    GAN.load_from_checkpoint(path)
    assert not torch.equal(torch.get_rng_state(), stored)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_trainer_evaluates_a_checkpoint(saved, kind):
    model, path = saved[kind]
    other = BUILDERS[kind]()
    fitting = trainer(limit_val_batches=1)
    (metrics,) = fitting.validate(other, datamodule=digits(), ckpt_path=path, weights_only=True, verbose=False)
    assert_equal_weights(other, model)
    assert metrics


def test_predictions(saved):
    x, y = next(iter(digits().val_dataloader()))
    loader = DataLoader(list(zip(x, y, strict=True)), batch_size=8)
    classifier, critic = saved["regularized"][0], saved["gan"][0]
    logits = torch.cat(trainer().predict(classifier, loader))
    with torch.no_grad():
        assert torch.equal(logits, classifier.eval()(x))
    assert torch.cat(trainer().predict(critic, loader)).shape == x.shape


def test_modules_take_attacks_from_python_and_keep_them_whole():
    attack = PGD(eps=0.1, steps=1)
    assert adversarial(attack=attack).attack is attack

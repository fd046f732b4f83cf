"""Labels in the GAN: who gets which, and what happens where the networks do not go together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import GAN
from lightning_advreg.objectives import RpGAN

from .gan_parts import CLASSES, ConditionalGenerator, SplitDiscriminator, conditional_gan, labelled
from .parts import FROZEN, SHAPE, AtBatches, alone, discriminator, generator, plain_gan, trainer


def fit(model, data=None, **settings):
    fitting = trainer(limit_val_batches=0, **settings)
    fitting.fit(model, labelled() if data is None else data)
    return fitting


def test_the_discriminators_step_pairs_images_of_one_class_and_the_generators_draws_classes():
    model, seen = conditional_gan(), []

    def see(t, m, batch):
        seen.append((batch[1], m.generator.seen[-2:], m.discriminator.labels[-3:]))

    fit(model, callbacks=[AtBatches(see)])
    for y, (in_d, in_g), (real, fake, drawn) in seen:
        assert torch.equal(in_d, y)
        assert torch.equal(real, y)
        assert torch.equal(fake, y)
        assert torch.equal(drawn, in_g)
    drawn = torch.cat([in_g for _, (_, in_g), _ in seen])
    assert not torch.equal(drawn, torch.cat([y for y, *_ in seen]))
    assert set(drawn.tolist()) == set(range(CLASSES))


def test_a_loss_that_compares_pairs_compares_images_of_one_class():
    model, seen = conditional_gan(loss=RpGAN()), []
    fit(model, callbacks=[AtBatches(lambda t, m, b: seen.append((b[1], m.discriminator.labels[-4:])))])
    for y, four in seen:
        assert all(torch.equal(labels, y) for labels in four)


def test_samples_have_the_class_that_is_asked_for():
    model = conditional_gan()
    z, y = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    expected = model.generator_ema.layer(z + model.generator_ema.embedding(y)).sigmoid().view(-1, *SHAPE)
    torch.testing.assert_close(model.sample(z, y), expected)
    assert torch.equal(model(z, y), model.sample(z, y))
    drawn = model.generator_ema.seen
    drawn.clear()
    model.sample(torch.randn(300, 4))
    assert drawn[0].bincount(minlength=CLASSES).min() > 60


def test_the_fixed_labels_cycle_and_are_saved():
    model = conditional_gan()
    assert model.fixed_labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert "fixed_labels" in model.state_dict()
    assert plain_gan().fixed_labels is None
    assert "fixed_labels" not in plain_gan().state_dict()


def test_predictions_have_the_labels_of_the_batch():
    model, data = conditional_gan(), labelled(8)
    (images,) = trainer().predict(model, data)
    assert images.shape == (8, *SHAPE)
    assert torch.equal(model.generator_ema.seen[-1], next(iter(data))[1])


def test_held_out_images_are_judged_with_their_labels():
    model, data = conditional_gan(), labelled(16)
    (found,) = trainer().validate(model, data, verbose=False)
    x, y = data.dataset.tensors
    assert found["val/d_real"] == pytest.approx(model.discriminator(x, y).mean().item(), rel=1e-5)


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("on_generated", [False, True])
def test_the_auxiliary_classifier_is_trained_on_real_and_teaches_the_generator(projected, on_generated):
    net = SplitDiscriminator(num_classes=CLASSES if projected else None, auxiliary=CLASSES)
    settings = {"auxiliary_weight": "1/2", "auxiliary_on_generated": on_generated}
    model = conditional_gan(discriminator=net, **settings)
    plain = conditional_gan(discriminator=net, generator=model.generator, auxiliary_weight=0)
    x, y = torch.rand(5, *SHAPE), torch.tensor([0, 1, 2, 0, 1])
    values = []
    for gan in (model, plain):
        for loss in ("discriminator_loss", "generator_loss"):
            torch.manual_seed(3)
            values.append(alone(gan, loss, x, y))
    torch.manual_seed(3)
    fake = model.generator(torch.randn(5, 4), y)
    expected = F.cross_entropy(net.classifier(net.features(x)), y)
    if on_generated:
        expected = expected + F.cross_entropy(net.classifier(net.features(fake)), y)
    torch.testing.assert_close(values[0] - values[2], expected / 2)
    torch.manual_seed(3)
    drawn = torch.randint(CLASSES, (5,))
    fake = model.generator(torch.randn(5, 4), drawn)
    torch.testing.assert_close(values[1] - values[3], F.cross_entropy(net.classifier(net.features(fake)), drawn) / 2)
    assert all(labels is None for labels in net.labels) != projected


def test_an_auxiliary_classifier_trains():
    model = conditional_gan(discriminator=SplitDiscriminator(auxiliary=CLASSES))
    before = model.discriminator.classifier.weight.detach().clone()
    metrics = fit(model).callback_metrics
    assert not torch.equal(before, model.discriminator.classifier.weight)
    assert {"train/d_auxiliary", "train/g_auxiliary"} <= metrics.keys()
    assert "train/d_generated_auxiliary" not in metrics


DISAGREE = {
    "classes": (ConditionalGenerator(3), SplitDiscriminator(num_classes=4), r"num_classes=3, .* num_classes=4; build"),
    "only d": (generator(), SplitDiscriminator(num_classes=4), r"num_classes=None, .* num_classes=4; build both"),
    "only g": (ConditionalGenerator(3), discriminator(), r"num_classes=3, the discriminator num_classes=None"),
    "auxiliary": (generator(), SplitDiscriminator(auxiliary=3), r"auxiliary classifier, and the generator takes no"),
}


@pytest.mark.parametrize("case", DISAGREE)
def test_networks_that_do_not_go_together_are_refused(case):
    g, d, message = DISAGREE[case]
    with pytest.raises(ValueError, match=message):
        GAN(g, d)


def test_a_classifier_with_one_output_is_a_discriminator_without_labels():
    net = discriminator()
    net.num_classes = 1
    assert GAN(generator(), net).num_classes is None


def test_settings_without_their_network_are_refused():
    with pytest.raises(ValueError, match=r"auxiliary_weight=1 needs a discriminator with an auxiliary classifier"):
        conditional_gan(auxiliary_weight=1)
    with pytest.raises(ValueError, match=r"auxiliary_on_generated needs a discriminator with an auxiliary classifier"):
        conditional_gan(auxiliary_on_generated=True)
    without = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    without.classify = SplitDiscriminator(auxiliary=CLASSES).classifier
    with pytest.raises(ValueError, match=r"an auxiliary classifier needs the features .* split its forward"):
        conditional_gan(discriminator=without)
    with pytest.raises(ValueError, match=r"generator takes no labels; call sample\(z\)"):
        plain_gan().sample(torch.randn(2, 4), torch.zeros(2, dtype=torch.int64))


X = torch.rand(8, *SHAPE)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            TensorDataset(X, torch.arange(8)),
            ValueError,
            r"labels must be in \[0, 3\), for 3 classes, got labels from 0 to 3",
        ),
        (TensorDataset(X), ValueError, r"needs batches of images and labels \(x, y\)"),
        (TensorDataset(X, torch.rand(8)), TypeError, "labels must be integer class indices"),
    ],
)
def test_labels_that_do_not_fit_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        fit(conditional_gan(), DataLoader(data, batch_size=4))


def test_a_classifier_of_other_classes_is_refused():
    model = conditional_gan(discriminator=SplitDiscriminator(auxiliary=5))
    with pytest.raises(ValueError, match=r"classifier gives outputs of shape \(2, 5\), and the generator has num_cl"):
        fit(model)


def test_checkpoints_without_labels_still_load_and_those_with_them_come_back(tmp_path):
    model = conditional_gan(generator_optimizer=FROZEN)
    fitting = fit(model)
    fitting.save_checkpoint(tmp_path / "new.ckpt")
    again = GAN.load_from_checkpoint(
        tmp_path / "new.ckpt", generator=ConditionalGenerator(), discriminator=SplitDiscriminator(CLASSES)
    )
    assert torch.equal(again.fixed_labels, model.fixed_labels)
    assert again.discriminator_steps == again.generator_steps == 4
    plain = plain_gan()
    fitting = fit(plain)
    fitting.save_checkpoint(tmp_path / "plain.ckpt")
    stored = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    # as before there were labels, critic penalties and a count of discriminator steps
    del stored["gan_counters"]["discriminator_steps"]
    assert not [key for key in stored["state_dict"] if "label" in key or "critic" in key]
    torch.save(stored, tmp_path / "old.ckpt")
    old = GAN.load_from_checkpoint(tmp_path / "old.ckpt")
    assert old.discriminator_steps == old.batches_seen == 4

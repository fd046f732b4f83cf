import pytest
import torch

from lightning_advreg.attacks import FGSM, PGD

RANDOM = {
    "pgd": PGD,
    "pgd-l2": lambda **a: PGD(norm="l2", eps=0.5, **a),
    "pgd-l1": lambda **a: PGD(norm="l1", eps=3, **a),
    "restarts": lambda **a: PGD(restarts=2, **a),
    "fgsm": lambda **a: FGSM(random_start=True, **a),
}
every_random_attack = pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM)


@every_random_attack
def test_a_seeded_attack_repeats_itself_and_leaves_the_generator_alone(net, batch, make):
    before = torch.get_rng_state()
    first = make(seed=1)(net, *batch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(make(seed=1)(net, *batch), first)
    assert not torch.equal(make(seed=2)(net, *batch), first)


def test_the_generator_is_given_back_after_an_error(batch):
    def broken(x):
        raise RuntimeError("boom")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="boom"):
        PGD(seed=1)(broken, *batch)
    assert torch.equal(torch.get_rng_state(), before)


@every_random_attack
def test_an_unseeded_attack_draws_from_the_default_generator(net, batch, make):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make()(net, *batch)
    assert not torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(make()(net, *batch), first)
    torch.manual_seed(5)
    assert torch.equal(make()(net, *batch), first)


def test_without_a_random_start_nothing_is_drawn(net, batch):
    before = torch.get_rng_state()
    FGSM()(net, *batch)
    PGD(random_start=False)(net, *batch)
    assert torch.equal(torch.get_rng_state(), before)


def evaluate(model, x, y):
    logits = model(x)
    return torch.nn.functional.cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y


@pytest.mark.parametrize("targeted", [False, True])
def test_the_best_of_the_restarts_is_kept(wavy, targeted):
    x = torch.rand(200, 1, 3, 4)
    y = (wavy(x).argmax(1) + targeted) % 5
    arguments = {"eps": 0.02, "step_size": 0.005, "steps": 2, "seed": 4, "targeted": targeted}

    def score(attack):
        loss, wrong = evaluate(wavy, attack(wavy, x, y), y)
        return (-loss, ~wrong) if targeted else (loss, wrong)

    # the stream of random starts is the same, so the first attempt of each is the same
    loss_1, hit_1 = score(PGD(**arguments))
    loss_2, hit_2 = score(PGD(**arguments, restarts=2))
    loss_8, hit_8 = score(PGD(**arguments, restarts=8))
    for (loss, hit), (more_loss, more_hit) in (((loss_1, hit_1), (loss_2, hit_2)), ((loss_2, hit_2), (loss_8, hit_8))):
        assert (more_hit >= hit).all()
        same = more_hit == hit
        assert (more_loss[same] >= loss[same] - 1e-6).all()
    assert hit_8.sum() > hit_1.sum()
    assert loss_8.mean() > loss_1.mean()

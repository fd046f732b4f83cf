"""The pairs of docs/migration/torchattacks.md: both blocks run as they stand there, and what they give is compared."""

import re
from pathlib import Path

import pytest
import torch

from .conftest import cifar_sized_digits, train

pytest.importorskip("torchattacks")

PAGE = Path(__file__).parents[2] / "docs" / "migration" / "torchattacks.md"
SECTION = re.compile(
    r"^### (?P<title>.+?)\n\nBefore.*?```python\n(?P<before>.*?)```\n\nAfter.*?```python\n(?P<after>.*?)```",
    re.MULTILINE | re.DOTALL,
)
PAIRS = {found["title"]: (found["before"], found["after"]) for found in SECTION.finditer(PAGE.read_text("utf-8"))}
EPS = 8 / 255

EQUAL = ["FGSM", "BIM, which is PGD from the image itself", "PGD in L2", "A class to reach"]
EQUAL += ["A network that takes normalised images"]
# title: how far apart the accuracies may be, in images of 100
ALIKE = {
    "FGSM with a random start": 6,
    "PGD": 4,
    "The attack of TRADES": 6,
    "APGD": 4,
    "APGD-T": 4,
    "FAB": 10,
    "Square": 10,
}
MINIMAL = ["CW", "DeepFool"]
OTHERS = ["AutoAttack", "The accuracy of a whole loader"]


@pytest.fixture(scope="module")
def attacked(cifar_sized_net):
    """A network that withstands 8/255 in part, and images that it knows."""
    x, y = cifar_sized_digits()
    net = torch.nn.Sequential(*(type(layer)(*_arguments(layer)) for layer in cifar_sized_net))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        train(net, x[:1200], y[:1200], eps=1 / 255, epochs=4)
    with torch.no_grad():
        rows = 1200 + (net(x[1200:]).argmax(1) == y[1200:]).nonzero().squeeze(1)[:100]
    assert len(rows) == 100
    return {"model": net, "network": net, "images": x[rows], "labels": y[rows], "torch": torch}


def _arguments(layer):
    if isinstance(layer, torch.nn.Conv2d):
        return (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, 1, 1, False)
    if isinstance(layer, torch.nn.BatchNorm2d):
        return (layer.num_features,)
    return (layer.in_features, layer.out_features) if isinstance(layer, torch.nn.Linear) else ()


def both(title, given, count=100):
    """Run both blocks, each in a namespace and with random numbers of its own."""
    results = []
    for block in PAIRS[title]:
        names = {**given, "images": given["images"][:count].clone(), "labels": given["labels"][:count].clone()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            exec(compile(block, f"{PAGE.name}: {title}", "exec"), names)
        results.append(names)
    return results


def right(given, x_adv, count=100):
    with torch.no_grad():
        return int((given["model"](x_adv).argmax(1) == given["labels"][:count]).sum())


def test_every_pair_is_compared():
    assert set(PAIRS) == {*EQUAL, *ALIKE, *MINIMAL, *OTHERS}
    text = PAGE.read_text("utf-8")
    assert len(PAIRS) == text.count("\n### ") == text.count("\nBefore") == text.count("\nAfter")


@pytest.mark.parametrize("title", EQUAL)
def test_without_random_numbers_pixels_are_the_same(title, attacked):
    before, after = (names["adv_images"] for names in both(title, attacked))
    same = (before - after).abs().amax((1, 2, 3)) < 1e-5
    # rounding decides the sign of a gradient near zero, which few images meet
    assert same.float().mean() >= 0.9, title
    assert not torch.equal(after, attacked["images"])


@pytest.mark.parametrize("title", ALIKE)
def test_with_random_numbers_ball_and_accuracy_are_the_same(title, attacked):
    before, after = (names["adv_images"] for names in both(title, attacked))
    for x_adv in (before, after):
        # both APGDs and FAB give what they reached; in eps all are equal up to rounding
        assert (x_adv - attacked["images"]).abs().max() <= EPS + 1e-4
        assert x_adv.min() >= 0 and x_adv.max() <= 1
    left_before, left_after = right(attacked, before), right(attacked, after)
    assert abs(left_before - left_after) <= ALIKE[title], (left_before, left_after)
    assert left_after < 95


@pytest.mark.parametrize("title", MINIMAL)
def test_minimal_attacks_succeed_as_often_with_perturbations_as_small(title, attacked):
    before, after = (names["adv_images"] for names in both(title, attacked, 50))
    left_before, left_after = right(attacked, before, 50), right(attacked, after, 50)
    assert abs(left_before - left_after) <= 3 if title == "CW" else left_after < left_before < 25
    with torch.no_grad():
        fell = torch.stack([attacked["model"](x).argmax(1) != attacked["labels"][:50] for x in (before, after)]).all(0)
    assert fell.sum() > 10
    lengths = [(x - attacked["images"][:50]).flatten(1).norm(dim=1)[fell].mean().item() for x in (before, after)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.15)


def test_autoattack_leaves_no_more(attacked):
    before, after = (names["adv_images"] for names in both("AutoAttack", attacked, 12))
    for x_adv in (before, after):
        assert (x_adv - attacked["images"][:12]).abs().max() <= EPS + 1e-4
    assert right(attacked, after, 12) <= right(attacked, before, 12)
    assert right(attacked, before, 12) < 12


def test_the_accuracy_of_a_loader(attacked):
    before, after = both("The accuracy of a whole loader", attacked)
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.02)
    assert 0 < after["accuracy"] < 0.95


# what the page says of torchattacks


def test_torchattacks_clips_images_that_we_refuse(attacked):
    import torchattacks

    from lightning_advreg.attacks import FGSM

    outside, labels = attacked["images"] * 4 - 2, attacked["labels"]
    assert (torchattacks.FGSM(attacked["model"])(outside, labels) - outside).abs().max() > 0.5
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        FGSM()(attacked["model"], outside, labels)


@pytest.mark.parametrize("name", ["APGD", "APGDT", "Square"])
def test_torchattacks_reseeds_and_we_do_not(name, attacked):
    import torchattacks

    from lightning_advreg.attacks import APGD, Square

    x, y = attacked["images"][:4], attacked["labels"][:4]
    settings = {"n_queries": 2} if name == "Square" else {"steps": 2}
    drawn, ours = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        getattr(torchattacks, name)(attacked["model"], **settings)(x, y)
        drawn.append(torch.rand(4))
        torch.manual_seed(seed)
        (Square(queries=2) if name == "Square" else APGD(steps=2))(attacked["model"], x, y)
        ours.append(torch.rand(4))
    assert torch.equal(*drawn)
    torch.manual_seed(2)
    assert torch.equal(ours[1], torch.rand(4))


def test_torchattacks_wakes_frozen_layers_and_we_do_not(attacked):
    import torchattacks

    from lightning_advreg.attacks import FGSM

    model, x, y = attacked["model"], attacked["images"][:4], attacked["labels"][:4]
    for attack, woken in ((lambda: FGSM()(model, x, y), False), (lambda: torchattacks.FGSM(model)(x, y), True)):
        model.train()
        model[1].eval()
        attack()
        assert model[1].training is woken
    model.eval()


def test_defaults_of_torchattacks_are_as_said(attacked):
    import torchattacks

    model = attacked["model"]
    assert {getattr(torchattacks, name)(model).steps for name in ("APGD", "APGDT", "FAB")} == {10}
    suite = torchattacks.AutoAttack(model)
    assert [one.steps for one in suite._autoattack.attacks[:3]] == [10, 10, 10]
    assert suite._autoattack.attacks[3].rescale_schedule
    assert (torchattacks.PGDL2(model).eps, torchattacks.PGDL2(model).alpha) == (1.0, 0.2)
    from lightning_advreg.attacks import APGD, FAB, AutoAttack

    assert {APGD().steps, FAB().steps, AutoAttack().steps} == {100}


def test_every_name_of_the_table_is_one_of_torchattacks():
    import torchattacks

    table = PAGE.read_text("utf-8").partition("## Names")[2]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`([A-Z]\w+)", row)}
    assert len(names) > 30
    assert not [name for name in names if not hasattr(torchattacks, name)]

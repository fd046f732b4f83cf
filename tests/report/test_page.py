import base64
import io
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from lightning_advreg.report import read_ablation, read_run, report_page
from lightning_advreg.report.markup import element, table
from lightning_advreg.report.pictures import fit_pictures, latest

from .folders import ALARM, start, write_ablation, write_json, write_picture, write_run, write_test

EMPTY = {"meta", "img", "br"}
HOSTILE = "<script>alert('x')</script>"


class Outline(HTMLParser):
    """What a browser would see, and whether tags are closed as they were opened."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts, self.ids, self.targets = [], [], [], [], []
        self.joining = False
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "wbr":
            # what stands on both sides of it is one word
            self.joining = True
            return
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.targets += [value for name, value in attrs if name == "href"]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.joining:
            self.texts[-1] += data
        else:
            self.texts.append(data)
        self.joining = False

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def full_run(folder):
    write_test(write_run(folder))
    write_json(folder / "environment.json", {"starts": [start(ended="2026-01-01T01:02:03+00:00")]})
    write_json(folder / "alarms.json", {"alarms": [ALARM], "stop_reason": None})
    write_picture(folder / "images/val_adversarial_examples_000010.png")
    write_picture(folder / "test/images/test_accuracy_curve_000010.png")
    return folder


@pytest.fixture
def page(tmp_path):
    runs = [read_run(full_run(tmp_path / name)) for name in ("first", "second")]
    return Outline(report_page(runs, [read_ablation(write_ablation(tmp_path / "ablation"))]))


def test_every_section_is_there_and_linked(page):
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        "runs", "ablations", "differences", "curves", "robustness", "pictures", "warnings", "environment", "configs",
    ]  # fmt: skip
    assert {target.removeprefix("#") for target in page.targets} == set(sections)
    assert len(page.ids) == len(set(page.ids))


def test_figures_of_a_run_are_shown(page):
    for said in (
        "87.5 %", "37.5 %", "AdversarialClassifier", "MNISTConvNet", "3 of 3 epochs", "40.0 to 60.0", "L∞ 8/255",
        "Epoch 1: training has not left its plateau.", "The input gradient is exactly zero.", "1 h 02 min", "Fast One",
        "2.9.0", "lightning-advreg fit --config quickstart", "Mean over 1 seed.", "dropout=0.3", "under APGD-50",
        "All runs have the same configuration.",
    ):  # fmt: skip
        assert said in page.text, said


def test_nothing_comes_from_elsewhere_and_nothing_runs(page):
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert all(attributes["src"].startswith("data:image/png;base64,") for attributes in page.all("img"))
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_it_can_be_read_aloud(page):
    assert all(attributes["alt"] for attributes in page.all("img"))
    assert all(attributes["aria-label"] for attributes in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table")) > 3
    assert all(attributes["scope"] in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("h1")) == 1


def test_the_report_draws_the_curve_itself(page):
    assert [attributes["alt"] for attributes in page.all("img")] == [
        "ablation: main effects",
        "first: val: adversarial examples, step 10",
        "second: val: adversarial examples, step 10",
    ]


def test_text_of_files_and_names_never_becomes_markup(tmp_path):
    folder = full_run(tmp_path / "first")
    model = {"class_path": f"a.{HOSTILE}", "init_args": {HOSTILE: HOSTILE}}
    other = full_run(tmp_path / "second")
    (other / "config.yaml").write_text(f'model: {{class_path: "b.{HOSTILE}", init_args: {{"{HOSTILE}": 1}}}}\n')
    shutil.rmtree(folder)
    write_test(write_run(folder, model=model))
    write_json(folder / "alarms.json", {"alarms": [{"name": HOSTILE, "message": HOSTILE}]})
    write_json(folder / "environment.json", {"starts": [start(command=[HOSTILE], devices=HOSTILE)]})
    write_picture(folder / "images/'\"&_000001.png")
    ablation = read_ablation(write_ablation(tmp_path / "ablation", cell=HOSTILE), HOSTILE)
    runs = [read_run(folder, HOSTILE), read_run(other, '"><img src=x>')]
    text = report_page(runs, [ablation], title=HOSTILE, left_out=[HOSTILE])
    assert "<script" not in text and "<img src=x" not in text
    assert HOSTILE in Outline(text).text


@pytest.mark.parametrize("keep", ["config.yaml", "metrics.csv"])
def test_a_run_that_has_hardly_begun_is_shown(tmp_path, keep):
    folder = write_run(tmp_path / "run")
    for path in folder.iterdir():
        if path.name != keep:
            path.unlink()
    page = Outline(report_page([read_run(folder)]))
    assert "Report on 1 run" in page.text and "No warnings." in page.text
    assert "ConvergenceMonitor watched none of the runs" in page.text
    assert "This run has no environment.json" in page.text


def test_differences_name_what_differs_and_nothing_else(tmp_path):
    runs = [read_run(write_run(tmp_path / str(epochs), max_epochs=epochs)) for epochs in (3, 5)]
    text = Outline(report_page(runs)).text
    start_at = text.index("1 values that are not the same in all runs")
    assert "trainer.max_epochs 3 5" in text[start_at : start_at + 200]


def test_twenty_runs_stay_below_five_megabytes(tmp_path):
    first = full_run(tmp_path / "run0")
    # noise is the worst that a picture can be
    for place, name in (("images", "val_adversarial_examples"), ("test/images", "test_per_class")):
        write_picture(first / place / f"{name}_000020.png", size=(360, 200), seed=len(name))
    write_picture(first / "images/samples_000001.png", size=(256, 256))
    write_picture(first / "images/samples_000009.png", size=(256, 256), seed=9)
    names = [metric for k in range(6) for metric in (f"train/m{k}", f"val/m{k}")]
    rows = [f"{epoch},{epoch}," + ",".join(f"{epoch * k / 7:.9f}" for k in range(12)) for epoch in range(300)]
    (first / "metrics.csv").write_text("\n".join([",".join(["epoch", "step", *names]), *rows]) + "\n")
    for number in range(1, 20):
        shutil.copytree(first, tmp_path / f"run{number}")
    runs = [read_run(tmp_path / f"run{number}") for number in range(20)]
    text = report_page(runs)
    assert 1_000_000 < len(text.encode()) < 5_000_000
    assert len(Outline(text).all("img")) == 80


def test_pictures_are_reduced_no_more_than_they_must_be_and_keep_their_colours(tmp_path):
    path = tmp_path / "red_000001.png"
    image = Image.new("RGB", (1400, 200), "white")
    image.paste((200, 0, 0), (0, 0, 700, 200))
    image.save(path)
    shown, missing = fit_pictures([path], 100_000)
    assert not missing and (shown[path].width, shown[path].height) == (1100, 157)
    stored = Image.open(io.BytesIO(base64.b64decode(shown[path].source.partition(",")[2]))).convert("RGB")
    assert stored.getpixel((100, 100)) == (200, 0, 0) and stored.getpixel((1000, 100)) == (255, 255, 255)


def test_pictures_without_room_and_broken_ones_are_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    folder = write_run(tmp_path / "run")
    (folder / "images").mkdir()
    (tmp_path / "broken.png").rename(folder / "images/broken_000001.png")
    text = Outline(report_page([read_run(folder)])).text
    assert re.search(r"Pictures that could not be read or had no room: \S+broken_000001\.png\.", text)
    write_picture(tmp_path / "noise.png", size=(500, 500))
    assert fit_pictures([tmp_path / "noise.png"], 10) == ({}, [tmp_path / "noise.png"])


def test_the_last_picture_of_each_kind_and_the_first_samples(tmp_path):
    names = ["samples_000020", "samples_000040", "samples_001000", "val_adversarial_examples_000400",
             "val_adversarial_examples_000200", "test_robust_evaluation_examples_000000"]  # fmt: skip
    assert [caption for caption, _ in latest([tmp_path / f"{name}.png" for name in names])] == [
        "test: robust evaluation examples, step 0",
        "val: adversarial examples, step 400",
        "samples, step 20",
        "samples, step 1000",
    ]


def test_columns_of_numbers_are_right_aligned_and_others_not():
    rows = [["a", "97.0 %", "12 of 12 epochs", "1.2 ± 0.3 %", "< 0.001"], ["b", "-", "none", "-", "0.5"]]
    found = re.findall(r'<th scope="col"([^>]*)>', table("t", ["run", "acc", "trained", "mean", "p"], rows))
    assert found == ["", ' class="num"', "", ' class="num"', ' class="num"']


def test_text_is_escaped_once_and_markup_is_kept():
    assert element("p", "<", element("b", "&"), title='"') == '<p title="&quot;">&lt;<b>&amp;</b></p>'


def test_a_report_on_nothing_is_refused():
    with pytest.raises(ValueError, match=r"needs at least one run or ablation"):
        report_page([])

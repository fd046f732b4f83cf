import pytest

from lightning_advreg.ablation import Axis, Override, Plan, Variant, read_variants
from lightning_advreg.ablation.levels import as_flag, folder_name, level_name, read_levels, read_yaml
from lightning_advreg.ablation.paths import find_path
from lightning_advreg.ablation.plan import read_seeds

CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "M",
        "init_args": {
            "network": {"class_path": "N", "init_args": {"norm": "none", "dropout": 0.0}},
            "attack": {"class_path": "PGD", "init_args": {"norm": "linf", "eps": 0.1}},
            "penalties": [
                {"class_path": "L1", "init_args": {"other": 0}},
                {"class_path": "L2", "init_args": {"weight": 0}},
            ],
            "objective": None,
        },
    },
    "data": {"class_path": "D", "init_args": {"seed": 0, "train_size": None}},
}


# values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("batch,group,none", ["batch", "group", "none"]),
        ("[batch, group]", ["batch", "group"]),
        ("0,1e-3,8/255", [0, 0.001, "8/255"]),
        ("{class_path: A, init_args: {a: 1, b: 2}},null", [{"class_path": "A", "init_args": {"a": 1, "b": 2}}, None]),
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
        ("[1, 2],[3]", [[1, 2], [3]]),
        ("5", [5]),
    ],
)
def test_values_of_an_axis_are_yaml(text, values):
    assert read_levels(text) == values


@pytest.mark.parametrize("text", ["", "[a", "{"])
def test_values_that_are_no_yaml(text):
    with pytest.raises(ValueError, match="values of an axis must be a YAML list"):
        read_levels(text)


def test_values_go_to_the_command_line_and_come_back():
    for value in (True, None, 0.001, 1e-7, [1, "a"], {"class_path": "A", "init_args": {"eps": "8/255", "seed": None}}):
        assert read_yaml(as_flag(value)) == value
    assert as_flag("8/255") == "8/255"
    assert Override(path="a.b", value=[1], append=True).flag("x.a.b") == "--x.a.b+=[1]"


def test_levels_are_named_shortly():
    assert level_name({"class_path": "lightning_advreg.SAM"}) == "SAM"
    assert (
        level_name([{"class_path": "L1"}, {"class_path": "a.L2", "init_args": {"weight": 0.1}}]) == "L1+L2(weight=0.1)"
    )
    assert [level_name(value) for value in (None, [], True, "none")] == ["null", "nothing", "true", "none"]


def test_folders_differ_even_where_upper_case_does_not_count():
    taken = set()
    names = [folder_name(name, taken) for name in ("a/b", "a:b", "A/B", "..", "x" * 200, "x" * 201)]
    assert names[:4] == ["a_b", "a_b_2", "A_B_3", "cell"]
    assert len({name.lower() for name in names}) == 6
    assert all(len(name) <= 80 and "/" not in name for name in names)


# paths


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("network.norm", "model.init_args.network.init_args.norm"),
        ("model.network.norm", "model.init_args.network.init_args.norm"),
        ("model.init_args.network.init_args.norm", "model.init_args.network.init_args.norm"),
        ("dropout", "model.init_args.network.init_args.dropout"),
        ("network", "model.init_args.network"),
        ("model", "model"),
        ("train_size", "data.init_args.train_size"),
        # the last of the list, as on the command line
        ("penalties.weight", "model.init_args.penalties.init_args.weight"),
        ("objective", "model.init_args.objective"),
    ],
)
def test_a_short_path_is_the_end_of_one_full_path(path, full):
    assert find_path(path, CONFIG) == full


def test_an_ambiguous_path_lists_the_candidates():
    with pytest.raises(ValueError, match=r"'norm' may mean any of model\.network\.norm, model\.attack\.norm; write"):
        find_path("norm", CONFIG)


def test_an_unknown_path_brings_the_nearest():
    with pytest.raises(ValueError, match=r"there is no 'netwrk\.norm' .* nearest are model\.network\.norm"):
        find_path("netwrk.norm", CONFIG)
    with pytest.raises(ValueError, match="no 'etwork'"):
        find_path("etwork", CONFIG)
    with pytest.raises(ValueError, match="nearest are none"):
        find_path("zzzzzz", CONFIG)


def test_a_path_into_an_unnamed_default_says_to_name_it():
    with pytest.raises(ValueError, match=r"no 'objective\.beta' .* model\.objective is null, .* to a class first"):
        find_path("objective.beta", CONFIG)


# cells


def test_cells_are_the_product_of_variants_and_axes_in_order():
    on = Override(path="b", value=1)
    variants = (Variant(name="off"), Variant(name="on", overrides=(on,)))
    common = (Override(path="z", value=0),)
    plan = Plan(variants=variants, axes=(Axis.parse("x.size=1,2"),), common=common, seeds=(3, 5))
    assert [cell.name for cell in plan.cells] == ["off,size=1", "off,size=2", "on,size=1", "on,size=2"]
    assert plan.cells[3].levels == {"variant": "on", "size": "2"}
    # those of the axes last, so that they count
    assert plan.cells[3].overrides == (*common, on, Override(path="x.size", value=2))
    assert plan.factors == ("variant", "size")
    assert plan.baseline_cell.name == "off,size=1"
    assert Plan(variants=variants, baseline="on").baseline_cell.name == "on"


def test_axes_with_one_ending_go_by_their_paths():
    plan = Plan(axes=(Axis.parse("network.norm=a,b"), Axis.parse("model.init_args.attack.norm=a,b")))
    assert plan.factors == ("network.norm", "model.attack.norm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing is varied"),
        ({"axes": (Axis.parse("a=1,2"),) * 2}, "paths of axes must differ, got a, a"),
        ({"variants": (Variant(name="a"), Variant(name="a"))}, "names of variants must differ"),
        ({"variants": (Variant(name="a"),), "seeds": (0, 0)}, "seeds must differ"),
        ({"variants": (Variant(name="a"),), "seeds": (-1,)}, r"seeds must be integers of 0 or more.*\[-1\]"),
        ({"variants": (Variant(name="a"),), "seeds": ()}, "at least one"),
        ({"variants": (Variant(name="a"),), "baseline": "b"}, "no cell 'b' to be the baseline; cells are a"),
    ],
)
def test_plans_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Plan(**settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [("norm", "must be PATH=VALUE,VALUE"), ("=1,2", "must be PATH"), ("a=1", "two or more"), ("a=1,1", "two or more")],
)
def test_axes_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        Axis.parse(text)


def test_seeds_are_counted_or_named():
    assert read_seeds("3") == read_seeds(3) == (0, 1, 2)
    assert read_seeds("4,7") == read_seeds([4, 7]) == (4, 7)
    for bad in ("0", "a", "-2", "1.5", True, []):
        with pytest.raises(ValueError, match="seeds must be a count such as 3"):
            read_seeds(bad)


# files of variants


def test_a_file_of_variants(tmp_path):
    path = tmp_path / "v.yaml"
    path.write_text(
        "config: quickstart\nseeds: [1, 2]\nbaseline: a\ncommon: {x: 1e-3}\naxes: {y: [1, 2]}\n"
        "variants: {a: {}, b: {p+: [1], q+=: 2, r: null}, c: }\n"
    )
    settings = read_variants(path)
    assert settings["arguments"] == ("--config", "quickstart")
    assert (settings["seeds"], settings["baseline"]) == ((1, 2), "a")
    assert settings["common"] == (Override(path="x", value=0.001),)
    assert settings["axes"] == (Axis(path="y", values=(1, 2)),)
    a, b, c = settings["variants"]
    assert (a.overrides, c.overrides) == ((), ())
    assert b.overrides == (
        Override(path="p", value=[1], append=True),
        Override(path="q", value=2, append=True),
        Override(path="r", value=None),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variant: {}", "must have keys out of config, .* got variant"),
        ("[]", "must have keys out of"),
        ("variants: [a]", "variants in .* must be a mapping"),
        ("variants: {a: 1}", "variant 'a' in .* must map paths to values, got 1"),
    ],
)
def test_files_that_say_something_else(tmp_path, text, message):
    path = tmp_path / "v.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_variants(path)

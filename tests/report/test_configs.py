from lightning_advreg.report.configs import differences, value_text


def classifier(name, **arguments):
    return {"model": {"class_path": f"lightning_advreg.{name}", "init_args": arguments}}


def penalty(name, **arguments):
    return {"class_path": f"lightning_advreg.penalties.{name}", "init_args": arguments}


def test_equal_values_are_not_shown():
    one = classifier("GAN", width=3, penalties=[penalty("L2", weight=1)])
    assert differences([one, one, one]) == {}


def test_where_results_lie_is_no_difference():
    one, other = ({"trainer": {"default_root_dir": folder, "max_epochs": 3}, "ckpt_path": folder} for folder in "ab")
    assert differences([one, other]) == {}


def test_paths_go_through_classes_that_are_the_same():
    one, other = (classifier("A", network={"class_path": "x.Net", "init_args": {"norm": norm}}) for norm in ("a", "b"))
    assert differences([one, other]) == {"model.network.norm": ["a", "b"]}


def test_other_classes_share_rows_for_the_arguments_that_both_know():
    one = classifier("AdversarialClassifier", eps=0.1, lr=1)
    other = classifier("RegularizedClassifier", smoothing=0.05, lr=2)
    assert differences([one, other]) == {
        "model": ["AdversarialClassifier(eps=0.1)", "RegularizedClassifier(smoothing=0.05)"],
        "model.lr": ["1", "2"],
    }


def test_objects_in_lists_are_compared_class_by_class_in_any_order():
    one = classifier("A", penalties=[penalty("L2", weight=1, biases=False), penalty("L1", weight=5)])
    other = classifier("A", penalties=[penalty("L1", weight=5), penalty("L2", weight=2, biases=False)])
    assert differences([one, other]) == {"model.penalties.L2.weight": ["1", "2"]}
    assert differences([one, classifier("A", penalties=[])]) == {
        "model.penalties.L2": ["L2(weight=1, biases=false)", ""],
        "model.penalties.L1": ["L1(weight=5)", ""],
    }


def test_two_objects_of_a_class_in_a_list_are_shown_whole():
    one = classifier("A", penalties=[penalty("L2", weight=1), penalty("L2", weight=2)])
    other = classifier("A", penalties=[penalty("L2", weight=1)])
    assert differences([one, other]) == {"model.penalties": ["L2(weight=1)\nL2(weight=2)", "L2(weight=1)"]}


def test_what_some_runs_lack_is_said_once_and_its_differences_below():
    one, two = (classifier("A", attack=penalty("PGD", eps=eps, steps=7)) for eps in (1, 2))
    assert differences([one, two, classifier("A", attack=None)]) == {
        "model.attack": ["PGD(steps=7)", "PGD(steps=7)", "null"],
        "model.attack.eps": ["1", "2", ""],
    }


def test_lists_of_numbers_and_lists_against_null():
    one, other, none = (classifier("A", hidden=hidden) for hidden in ([1, 2], [1], None))
    assert differences([one, other, none]) == {"model.hidden": ["[1, 2]", "[1]", "null"]}


def test_the_model_comes_before_the_trainer():
    one = {"trainer": {"max_epochs": 1}, "data": {"seed": 1}, "model": {"lr": 1}}
    other = {"trainer": {"max_epochs": 2}, "data": {"seed": 2}, "model": {"lr": 2}}
    assert list(differences([one, other])) == ["model.lr", "data.seed", "trainer.max_epochs"]


def test_values_in_short():
    nested = penalty("WorstOf", attacks=[penalty("PGD", eps="8/255")], loss=None)
    assert value_text(nested) == "WorstOf(attacks=[PGD(eps=8/255)])"
    assert value_text({"a": 1, "b": None}) == "{a=1}"

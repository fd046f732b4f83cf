"""The navigation of the site, from the folders of docs/: a new page needs no line here."""

from collections.abc import Iterable

Entry = str | dict[str, "str | list[Entry]"]

GROUPS = {
    "methods/attacks": "Attacks",
    "methods/training": "Adversarial training",
    "methods/weight_perturbations": "Weight perturbations",
    "methods/evaluation": "Evaluation",
    "methods/penalties": "Penalties (soft)",
    "methods/constraints": "Constraints (hard)",
    "methods/augmentation": "Augmentation and noise",
    "methods/architecture": "Architecture",
    "methods/gan": "GANs",
}
"""Folders of methods in the order in which they are shown, with their titles."""

FIRST = {
    "concepts": ["threat_models", "soft_and_hard_regularisation", "convergence", "evaluation"],
    "how_to": [
        "train_your_network",
        "evaluate_a_model",
        "your_own_data",
        "choose_eps",
        "find_the_best_regulariser",
        "continue_a_killed_run",
        "several_gpus",
        "weights_and_biases",
        "generated_images",
    ],
    "api": ["index", "lightning_advreg"],
}
"""Pages that come first in their folder, in this order; the others follow by name."""

TABS: list[tuple[str, list[str]]] = [
    ("Start", ["index.md", "quickstart.md"]),
    ("Concepts", ["concepts/"]),
    ("Methods", ["methods/"]),
    ("How to", ["how_to/", "recipes.md", "scaling.md", "wandb.md", "Coming from elsewhere=migration/"]),
    ("Notebooks", ["notebooks/"]),
    ("Results", ["results.md", "results/", "Model zoo=zoo/"]),
    ("API", ["api/"]),
    ("Errors", ["errors.md", "bad_input.md"]),
    ("Project", ["architecture.md", "files.md", "CONTRIBUTING.md", "changelog.md", "*"]),
]
"""Tabs, and what each holds: pages, folders, folders with a title of their own, and ``*`` for all that is left."""


def navigation(pages: Iterable[str]) -> list[Entry]:
    """Give the navigation that MkDocs takes.

    Args:
        pages: The paths of all pages in the site, such as ``methods/attacks/pgd.md``.

    Example:
        >>> navigation(["methods/index.md", "methods/gan/r1.md", "new.md"])
        [{'Methods': ['methods/index.md', {'GANs': ['methods/gan/r1.md']}]}, {'Project': ['new.md']}]
    """
    left = set(pages)
    named = {one.rpartition("=")[2] for _, entries in TABS for one in entries}
    rest = {one for one in left if not any(one == part or (part[-1] == "/" and one.startswith(part)) for part in named)}
    tabs: list[Entry] = []
    for title, entries in TABS:
        held: list[Entry] = []
        for entry in entries:
            heading, _, part = entry.rpartition("=")
            below = rest if part == "*" else {one for one in left if one == part or one.startswith(part)}
            if part.endswith("/"):
                found = _folder(part.rstrip("/"), below if part[-1] == "/" else set())
                held.extend([{heading: found}] if heading and found else found)
            else:
                held.extend(sorted(one for one in below if part == "*" or one == part))
        if held:
            tabs.append({title: held})
    return tabs


def _folder(folder: str, pages: set[str]) -> list[Entry]:
    inside = {one for one in pages if one.startswith(f"{folder}/")}
    direct = {one for one in inside if "/" not in one[len(folder) + 1 :]}
    first = [f"{folder}/{one}.md" for one in ["index", *FIRST.get(folder, [])]]
    ordered: list[Entry] = [one for one in dict.fromkeys(first) if one in direct]
    ordered += sorted(direct - set(first))
    known = [one for one in GROUPS if one.startswith(f"{folder}/")]
    others = sorted({f"{folder}/{one[len(folder) + 1 :].partition('/')[0]}" for one in inside - direct} - set(known))
    for one in [*known, *others]:
        if below := _folder(one, inside):
            ordered.append({GROUPS.get(one, one.rpartition("/")[2].replace("_", " ").capitalize()): below})
    return ordered

"""Data in files that need no linlocal, with the grammar inside.

Arrays of numpy in one file, or JSON Lines in the layout of a Hugging Face data set. The grammar is
JSON: the arguments that make it again, and the rules themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from linlocal import inputs
from linlocal.rhm import trees as t
from linlocal.rhm.grammar import Grammar
from linlocal.rhm.trees import Trees


def grammar_json(grammar: Grammar) -> str:
    """The grammar as JSON: its ``arguments``, ``rules`` and all probabilities.

    ``RandomHierarchyModel(**json.loads(text)["arguments"])`` is the same grammar.

    Args:
        grammar: the rules.

    Raises:
        TypeError: no `Grammar`.
    """
    inputs.instance(grammar, Grammar, "grammar", "a `Grammar` or `RandomHierarchyModel`")
    facts = {
        "arguments": {each.name: getattr(grammar, each.name) for each in fields(grammar)},
        "rules": [table.tolist() for table in grammar.rules],
        "rule_probabilities": [table.tolist() for table in grammar.rule_probabilities],
        "class_probabilities": grammar.class_probabilities.tolist(),
    }
    return json.dumps(facts)


def to_npz(path: str | PathLike[str], grammar: Grammar, **splits: Trees) -> Path:
    """One file of arrays: ``NAME_leaves``, ``NAME_labels``, ``NAME_level1`` ... and ``grammar``.

    ``numpy.load(path)`` reads it; nothing in it is pickled.

    Args:
        path: the file to write; numpy adds ``.npz`` to a name without it.
        grammar: the rules.
        splits: trees under their names, such as train and test.

    Returns:
        The path of the file.

    Raises:
        ValueError: no splits, or trees of another grammar.
        TypeError: no path, no `Grammar`, or no `Trees`.
    """
    file = inputs.path(path, "path")
    file = file if file.suffix == ".npz" else file.with_name(file.name + ".npz")
    arrays: dict[str, Any] = {"grammar": np.array(grammar_json(grammar))}
    for name, trees in _checked(grammar, splits).items():
        arrays |= {f"{name}_{column}": values for column, values in _columns(trees).items()}
    np.savez_compressed(file, **arrays)
    return file


def to_hugging_face(folder: str | PathLike[str], grammar: Grammar, **splits: Trees) -> Path:
    """A folder that ``datasets.load_dataset(folder)`` reads.

    It holds data/NAME.jsonl, README.md and grammar.json. Each line is one datum: ``leaves``,
    ``label`` and ``level1`` ... up to level L - 1.

    Args:
        folder: where to write; it is made, and must not hold anything yet.
        grammar: the rules.
        splits: trees under their names, such as train and test.

    Returns:
        The folder.

    Raises:
        ValueError: no splits, or trees of another grammar.
        FileExistsError: the folder holds something.
        TypeError: no path, no `Grammar`, or no `Trees`.
    """
    target, words = inputs.path(folder, "folder"), grammar_json(grammar)
    parts = _checked(grammar, splits)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} holds something already; give a new folder.")
    (target / "data").mkdir(parents=True, exist_ok=True)
    (target / "grammar.json").write_text(words + "\n")
    for name, trees in parts.items():
        columns = {
            "label" if key == "labels" else key: values.tolist()
            for key, values in _columns(trees).items()
        }
        with (target / "data" / f"{name}.jsonl").open("w") as file:
            for row in zip(*columns.values(), strict=True):
                file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")
    (target / "README.md").write_text(_card(parts))
    return target


def _checked(grammar: Grammar, splits: Mapping[str, Trees]) -> Mapping[str, Trees]:
    if not splits:
        raise ValueError("Give at least one split by its name, such as train=trees.")
    for trees in splits.values():
        t.choices_of(grammar, trees)
    return splits


def _columns(trees: Trees) -> dict[str, Any]:
    """Leaves, labels and the symbols of the levels between."""
    between = {f"level{l}": level for l, level in enumerate(trees.symbols[1:-1], start=1)}
    return {"leaves": trees.leaves, "labels": trees.labels, **between}


def _card(splits: Mapping[str, Trees]) -> str:
    files = "".join(f"  - split: {name}\n    path: data/{name}.jsonl\n" for name in splits)
    sizes = ", ".join(f"{name} {len(trees)}" for name, trees in splits.items())
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        "# A Random Hierarchy Model\n\n"
        f"Data: {sizes}. `leaves` are the symbols of level 0 (-1 for a blank), `label` is the "
        "class, and `level1` ... are\nthe latent symbols between, without blanks. `grammar.json` "
        "has the rules, and the arguments with which\n"
        "`linlocal.rhm.RandomHierarchyModel` makes them again. Model: Cagnetta et al. 2024, arXiv "
        "2307.02129.\n"
    )

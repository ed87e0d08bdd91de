"""Exported data are read by others, and make the same grammar again."""

import json

import numpy as np
import pytest

from linlocal.rhm import RandomHierarchyModel, Trees, export


def splits(rhm):
    data = rhm.sample(12, seed=0)
    return {"train": data[:8], "test": data[8:]}


def same_grammar(words, rhm):
    facts = json.loads(words)
    again = RandomHierarchyModel(**facts["arguments"])
    assert again == rhm
    for stored, here, there in zip(facts["rules"], again.rules, rhm.rules, strict=True):
        assert stored == here.tolist() == there.tolist()
    assert facts["class_probabilities"] == rhm.class_probabilities.tolist()


def test_a_file_of_numpy_holds_leaves_latents_and_grammar(rhm, tmp_path):
    path = export.to_npz(tmp_path / "data", rhm, **splits(rhm))
    assert path == tmp_path / "data.npz"
    stored = np.load(path, allow_pickle=False)
    same_grammar(str(stored["grammar"]), rhm)
    for name, trees in splits(rhm).items():
        parsed = rhm.parse(stored[f"{name}_leaves"])
        assert (stored[f"{name}_leaves"] == trees.leaves).all()
        assert (stored[f"{name}_labels"] == parsed.labels).all()
        for l in range(1, rhm.num_levels):
            assert (stored[f"{name}_level{l}"] == parsed.symbols[l]).all()


def test_a_folder_of_json_lines_holds_leaves_latents_and_grammar(rhm, tmp_path):
    folder = export.to_hugging_face(tmp_path / "set", rhm, **splits(rhm))
    same_grammar((folder / "grammar.json").read_text(), rhm)
    card = (folder / "README.md").read_text()
    for name, trees in splits(rhm).items():
        assert f"- split: {name}\n    path: data/{name}.jsonl" in card
        rows = [json.loads(line) for line in (folder / "data" / f"{name}.jsonl").open()]
        assert [row["leaves"] for row in rows] == trees.leaves.tolist()
        assert [row["label"] for row in rows] == trees.labels.tolist()
        for l in range(1, rhm.num_levels):
            assert [row[f"level{l}"] for row in rows] == trees.symbols[l].tolist()
    with pytest.raises(FileExistsError, match="holds something already"):
        export.to_hugging_face(folder, rhm, **splits(rhm))


@pytest.mark.parametrize("write", [export.to_npz, export.to_hugging_face])
def test_what_is_no_data_of_the_grammar_is_not_written(write, tmp_path):
    sizes = {"num_classes": 4, "num_symbols": 4, "num_synonyms": 2, "num_levels": 2}
    rhm, other = (RandomHierarchyModel(**sizes, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match="at least one split"):
        write(tmp_path / "x", rhm)
    with pytest.raises(ValueError, match="not of this grammar"):
        write(tmp_path / "x", rhm, train=other.sample(50, seed=0))
    with pytest.raises(TypeError, match="trees must be `Trees`"):
        write(tmp_path / "x", rhm, train=Trees)
    with pytest.raises(TypeError, match="path or a string"):
        write(3, rhm, train=rhm.sample(2, seed=0))
    assert not list(tmp_path.iterdir())

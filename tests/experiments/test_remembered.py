"""Code versions that a list remembers are those that it would find."""

import os
from types import SimpleNamespace

import pytest

from experiments.runner import registry, remembered
from linlocal.analysis import results

NAME = "spectrum"


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """Where versions are remembered, and a small package as all the code there is."""
    package = tmp_path / "package"
    (package / "inside").mkdir(parents=True)
    (package / "inside" / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(remembered, "experiments", SimpleNamespace(__path__=[str(package)]))
    monkeypatch.setattr(remembered, "linlocal", SimpleNamespace(__path__=[]))
    monkeypatch.setattr(remembered, "_files", remembered._files.__wrapped__)
    monkeypatch.setattr(remembered.sys, "dont_write_bytecode", False)
    return tmp_path / "cache" / "versions.json"


def never():
    raise AssertionError("the version was remembered")


def test_a_version_is_found_once(kept):
    def find():
        return results.code_version(registry.entry_of(NAME))

    version = remembered.code_version(NAME, find, kept)
    assert version == find()
    assert remembered.code_version(NAME, never, kept) == version
    remembered.code_version("scaling", lambda: "other", kept)
    assert remembered.code_version(NAME, never, kept) == version


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.write_text("x = 12\n"),
        lambda module: os.utime(module, ns=(0, 0)),
        lambda module: module.rename(module.with_name("other.py")),
        lambda module: module.with_suffix(".pyi").touch(),
        lambda module: module.unlink(),
    ],
    ids=["text", "time", "name", "stub", "removed"],
)
def test_a_change_of_any_file_forgets_all(kept, tmp_path, change):
    remembered.code_version(NAME, lambda: "before", kept)
    change(tmp_path / "package" / "inside" / "module.py")
    assert remembered.code_version(NAME, lambda: "after", kept) == "after"
    assert remembered.code_version(NAME, never, kept) == "after"


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1}', '{"versions": {}}', "\0"])
def test_what_cannot_be_read_is_as_nothing(kept, text):
    remembered.code_version(NAME, lambda: "before", kept)
    kept.write_text(text)
    assert remembered.code_version(NAME, lambda: "after", kept) == "after"


def test_what_lies_elsewhere_is_not_remembered(kept):
    assert remembered.code_version("toy", lambda: "before", kept) == "before"
    assert remembered.code_version("toy", lambda: "after", kept) == "after"


def test_nothing_is_written_where_python_writes_no_bytecode_or_cannot(kept, monkeypatch):
    monkeypatch.setattr(remembered.sys, "dont_write_bytecode", True)
    remembered.code_version(NAME, lambda: "found", kept)
    assert not kept.exists()
    monkeypatch.setattr(remembered.sys, "dont_write_bytecode", False)
    kept.parent.write_text("a file in the place of the folder")
    assert remembered.code_version(NAME, lambda: "found", kept) == "found"

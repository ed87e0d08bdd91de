"""A checkpoint is whole or is not there; a damaged one is named and the one before is used."""

import os
import random
import zipfile

import numpy as np
import pytest
import torch

from linlocal.analysis.random_states import (
    drawing,
    random_states,
    seed_everything,
    set_random_states,
)
from linlocal.analysis.training import CheckpointError, Checkpoints
from linlocal.seeds import seed_for


def state(step):
    return {"step": step, "x": torch.arange(200.0) + step, "nested": [(1, {"a": None, "b": "c"})]}


def assert_is(loaded, step):
    assert torch.equal(loaded.pop("x"), state(step)["x"])
    assert loaded == {key: value for key, value in state(step).items() if key != "x"}


def truncate(content):
    return content[: len(content) // 2]


def flip_a_bit(content):
    middle = content.index(np.float32(201.0).tobytes())  # inside the values of the tensor
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def empty(content):
    return b""


def test_what_is_saved_is_loaded_and_the_newest_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "folder", keep=2)
    assert checkpoints.load() is None
    for step in (9, 10, 100):
        path = checkpoints.save(step, state(step))
        assert_is(checkpoints.load(), step)
    assert checkpoints.paths()[0] == path
    assert [p.name[-7:-3] for p in checkpoints.paths()] == ["0100", "0010"]
    assert_is(torch.load(path, weights_only=True), 100)
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_of_damaged_checkpoints_the_one_before_is_used(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    before, newest = checkpoints.save(100, state(100)), checkpoints.save(101, state(101))
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{newest.name} cannot be read.*Using {before.name}"):
        assert_is(checkpoints.load(), 100)
    before.write_bytes(truncate(before.read_bytes()))
    message = rf"{newest.name} cannot be read.*{before.name} cannot be read.*No other is left"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load()


def test_a_file_that_is_no_state_is_named(tmp_path):
    torch.save([1], tmp_path / "step-1.pt")
    with pytest.raises(CheckpointError, match=r"step-1.pt holds list, not a dict"):
        Checkpoints(tmp_path).load()


def test_a_state_that_could_not_be_loaded_is_not_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    with pytest.raises(CheckpointError, match=r"objects other than tensors"):
        checkpoints.save(2, {"x": checkpoints})
    assert [p.name for p in tmp_path.iterdir()] == [checkpoints.paths()[0].name]
    assert_is(checkpoints.load(), 1)


def compressed(path):
    """What a megabyte of zeros is in a kilobyte, and a terabyte in a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1_000_000))


def overlapping(path):
    """Many entries, all of the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(10_000))
        archive.filelist *= 50


def a_fifo(path):
    os.mkfifo(path)


def a_link_to_nowhere(path):
    path.symlink_to("nowhere")


def nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (compressed, "compressed or overlap"),
        (overlapping, "compressed or overlap"),
        (a_fifo, "is no file"),
        (a_link_to_nowhere, "is no file"),
        (nothing, "cannot be read"),
    ],
)
def test_what_torch_does_not_write_is_refused_before_it_is_read(tmp_path, make, reason):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    make(tmp_path / "step-000000000002.pt")
    with pytest.warns(UserWarning, match=rf"step-000000000002.pt .*{reason}.*Using"):
        assert_is(checkpoints.load(), 1)
    (tmp_path / "step-000000000001.pt").unlink()
    with pytest.raises(CheckpointError, match=rf"{reason}.*No other is left"):
        checkpoints.load()


def test_what_is_no_checkpoint_by_its_name_is_left_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    (tmp_path / "step-000000000009.pt").mkdir()
    (tmp_path / "step-of-mine.pt").write_bytes(b"mine")
    for step in (1, 2):
        checkpoints.save(step, state(step))
    assert_is(checkpoints.load(), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000000002.pt",
        "step-000000000009.pt",
        "step-of-mine.pt",
    ]


def test_a_checkpoint_says_what_it_was_told_to_say(tmp_path):
    about = {"code": {"0": "a", "7": "b"}}
    Checkpoints(tmp_path, about=about).save(1, state(1))
    found = Checkpoints(tmp_path).load()
    assert found.pop("about") == about
    assert_is(found, 1)
    with pytest.raises(TypeError, match="about"):
        Checkpoints(tmp_path, about="a")


def test_two_trainings_in_one_folder_do_not_take_each_others_half(tmp_path, monkeypatch):
    """Another one saves the same step between writing and renaming; both files were whole."""
    one, real, inside = Checkpoints(tmp_path), torch.save, []

    def overtaken(content, file):
        real(content, file)
        if content["step"] == 5:
            inside.append(Checkpoints(tmp_path).save(5, state(6)))

    monkeypatch.setattr(torch, "save", overtaken)
    one.save(5, state(5))
    assert inside
    assert_is(one.load(), 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000005.pt"]


def draw():
    return random.random(), np.random.rand(), torch.rand(2).tolist()  # noqa: NPY002


def test_random_states_are_put_back_through_a_file(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, random_states())
    drawn = draw()
    assert all(a != b for a, b in zip(draw(), drawn, strict=True))
    states = checkpoints.load()
    set_random_states(states)
    assert draw() == drawn
    states["cuda"] = [torch.get_rng_state()] * (torch.cuda.device_count() + 1)
    with pytest.raises(ValueError, match=r"random states of \d+ GPUs and this machine shows"):
        set_random_states(states)


def test_seeds_are_functions_of_all_their_numbers():
    seeds = [seed_for(0, 1), seed_for(1, 0), seed_for(0, 0), seed_for(0), seed_for(0, 1, 0)]
    assert len({*seeds[:3]}) == 3
    assert seed_for(0, 1) == seeds[0]
    for other in seeds[1:3]:
        seed_everything(seeds[0])
        first = draw()
        seed_everything(other)
        assert all(a != b for a, b in zip(draw(), first, strict=True))
        seed_everything(seeds[0])
        assert draw() == first


def test_drawing_leaves_the_global_random_state_alone():
    before, drawn = torch.get_rng_state(), []
    for key in ((1, 2), (1, 3), (1, 2)):
        with drawing(torch.device("cpu"), *key):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])

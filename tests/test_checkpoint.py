"""Checkpoint folders: replaced only by whole ones, and checked before they are read."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import pyarrow.fs
import pytest

from rllib_dima.checkpoint import MANIFEST_FILE_NAME, CheckpointError, is_checkpoint, replacing, verify, write_manifest

LOCAL = pyarrow.fs.LocalFileSystem()


def save(path, content, extra=None):
    """What an algorithm does, in small."""
    with replacing(path) as folder:
        (folder / "learner").mkdir(parents=True)
        (folder / "state.pkl").write_text(content)
        (folder / "learner" / "weights").write_text(content * 1000)
        if extra:
            extra(folder)
        write_manifest(folder.as_posix(), LOCAL)


@pytest.fixture
def saved(tmp_path):
    save(tmp_path / "run", "first")
    return tmp_path / "run"


def content(path):
    verify(path)
    return (path / "state.pkl").read_text()


def test_new_empty_and_existing_folders(tmp_path):
    save(tmp_path / "a" / "new", "one")
    (tmp_path / "empty").mkdir()
    inode = os.stat(tmp_path / "empty").st_ino
    save(tmp_path / "empty", "two")
    assert os.stat(tmp_path / "empty").st_ino == inode  # as Tune's temporary folders need it
    save(tmp_path / "a" / "new", "three")
    assert (content(tmp_path / "a" / "new"), content(tmp_path / "empty")) == ("three", "two")
    assert sorted(p.name for p in tmp_path.rglob("*") if "." in p.name and p.is_dir()) == []


def test_files_of_the_user_survive_a_replacement_and_old_ones_of_the_checkpoint_do_not(saved):
    save(saved, "second", extra=lambda folder: (folder / "only_second").write_text("x"))
    (saved / "curve.png").write_text("mine")
    (saved / "notes").mkdir()
    (saved / "notes" / "a").write_text("mine too")
    save(saved, "third")
    assert content(saved) == "third" and (saved / "curve.png").read_text() == "mine"
    assert (saved / "notes" / "a").read_text() == "mine too" and not (saved / "only_second").exists()


def test_failure_leaves_what_was_there(saved, tmp_path):
    def fail(folder):
        raise OSError("No space left on device")

    with pytest.raises(CheckpointError, match=r"could not be saved to .*run: No space left.*still holds"):
        save(saved, "second", extra=fail)
    assert content(saved) == "first" and os.listdir(tmp_path) == ["run"]
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new"):
        with pytest.raises(CheckpointError, match=r"No space left on device\.$"):
            save(tmp_path / name, "x", extra=fail)
    assert os.listdir(tmp_path / "empty") == [] and not (tmp_path / "new").exists()


@pytest.mark.parametrize("where", ["run", "run/deeper/model", "run.incoming", "run.previous"])
def test_file_in_the_way_is_refused_before_anything_is_moved(tmp_path, where):
    if "." in where:
        save(tmp_path / "run", "first")
    in_the_way = tmp_path / where.split("/")[0]
    in_the_way.write_text("mine")
    before = sorted(os.listdir(tmp_path))
    target = tmp_path / where.removesuffix(".incoming").removesuffix(".previous")
    for _ in range(2):  # what is refused once leaves nothing that a second save would fail on
        with pytest.raises(
            CheckpointError, match=rf"to {target}: {in_the_way} is a file, .*Nothing was changed\. Give"
        ):
            save(target, "second")
    assert sorted(os.listdir(tmp_path)) == before and in_the_way.read_text() == "mine"
    if "." in where:
        assert content(target) == "first"


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop"):
        with pytest.raises(CheckpointError, match=f"{name} is neither a file nor a folder"):
            save(tmp_path / name, "first")
    assert sorted(os.listdir(tmp_path)) == ["loop", "pipe"]


def test_link_stays_and_its_folder_is_replaced(saved, tmp_path):
    for name, target in (("latest", "run"), ("dangling", "new")):
        (tmp_path / name).symlink_to(target)
        save(tmp_path / name, "second")
        assert (tmp_path / name).is_symlink() and content(tmp_path / target) == "second"
    assert sorted(os.listdir(tmp_path)) == ["dangling", "latest", "new", "run"]


@pytest.mark.parametrize("fails_on", ["run", "run.incoming"])
def test_failure_to_rename_leaves_what_was_there(saved, fails_on, tmp_path, monkeypatch):
    rename = pathlib.Path.rename

    def refuse(self, target):
        if self.name == fails_on:
            raise OSError(16, "Device or resource busy")  # as for a folder that a container mounts
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(CheckpointError, match=r"Device or resource busy.*still holds"):
        save(saved, "second")
    assert content(saved) == "first" and os.listdir(tmp_path) == ["run"]


DIES = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[3])
import test_checkpoint, rllib_dima.checkpoint as checkpoint
path, where = pathlib.Path(sys.argv[1]), sys.argv[2]
die = lambda *args: os._exit(9)
if where == "writing":
    test_checkpoint.save(path, "second", extra=die)
if where == "before the swap":
    checkpoint._swap = die
if where == "between the renames":
    rename = pathlib.Path.rename
    pathlib.Path.rename = lambda self, to: die() if self.name.endswith(".incoming") else rename(self, to)
if where == "after the renames":
    checkpoint._keep_other_files = die
test_checkpoint.save(path, "second")
"""


@pytest.mark.parametrize("where", ["writing", "before the swap", "between the renames", "after the renames"])
def test_process_that_dies_while_saving_loses_nothing(saved, where, tmp_path):
    (saved / "curve.png").write_text("mine")
    here = os.path.dirname(__file__)
    assert subprocess.run([sys.executable, "-c", DIES, str(saved), where, here]).returncode == 9
    if where == "between the renames":
        with pytest.raises(CheckpointError, match=r"no checkpoint folder .*the one before is whole: .*run\.previous"):
            verify(saved)
        assert content(tmp_path / "run.previous") == "first"
    else:
        assert content(saved) == ("second" if where == "after the renames" else "first")
    save(saved, "third")
    assert content(saved) == "third" and (saved / "curve.png").read_text() == "mine"
    assert os.listdir(tmp_path) == ["run"]


def _shorten(path):
    (path / "learner" / "weights").write_text("firs")


def _flip(path):
    file = path / "learner" / "weights"
    file.write_text(file.read_text().replace("first", "fjrst", 1))


def _edit_manifest(**changes):
    def edit(path):
        manifest = json.loads((path / MANIFEST_FILE_NAME).read_text())
        (path / MANIFEST_FILE_NAME).write_text(json.dumps(manifest | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_shorten, "learner/weights is damaged"),
        (_flip, "learner/weights is damaged"),
        (lambda path: (path / "state.pkl").unlink(), "state.pkl is missing"),
        (lambda path: (path / MANIFEST_FILE_NAME).write_text("{"), f"{MANIFEST_FILE_NAME} is damaged"),
        (lambda path: (path / MANIFEST_FILE_NAME).write_text("{}"), f"{MANIFEST_FILE_NAME} is damaged"),
        (_edit_manifest(format_version=99), "format 99, written by rllib_dima .*reads formats up to 1"),
        (lambda path: (path / MANIFEST_FILE_NAME).unlink(), "no checkpoint of DIMA"),
    ],
)
def test_damage_is_found_and_named(saved, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        verify(saved)


def test_part_can_be_checked_alone(saved):
    (saved / "state.pkl").unlink()
    verify(saved, only="learner")
    with pytest.raises(CheckpointError):
        verify(saved, only="state")


class PPO:
    """Stands for the class that another algorithm's checkpoint names."""


class DIMA:
    """Stands for ours."""


def test_foreign_and_interrupted_checkpoints_are_told_apart(saved):
    (saved / MANIFEST_FILE_NAME).unlink()
    assert not is_checkpoint(saved)
    for writer, message in ((PPO, "a checkpoint of PPO, not of DIMA"), (DIMA, "incomplete: .*interrupted")):
        (saved / "class_and_ctor_args.pkl").write_bytes(pickle.dumps({"class": writer}))
        with pytest.raises(CheckpointError, match=message):
            verify(saved)


def test_other_file_systems_are_checked_by_size(tmp_path):
    elsewhere = pyarrow.fs.SubTreeFileSystem(str(tmp_path), LOCAL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pkl").write_text("first")
    write_manifest("run", elsewhere)
    verify("run", elsewhere)
    (tmp_path / "run" / "state.pkl").write_text("firs")
    with pytest.raises(CheckpointError, match=r"state\.pkl is damaged"):
        verify("run", elsewhere)

"""Checkpoint folders: replaced only by whole ones, and checked before they are read."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import pyarrow.fs
import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPO
from ray.train._internal.checkpoint_manager import _TrainingResult
from support.trap import Trap

from rllib_dima.checkpoint import (
    MANIFEST_FILE_NAME,
    CheckpointError,
    is_checkpoint,
    locate,
    replacing,
    verify,
    write_manifest,
)

LOCAL = pyarrow.fs.LocalFileSystem()


def save(path, content, extra=None, filesystem=None):
    """What an algorithm does, in small."""
    with replacing(locate(path, filesystem)) as folder:
        (folder / "learner_group").mkdir(parents=True)
        (folder / "algorithm_state.pkl").write_text(content)
        (folder / "learner_group" / "weights").write_text(content * 1000)
        if extra:
            extra(folder)
        write_manifest(folder, "DIMA")


@pytest.fixture
def saved(tmp_path):
    save(tmp_path / "run", "first")
    return tmp_path / "run"


def content(path):
    verify(path)
    return (path / "algorithm_state.pkl").read_text()


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
import test_checkpoint, rllib_dima.checkpoint.replacement as checkpoint
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
        with pytest.raises(CheckpointError, match=r"no checkpoint folder .* before it is whole: .*run\.previous"):
            verify(saved)
        assert content(tmp_path / "run.previous") == "first"
    else:
        assert content(saved) == ("second" if where == "after the renames" else "first")
    save(saved, "third")
    assert content(saved) == "third" and (saved / "curve.png").read_text() == "mine"
    assert os.listdir(tmp_path) == ["run"]


def _shorten(path):
    (path / "learner_group" / "weights").write_text("firs")


def _flip(path):
    file = path / "learner_group" / "weights"
    file.write_text(file.read_text().replace("first", "fjrst", 1))


def _edit_manifest(**changes):
    def edit(path):
        manifest = json.loads((path / MANIFEST_FILE_NAME).read_text())
        (path / MANIFEST_FILE_NAME).write_text(json.dumps(manifest | changes))

    return edit


def _edit_files(change):
    def edit(path):
        files = json.loads((path / MANIFEST_FILE_NAME).read_text())["files"]
        _edit_manifest(files=change(files))(path)

    return edit


def _forget_a_damaged_file(path):
    _flip(path)
    _edit_files(lambda files: {name: known for name, known in files.items() if "weights" not in name})(path)


IS_DAMAGED = f"{MANIFEST_FILE_NAME} is damaged"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_shorten, "learner_group/weights is damaged"),
        (_flip, "learner_group/weights is damaged"),
        (lambda path: (path / "algorithm_state.pkl").unlink(), r"algorithm_state\.pkl is missing"),
        (lambda path: (path / "algorithm_state.msgpack").write_text("x"), rf"msgpack is not in {MANIFEST_FILE_NAME}"),
        (_forget_a_damaged_file, f"learner_group/weights is not in {MANIFEST_FILE_NAME}"),
        *((lambda path, text=text: (path / MANIFEST_FILE_NAME).write_text(text), IS_DAMAGED) for text in "{[3"),
        *(
            (lambda path, text=text: (path / MANIFEST_FILE_NAME).write_text(text), IS_DAMAGED)
            for text in ("{}", "[" * 9999)
        ),
        (lambda path: (path / MANIFEST_FILE_NAME).write_bytes(b"\xff{}"), IS_DAMAGED),
        *((_edit_manifest(format_version=version), IS_DAMAGED) for version in (0, -1, "2", None, 2.5, True, [2])),
        (
            _edit_manifest(format_version=1),
            "has checkpoint format 1, written by rllib_dima .*reads format 3.*train anew",
        ),
        (_edit_manifest(format_version=99, new="x"), "has checkpoint format 99, written by rllib_dima"),
        (_edit_manifest(algorithm="MAPPO"), r"a checkpoint of MAPPO, not of DIMA: load it with MAPPO\.from_checkpoint"),
        *((_edit_manifest(algorithm=name), IS_DAMAGED) for name in (None, 3)),
        (_edit_manifest(unknown=1), IS_DAMAGED),
        *((_edit_manifest(versions=versions), IS_DAMAGED) for versions in (None, ["2"], {"ray": 2})),
        *((_edit_manifest(files=files), IS_DAMAGED) for files in (None, ["algorithm_state.pkl"], "x", {"a": None})),
        (_edit_files(lambda files: files | {"x": {"bytes": -1, "crc32": 1}}), IS_DAMAGED),
        (_edit_files(lambda files: files | {"x": {"bytes": 1, "crc32": "1"}}), IS_DAMAGED),
        (_edit_files(lambda files: files | {"x": {"bytes": 1}}), IS_DAMAGED),
        (_edit_files(lambda files: files | {"x": {"bytes": 1, "crc32": 1, "mode": 1}}), IS_DAMAGED),
        *(
            (
                _edit_files(lambda files, name=name: files | {name: {"bytes": 1, "crc32": 1}}),
                "no path within the checkpoint",
            )
            for name in ("/etc/passwd", "../run/state", "learner_group/../../x", "./x", "a//b", "a\0b", "")
        ),
        (lambda path: (path / MANIFEST_FILE_NAME).unlink(), "no checkpoint of DIMA"),
    ],
)
def test_damage_is_found_and_named(saved, damage, message):
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        verify(saved, algorithm="DIMA")


def test_part_can_be_checked_alone(saved):
    (saved / "algorithm_state.pkl").unlink()
    verify(saved, only="learner_group")
    with pytest.raises(CheckpointError):
        verify(saved, only="algorithm_state.pkl")


def test_checking_runs_nothing_also_of_foreign_and_interrupted_checkpoints(saved):
    (saved / MANIFEST_FILE_NAME).unlink()
    assert not is_checkpoint(saved)
    for writer, message in ((PPO, "a checkpoint of PPO, not of DIMA"), (Trap, "incomplete: .*interrupted")):
        record = {"class": writer, "ctor_args_and_kwargs": Trap()}
        (saved / "class_and_ctor_args.pkl").write_bytes(pickle.dumps(record))
        with pytest.raises(CheckpointError, match=message):
            verify(saved, algorithm="DIMA")
    (saved / "class_and_ctor_args.pkl").write_bytes(b"not a pickle")
    with pytest.raises(CheckpointError, match="incomplete"):
        verify(saved)
    assert not Trap.sprung
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung
    Trap.sprung = False


def test_replaced_checkpoint_of_an_older_format_leaves_nothing_behind(saved):
    (saved / "eval_env_runner").mkdir()
    (saved / "eval_env_runner" / "state.pkl").write_text("old")
    (saved / "curve.png").write_text("mine")
    _edit_manifest(format_version=1)(saved)
    save(saved, "second")
    assert content(saved) == "second" and (saved / "curve.png").exists() and not (saved / "eval_env_runner").exists()


@pytest.fixture
def elsewhere(tmp_path):
    """A file system that is not the local disk, as far as anybody can see."""
    (tmp_path / "bucket").mkdir()
    return pyarrow.fs.SubTreeFileSystem(str(tmp_path / "bucket"), LOCAL)


def test_other_file_systems_hold_copies_that_are_checked_as_a_whole(elsewhere, tmp_path, saved):
    save("runs/one", "first", filesystem=elsewhere, extra=lambda folder: (folder / "env_runner").write_text("x"))
    (tmp_path / "bucket" / "runs" / "one" / "curve.png").write_text("mine")
    save("runs/one/", "second", filesystem=elsewhere)
    verify("runs/one", elsewhere)
    assert content(tmp_path / "bucket" / "runs" / "one") == "second"  # downloaded by other means
    assert sorted(os.listdir(tmp_path / "bucket" / "runs" / "one")) == [
        "algorithm_state.pkl",
        "curve.png",
        MANIFEST_FILE_NAME,
        "learner_group",
    ]
    pyarrow.fs.copy_files(str(saved), "uploaded", destination_filesystem=elsewhere)
    verify(tune.Checkpoint("uploaded", elsewhere))
    _flip(tmp_path / "bucket" / "uploaded")
    verify("uploaded", elsewhere, only="algorithm_state.pkl")
    with pytest.raises(CheckpointError, match=r"checkpoint uploaded is not whole: learner_group/weights is damaged"):
        verify("uploaded", elsewhere)
    with pytest.raises(CheckpointError, match="There is no checkpoint folder missing on the subtree"):
        verify("missing", elsewhere)


def test_failure_to_upload_leaves_no_checkpoint_that_seems_whole(elsewhere, monkeypatch):
    save("run", "first", filesystem=elsewhere)

    def break_off(*args, **kwargs):
        raise OSError("connection reset")

    monkeypatch.setattr(pyarrow.fs, "copy_files", break_off)
    with pytest.raises(CheckpointError, match="could not be saved to run: connection reset"):
        save("run", "second", filesystem=elsewhere)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="no checkpoint of DIMA"):
        verify("run", elsewhere, algorithm="DIMA")


def test_all_ways_to_say_where_a_checkpoint_is(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    in_tune = tune.Checkpoint.from_directory(saved)
    result = _TrainingResult(checkpoint=in_tune, metrics={})
    ways = ["run", "./run/", "run//", "other/../run", "~/run", str(saved), f"{saved}/", f"file://{saved}"]
    ways += [f"file://{saved}/", pathlib.Path(f"file://{saved}"), pathlib.Path("run"), pathlib.Path("~/run"), in_tune]
    ways += [tune.Checkpoint.from_directory("run"), tune.Checkpoint(f"file://{saved}"), result, saved]
    for way in ways:
        assert locate(way).is_local and locate(way).path == str(saved), way
        verify(way)
    assert locate("~/run/", LOCAL).path == str(saved)
    assert locate("file:///a%20b").path == "/a b"


@pytest.mark.parametrize(
    "place", ["", None, 3, b"run", "nope://run", "file://host/run", _TrainingResult(checkpoint=None, metrics={})]
)
def test_what_is_no_place_is_refused(place):
    with pytest.raises(CheckpointError, match=r"no place|cannot be read as a URI"):
        locate(place)

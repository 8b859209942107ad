"""Replaces a checkpoint by a new one such that a complete one exists at every moment.

<checkpoint>           whole, whatever happens during the next save
<checkpoint>.incoming  being written
<checkpoint>.previous  the one that was replaced; exists only between two renames, or after a crash there
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs

from rllib_dima.checkpoint.errors import CheckpointError
from rllib_dima.checkpoint.manifest import MANIFEST_FILE_NAME, READ_BY_RLLIB, read_manifest
from rllib_dima.checkpoint.places import Place, beside


@contextmanager
def replacing(place: Place) -> Iterator[pathlib.Path]:
    """A local folder to write a checkpoint into, which replaces what is there only once writing has succeeded.

    Files there that belong to no checkpoint are kept. On the local disk what is there stays whole until it is replaced;
    an empty folder is written into directly; a link stays, and the folder that it names is replaced. On other file
    systems the manifest is deleted first and written last.

    Raises:
        CheckpointError: no folder can be there, or writing failed; on the local disk what was there is still there.
    """
    write = _replacing_on_disk(pathlib.Path(place.path)) if place.is_local else _replacing_elsewhere(place)
    with write as folder:
        yield folder


@contextmanager
def _replacing_on_disk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    path = pathlib.Path(os.path.realpath(path)) if path.is_symlink() else path
    _refuse_other_than_folders(path)
    _finish_interrupted(path)
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    staging = path if is_empty_folder else beside(path, "incoming")
    try:
        yield staging
        if not is_empty_folder:
            _swap(staging, path)
    except Exception as error:
        _remove_contents(staging)
        if not is_empty_folder:
            _finish_interrupted(path)
        kept = "" if is_empty_folder or not path.exists() else f" {path} still holds the checkpoint it held before."
        raise CheckpointError(f"The checkpoint could not be saved to {path}: {_reason(error)}.{kept}") from error
    _finish_interrupted(path)


@contextmanager
def _replacing_elsewhere(place: Place) -> Iterator[pathlib.Path]:
    filesystem, path = place
    with tempfile.TemporaryDirectory() as temporary:
        staging = pathlib.Path(temporary, "checkpoint")
        try:
            yield staging
            for name in (MANIFEST_FILE_NAME, *READ_BY_RLLIB):
                _delete(filesystem, f"{path}/{name}")
            filesystem.create_dir(path, recursive=True)
            manifest = (staging / MANIFEST_FILE_NAME).rename(pathlib.Path(temporary, MANIFEST_FILE_NAME))
            for source, target in ((staging, path), (manifest, f"{path}/{MANIFEST_FILE_NAME}")):
                pyarrow.fs.copy_files(str(source), target, destination_filesystem=filesystem)
        except Exception as error:
            raise CheckpointError(f"The checkpoint could not be saved to {path}: {_reason(error)}.") from error


def _delete(filesystem: pyarrow.fs.FileSystem, path: str) -> None:
    kind = filesystem.get_file_info(path).type
    if kind == pyarrow.fs.FileType.Directory:
        filesystem.delete_dir(path)
    elif kind == pyarrow.fs.FileType.File:
        filesystem.delete_file(path)


def _refuse_other_than_folders(path: pathlib.Path) -> None:
    """Raises, before anything is moved, if something other than a folder is in the way of a checkpoint."""
    for place in (path, beside(path, "incoming"), beside(path, "previous")):
        existing = next(part for part in (place, *place.parents) if os.path.lexists(part))
        if not existing.is_dir():
            what = "a file" if existing.is_file() else "neither a file nor a folder"
            raise CheckpointError(
                f"The checkpoint cannot be saved to {path}: {existing} is {what}, but a checkpoint needs a folder "
                "there. Nothing was changed. Give the path of a folder, existing or not, or move that away."
            )


def _reason(error: Exception) -> str:
    """Why saving failed; torch's own message hides the operating system's reason."""
    if any(part in str(error) for part in ("inline_container", "PytorchStreamWriter")):
        return f"torch could not write a whole file, as happens when a disk or a quota is full ({error})"
    return str(error)


def _finish_interrupted(path: pathlib.Path) -> None:
    """Cleans up after a save that was killed: brings the previous checkpoint back unless the new one is in place."""
    shutil.rmtree(beside(path, "incoming"), ignore_errors=True)
    previous = beside(path, "previous")
    if previous.is_dir():
        if path.exists():
            _keep_other_files(previous, path)
            shutil.rmtree(previous)
        else:
            previous.rename(path)


def _swap(staging: pathlib.Path, path: pathlib.Path) -> None:
    previous = beside(path, "previous")
    if path.exists():
        path.rename(previous)
    staging.rename(path)


def _keep_other_files(previous: pathlib.Path, path: pathlib.Path) -> None:
    """Moves what the user had put beside the replaced checkpoint's own files."""
    try:
        listed = read_manifest(previous, str(previous)).files
    except CheckpointError:  # also if it is of another format
        listed = {}
    own = {pathlib.PurePosixPath(name).parts[0] for name in listed} | READ_BY_RLLIB | {MANIFEST_FILE_NAME}
    for entry in previous.iterdir():
        if entry.name not in own and not (path / entry.name).exists():
            entry.rename(path / entry.name)


def _remove_contents(folder: pathlib.Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)

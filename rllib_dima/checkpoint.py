"""Checkpoints that can be trusted: written beside the one they replace, and checked before they are read.

A checkpoint is what RLlib writes, and a manifest, written last, with the format version and every file's size and
checksum. A folder without a manifest is no complete checkpoint.

    <checkpoint>           whole, whatever happens during the next save
    <checkpoint>.incoming  being written
    <checkpoint>.previous  the one that was replaced; exists only between two renames, or after a crash there
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import pyarrow.fs

FORMAT_VERSION = 1
MANIFEST_FILE_NAME = "dima_checkpoint.json"
CLASS_FILE_NAME = "class_and_ctor_args.pkl"  # RLlib's, in every checkpoint of every algorithm
_CHUNK_BYTES = 1 << 22


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not one that DIMA can read."""


def split_uri(path: str | pathlib.Path, filesystem: pyarrow.fs.FileSystem | None) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system that a path or URI names, unless one is given, and the path on it."""
    if filesystem is not None:
        return filesystem, pathlib.PurePosixPath(path).as_posix()
    if "://" in str(path):
        return pyarrow.fs.FileSystem.from_uri(str(path))
    return pyarrow.fs.LocalFileSystem(), pathlib.Path(path).expanduser().absolute().as_posix()


@contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write a local checkpoint into; only when that has succeeded, it takes the place of `path`.

    Files at `path` that belong to no checkpoint are kept. An empty folder at `path` is written into directly. A link
    at `path` stays, and the folder that it names is replaced.

    Raises:
        CheckpointError: no folder can be at `path`, or writing failed; what was at `path` is still there.
    """
    path = pathlib.Path(os.path.realpath(path)) if path.is_symlink() else path
    _refuse_other_than_folders(path)
    _finish_interrupted(path)
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    staging = path if is_empty_folder else _beside(path, "incoming")
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


def _refuse_other_than_folders(path: pathlib.Path) -> None:
    """Raises before anything is moved if a file, or anything else that is no folder, is in the way of a checkpoint."""
    for place in (path, _beside(path, "incoming"), _beside(path, "previous")):
        existing = next(part for part in (place, *place.parents) if os.path.lexists(part))
        if not existing.is_dir():
            what = "a file" if existing.is_file() else "neither a file nor a folder"
            raise CheckpointError(
                f"The checkpoint cannot be saved to {path}: {existing} is {what}, but a checkpoint needs a folder "
                "there. Nothing was changed. Give the path of a folder, existing or not, or move that away."
            )


def _reason(error: Exception) -> str:
    """What went wrong; torch hides the operating system's reason behind positions in a stream."""
    if any(part in str(error) for part in ("inline_container", "PytorchStreamWriter")):
        return f"torch could not write a whole file, as happens when a disk or a quota is full ({error})"
    return str(error)


def write_manifest(folder: str, filesystem: pyarrow.fs.FileSystem) -> None:
    """Completes a checkpoint with the list of its files.

    Args:
        folder: the checkpoint, on `filesystem`.
        filesystem: where it is.
    """
    manifest = {
        "algorithm": "DIMA",
        "format_version": FORMAT_VERSION,
        "versions": {name: version(name) for name in ("rllib_dima", "ray", "torch")},
        "files": {name: _fingerprint(folder, name, filesystem) for name in _files(folder, filesystem)},
    }
    with filesystem.open_output_stream(f"{folder}/{MANIFEST_FILE_NAME}") as file:
        file.write(json.dumps(manifest, indent=1).encode())


def verify(path: str | pathlib.Path, filesystem: pyarrow.fs.FileSystem | None = None, only: str = "") -> None:
    """Checks that a folder is a whole checkpoint of DIMA in a format that this version reads.

    Args:
        path: the checkpoint, a path or URI.
        filesystem: where it is, if `path` does not tell.
        only: checks files below this part of the checkpoint, as in "learner_group/learner/rl_module"; all by default.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, of another algorithm or of a newer format.
    """
    filesystem, folder = split_uri(path, filesystem)
    if filesystem.get_file_info(folder).type != pyarrow.fs.FileType.Directory:
        raise CheckpointError(f"There is no checkpoint folder {path}.{_hint_at_leftovers(pathlib.Path(folder))}")
    manifest = _read_manifest(folder, filesystem)
    if manifest["format_version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {manifest['format_version']}, written by rllib_dima "
            f"{manifest['versions']['rllib_dima']}; this version reads formats up to {FORMAT_VERSION}. "
            "Install that version or a newer one."
        )
    checked = {name: expected for name, expected in manifest["files"].items() if name.startswith(only)}
    for name, expected in checked.items():
        found = _fingerprint(folder, name, filesystem)
        if found != expected:
            what = "is missing" if found is None else f"is damaged ({found}, expected {expected})"
            raise CheckpointError(f"The checkpoint {path} is not whole: {name} {what}. Restore another checkpoint.")


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether a local folder has the manifest of a complete checkpoint of DIMA."""
    return (path / MANIFEST_FILE_NAME).is_file()


def _read_manifest(folder: str, filesystem: pyarrow.fs.FileSystem) -> dict[str, Any]:
    file = f"{folder}/{MANIFEST_FILE_NAME}"
    if filesystem.get_file_info(file).type != pyarrow.fs.FileType.File:
        raise CheckpointError(_why_no_manifest(folder, filesystem))
    try:
        with filesystem.open_input_stream(file) as stream:
            manifest = json.loads(stream.read())
        return {key: manifest[key] for key in ("format_version", "versions", "files")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged ({error!r}). Restore another checkpoint.") from error


def _why_no_manifest(folder: str, filesystem: pyarrow.fs.FileSystem) -> str:
    file = f"{folder}/{CLASS_FILE_NAME}"
    if filesystem.get_file_info(file).type != pyarrow.fs.FileType.File:
        return (
            f"{folder} is no checkpoint of DIMA: it has neither {MANIFEST_FILE_NAME} nor {CLASS_FILE_NAME}. Give the "
            "folder that save_to_path() returned, or one of Tune's: <trial>/checkpoint_000000 and so on."
        )
    try:
        with filesystem.open_input_stream(file) as stream:
            writer = pickle.load(stream)["class"].__name__
    except Exception:  # whatever a damaged pickle raises
        writer = None
    if writer not in (None, "DIMA"):
        return (
            f"{folder} is a checkpoint of {writer}, not of DIMA: load it with ray.rllib's {writer}.from_checkpoint()."
        )
    return (
        f"The checkpoint {folder} is incomplete: it has no {MANIFEST_FILE_NAME}, which is written last. Saving it was "
        f"interrupted. Restore an earlier checkpoint.{_hint_at_leftovers(pathlib.Path(folder))}"
    )


def _hint_at_leftovers(path: pathlib.Path) -> str:
    previous = _beside(path, "previous")
    return f" Replacing it was interrupted, and the one before is whole: {previous}." if previous.is_dir() else ""


def _files(folder: str, filesystem: pyarrow.fs.FileSystem) -> list[str]:
    """All files below `folder` by their relative path, without the manifest."""
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, recursive=True))
    names = [pathlib.PurePosixPath(info.path) for info in found if info.type == pyarrow.fs.FileType.File]
    names = sorted(name.relative_to(pathlib.PurePosixPath(folder)).as_posix() for name in names)
    return [name for name in names if name != MANIFEST_FILE_NAME]


def _fingerprint(folder: str, name: str, filesystem: pyarrow.fs.FileSystem) -> dict[str, int] | None:
    """Size and, on a local disk, checksum of a file; None if it is missing."""
    file = f"{folder}/{name}"
    info = filesystem.get_file_info(file)
    if info.type != pyarrow.fs.FileType.File:
        return None
    if not isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        return {"bytes": info.size}
    checksum = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return {"bytes": info.size, "crc32": checksum}


def _beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    return path.with_name(f"{path.name}.{suffix}")


def _finish_interrupted(path: pathlib.Path) -> None:
    """Cleans up after a save that was killed: what was replaced comes back, unless it had been replaced already."""
    shutil.rmtree(_beside(path, "incoming"), ignore_errors=True)
    previous = _beside(path, "previous")
    if previous.is_dir():
        if path.exists():
            _keep_other_files(previous, path)
            shutil.rmtree(previous)
        else:
            previous.rename(path)


def _swap(staging: pathlib.Path, path: pathlib.Path) -> None:
    previous = _beside(path, "previous")
    if path.exists():
        path.rename(previous)
    staging.rename(path)


def _keep_other_files(previous: pathlib.Path, path: pathlib.Path) -> None:
    """Moves what the user had put beside the replaced checkpoint's own files."""
    try:
        own = {pathlib.PurePosixPath(name).parts[0] for name in _read_manifest(str(previous), _LOCAL)["files"]}
    except CheckpointError:
        own = set()
    for entry in previous.iterdir():
        if entry.name not in own | {MANIFEST_FILE_NAME} and not (path / entry.name).exists():
            entry.rename(path / entry.name)


def _remove_contents(folder: pathlib.Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


_LOCAL = pyarrow.fs.LocalFileSystem()

"""Where a checkpoint or an exported policy is: saving, restoring and exporting all read paths this way."""

from __future__ import annotations

import os
import pathlib
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyarrow.fs

from rllib_dima.checkpoint.errors import CheckpointError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # also as pathlib shortens "file:///run"; "C:/" is a drive


class Place(NamedTuple):
    """A path and the file system that it is on."""

    filesystem: pyarrow.fs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disk."""
        return isinstance(self.filesystem, pyarrow.fs.LocalFileSystem)


def locate(place: Any, filesystem: pyarrow.fs.FileSystem | None = None) -> Place:
    """Where `place` is: absolute if on the local disk, and without a slash at its end.

    Args:
        place: a path as text or of pathlib, also relative or with ~; a URI such as file:///run or s3://bucket/run; a
            `Checkpoint` of Tune's; or what holds one: a `Result` of Tune's, and what `save()` returned.
        filesystem: of pyarrow, on which `place` is a path; the local disk by default.

    Raises:
        CheckpointError: it is none of these, empty, or a URI that pyarrow cannot read.
    """
    place = getattr(place, "checkpoint", place)
    if hasattr(place, "filesystem"):
        place, filesystem = place.path, place.filesystem
    path = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not path or not isinstance(path, str):
        raise CheckpointError(f"{place!r} is no place: give a path, a URI or a Checkpoint of Tune's.")
    if filesystem is None:
        filesystem, path = _from_uri(path) if _URI.match(path) else (pyarrow.fs.LocalFileSystem(), path)
    local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
    return Place(filesystem, _absolute(path) if local else pathlib.PurePosixPath(path).as_posix())


@contextmanager
def on_local_disk(place: Place, parts: Collection[str] = ()) -> Iterator[pathlib.Path]:
    """The folder at a place, or a temporary copy of it if that is not on the local disk.

    Args:
        place: the folder.
        parts: files and folders in it that are copied, if they are there; everything by default.

    Raises:
        CheckpointError: there is no such folder on the other file system.
    """
    if place.is_local:
        yield pathlib.Path(place.path)
        return
    filesystem, path = place
    if filesystem.get_file_info(path).type != pyarrow.fs.FileType.Directory:
        raise CheckpointError(f"There is no checkpoint folder {path} on the {filesystem.type_name} file system.")
    with tempfile.TemporaryDirectory() as copy:
        for part in parts or ("",):
            source, target = (pathlib.PurePosixPath(root, part).as_posix() for root in (path, copy))
            kind = filesystem.get_file_info(source).type
            if kind != pyarrow.fs.FileType.NotFound:
                folder = pathlib.Path(target) if kind == pyarrow.fs.FileType.Directory else pathlib.Path(target).parent
                folder.mkdir(parents=True, exist_ok=True)
                pyarrow.fs.copy_files(source, target, source_filesystem=filesystem)
        yield pathlib.Path(copy)


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """The path with `suffix` added to its name."""
    return path.with_name(f"{path.name}.{suffix}")


def _from_uri(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    try:
        return pyarrow.fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{uri} cannot be read as a URI: {error}") from error


def _absolute(path: str) -> str:
    local = pathlib.Path(path).expanduser()
    return (local.resolve() if ".." in local.parts else local.absolute()).as_posix()

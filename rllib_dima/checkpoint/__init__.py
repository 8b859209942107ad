"""Checkpoints that can be trusted: written beside the one they replace, and checked before they are read.

A checkpoint is what RLlib writes, and a manifest, written last, with the format version and every file's size and
checksum. A folder without a manifest is no complete checkpoint. Checking reads nothing that could run code: neither
the manifest nor the policy's own files are pickles, all others are.

Everything happens on the local disk; checkpoints on other file systems are copies of a folder there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow.fs

from rllib_dima.checkpoint.errors import CheckpointError
from rllib_dima.checkpoint.manifest import CLASS_FILE_NAME, MANIFEST_FILE_NAME, check, is_checkpoint, write_manifest
from rllib_dima.checkpoint.places import Place, locate, on_local_disk
from rllib_dima.checkpoint.replacement import replacing

__all__ = [
    "CLASS_FILE_NAME",
    "MANIFEST_FILE_NAME",
    "CheckpointError",
    "Place",
    "is_checkpoint",
    "locate",
    "on_local_disk",
    "opened",
    "replacing",
    "verify",
    "write_manifest",
]


@contextmanager
def opened(
    checkpoint: Any, filesystem: pyarrow.fs.FileSystem | None = None, only: str = "", algorithm: str | None = None
) -> Iterator[pathlib.Path]:
    """The folder of a whole checkpoint on the local disk, or a copy of one that is elsewhere.

    Args:
        checkpoint: where it is, as `locate` reads it.
        filesystem: on which file system, if `checkpoint` does not tell.
        only: checks, and copies, this file or folder of it alone, as in "learner_group/learner/rl_module".
        algorithm: whose it must be; that of any algorithm here by default.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, of another algorithm or of another format.
    """
    place = locate(checkpoint, filesystem)
    with on_local_disk(place, (MANIFEST_FILE_NAME, only) if only else ()) as folder:
        check(folder, place.path, only, algorithm)
        yield folder


def verify(
    checkpoint: Any, filesystem: pyarrow.fs.FileSystem | None = None, only: str = "", algorithm: str | None = None
) -> None:
    """Checks that a folder is a whole checkpoint; arguments and errors as of `opened`."""
    with opened(checkpoint, filesystem, only, algorithm):
        pass

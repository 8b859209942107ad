"""The manifest: a list of a checkpoint's files, which tells a complete checkpoint from anything else."""

from __future__ import annotations

import pathlib
import pickletools
import zlib
from importlib.metadata import version
from typing import Annotated

from pydantic import AfterValidator, BaseModel, NonNegativeInt, PositiveInt, ValidationError

from rllib_dima.checkpoint.errors import CheckpointError
from rllib_dima.checkpoint.places import beside

FORMAT_VERSION = 3
MANIFEST_FILE_NAME = "dima_checkpoint.json"
CLASS_FILE_NAME = "class_and_ctor_args.pkl"  # RLlib's, in every checkpoint of every algorithm
READ_BY_RLLIB = frozenset(  # top-level names; anything else beside them is the user's or Tune's
    {
        CLASS_FILE_NAME,
        "rllib_checkpoint.json",
        "algorithm_state.pkl",
        "algorithm_state.msgpack",
        "learner_group",
        "env_runner",
        "eval_env_runner",
        "env_to_module_connector",
        "module_to_env_connector",
    }
)
_CHUNK_BYTES = 1 << 22


def _within(name: str) -> str:
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name != path.as_posix() or not name.isprintable():
        raise ValueError(f"{name!r} is no path within the checkpoint")
    return name


class Fingerprint(BaseModel, strict=True, extra="forbid"):
    """What identifies a file's content."""

    bytes: NonNegativeInt
    crc32: NonNegativeInt


class Header(BaseModel, strict=True):
    """What the manifests of all formats begin with."""

    format_version: PositiveInt
    versions: dict[str, str]


class Manifest(Header, extra="forbid"):
    """A whole manifest, in the present format."""

    algorithm: str
    files: dict[Annotated[str, AfterValidator(_within)], Fingerprint]


def write_manifest(folder: pathlib.Path, algorithm: str) -> None:
    """Completes an algorithm's checkpoint on the local disk with the list of its files."""
    manifest = Manifest(
        algorithm=algorithm,
        format_version=FORMAT_VERSION,
        versions={name: version(name) for name in ("rllib_dima", "ray", "torch")},
        files={name: _fingerprint(folder / name) for name in _files(folder)},  # pyright: ignore[reportArgumentType]: they exist
    )
    (folder / MANIFEST_FILE_NAME).write_text(manifest.model_dump_json(indent=1))


def check(folder: pathlib.Path, name: str, only: str = "", algorithm: str | None = None) -> None:
    """Raises CheckpointError unless a local folder is a whole checkpoint of ours in the format of this version.

    Every file that RLlib would read must be listed and as it was written.

    Args:
        folder: the checkpoint, or a copy of it.
        name: what it is called in errors.
        only: the file or folder of it to check; all by default.
        algorithm: whose it must be; that of any algorithm here by default.
    """
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder {name}.{_hint_at_previous(folder)}")
    listed = read_manifest(folder, name, algorithm).files
    present = {file for file in _files(folder) if pathlib.PurePosixPath(file).parts[0] in READ_BY_RLLIB}
    for file in sorted(present | set(listed)):
        if pathlib.PurePosixPath(file).is_relative_to(only):
            found = _fingerprint(folder / file)
            if found != listed.get(file):
                raise CheckpointError(
                    f"The checkpoint {name} is not whole: {file} {_what_is_wrong(found, listed.get(file))}. "
                    "Restore another checkpoint."
                )


def is_checkpoint(path: pathlib.Path) -> bool:
    """Whether a local folder has the manifest of a complete checkpoint of ours."""
    return (path / MANIFEST_FILE_NAME).is_file()


def read_manifest(folder: pathlib.Path, name: str, algorithm: str | None = None) -> Manifest:
    """The manifest of a local folder; raises CheckpointError if it is not one that this version reads."""
    if not is_checkpoint(folder):
        raise CheckpointError(_why_no_manifest(folder, name, algorithm))
    text = (folder / MANIFEST_FILE_NAME).read_bytes()
    try:
        header = Header.model_validate_json(text)
        if header.format_version != FORMAT_VERSION:
            raise CheckpointError(_other_format(name, header))
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        causes = "; ".join(f"{'/'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        raise CheckpointError(
            f"{name}/{MANIFEST_FILE_NAME} is damaged ({causes}). Restore another checkpoint."
        ) from None
    if algorithm not in (None, manifest.algorithm):
        raise CheckpointError(_foreign(name, manifest.algorithm, algorithm))
    return manifest


def _other_format(name: str, header: Header) -> str:
    writer = header.versions.get("rllib_dima", "?")
    return (
        f"{name} has checkpoint format {header.format_version}, written by rllib_dima {writer}; this version reads "
        f"format {FORMAT_VERSION}. Use it with the version that wrote it, or train anew."
    )


def _foreign(name: str, writer: str, algorithm: str | None) -> str:
    whose = algorithm or "rllib_dima"
    return f"{name} is a checkpoint of {writer}, not of {whose}: load it with {writer}.from_checkpoint()."


def _what_is_wrong(found: Fingerprint | None, expected: Fingerprint | None) -> str:
    if found is None:
        return "is missing"
    return f"is not in {MANIFEST_FILE_NAME}" if expected is None else f"is damaged ({found}; expected {expected})"


def _why_no_manifest(folder: pathlib.Path, name: str, algorithm: str | None) -> str:
    file, whose = folder / CLASS_FILE_NAME, algorithm or "rllib_dima"
    if not file.is_file():
        return (
            f"{name} is no checkpoint of {whose}: it has neither {MANIFEST_FILE_NAME} nor {CLASS_FILE_NAME}. Give "
            "the folder that save_to_path() returned, or one of Tune's: <trial>/checkpoint_000000 and so on."
        )
    writer = class_name(file)
    if writer is not None:
        return _foreign(name, writer, algorithm)
    return (
        f"The checkpoint {name} is incomplete: it has no {MANIFEST_FILE_NAME}, which is written last. Saving it was "
        f"interrupted. Restore an earlier checkpoint.{_hint_at_previous(folder)}"
    )


def class_name(file: pathlib.Path) -> str | None:
    """The class of RLlib's that wrote a checkpoint, read without unpickling; None if it was none of RLlib's."""
    try:
        strings = [value for _, value, _ in pickletools.genops(file.read_bytes()) if isinstance(value, str)]
        _, module, name = strings[:3]  # "class", where it is defined, what it is called
    except ValueError:  # damaged, or shorter
        return None
    return name if module.startswith("ray.") else None


def _hint_at_previous(folder: pathlib.Path) -> str:
    previous = beside(folder, "previous")
    return f" Replacing it was interrupted, and the one before it is whole: {previous}." if previous.is_dir() else ""


def _files(folder: pathlib.Path) -> list[str]:
    """All files below `folder` by their relative path, without the manifest."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if name != MANIFEST_FILE_NAME]


def _fingerprint(file: pathlib.Path) -> Fingerprint | None:
    """Size and checksum of a file; None if it is missing."""
    if not file.is_file():
        return None
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return Fingerprint(bytes=file.stat().st_size, crc32=checksum)

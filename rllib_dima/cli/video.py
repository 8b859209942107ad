"""Video files, and episodes in them or in a window, frame by frame, through the callbacks of an env runner."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rllib_dima.cli.errors import RunError, UsageError, failing_as

FORMATS = (".mp4", ".gif", ".mov", ".mkv", ".webm", ".avi")
DEFAULT_FRAMES_PER_SECOND = 30  # of environments that do not tell theirs
FRAMES_PER_LINE = 100  # drawing them may take a second each


def show(env: Any, **kwargs: Any) -> None:
    """Draws a runner's first environment in its own window; a callback for every step."""
    env.unwrapped.envs[0].render()


def require_display() -> None:
    """Refuses to open a window where none can be; MuJoCo's viewer would end the process."""
    import glfw  # of MuJoCo's

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not glfw.init():
            raise UsageError("--render needs a display, and there is none. To write a video instead: --out video.mp4.")


def render_without_display() -> None:
    """Lets MuJoCo draw without a display, through EGL, unless the user chose otherwise; before MuJoCo is imported."""
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_display:
        os.environ.setdefault("MUJOCO_GL", "egl")


@contextmanager
def explaining_graphics() -> Iterator[None]:
    """If something fails on a machine on which MuJoCo cannot draw, says what to install.

    Raises:
        UsageError: it failed, and MuJoCo cannot draw.
    """
    try:
        yield
    except Exception as error:
        fault = _graphics_fault()
        if fault is None:
            raise
        raise UsageError(
            f"MuJoCo cannot draw on this machine ({type(fault).__name__}: {fault}), so there are no pictures for a "
            "video. Without a display it needs EGL (on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri) or "
            "OSMesa (apt-get install libosmesa6, and MUJOCO_GL=osmesa in the environment)."
        ) from error


def _graphics_fault() -> Exception | None:
    """What goes wrong when MuJoCo is to draw, if anything does."""
    try:
        import mujoco  # which fails itself without the library that MUJOCO_GL names

        mujoco.GLContext(8, 8).free()
    except Exception as error:  # whatever the graphics raise
        return error
    return None


@contextmanager
def film(file: Path, num_episodes: int) -> Iterator[Callable[..., None]]:
    """Yields a callback for every step that adds a frame of the first episodes to a video file.

    Raises:
        UsageError: imageio is not installed, or the file has an ending that is none of `FORMATS` or cannot be written.
        RunError: an environment draws no picture.
    """
    check_can_write(file)
    writers: list[Any] = []
    num_frames: dict[str, int] = {}  # by episode

    def on_frame(env: Any, episode: Any, **kwargs: Any) -> None:
        if episode.id_ not in num_frames and len(num_frames) == num_episodes:
            return
        first = env.unwrapped.envs[0]
        picture = first.render()
        if picture is None:
            raise RunError(f"{first.unwrapped} draws no picture: its render() returned None in render_mode rgb_array.")
        if not writers:
            writers.append(open_writer(file, first.metadata.get("render_fps") or DEFAULT_FRAMES_PER_SECOND))
        writers[0].append_data(picture)
        number = num_frames[episode.id_] = num_frames.get(episode.id_, 0) + 1
        if number % FRAMES_PER_LINE == 0:
            print(f"episode {len(num_frames):3d}   filmed {number} frames", flush=True)

    try:
        yield on_frame
    finally:
        for writer in writers:
            writer.close()
    print(f"video: {file}")


def open_writer(file: Path, frames_per_second: float) -> Any:
    """Imageio's writer of a file that `check_can_write` accepts."""
    import imageio.v2

    per_frame = {"duration": 1000 / frames_per_second, "loop": 0}  # milliseconds
    is_gif = file.suffix.lower() == ".gif"
    options = per_frame if is_gif else {"fps": frames_per_second, "macro_block_size": 2}
    return imageio.v2.get_writer(file, **options)


def check_can_write(file: Path) -> None:
    """Refuses a file that cannot be written as a video, before any episode runs.

    Raises:
        UsageError: as of `film`.
    """
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"The video {file} must end in one of {', '.join(FORMATS)}.")
    with failing_as(UsageError, "Videos need more: pip install imageio imageio-ffmpeg. ", of=ModuleNotFoundError):
        import imageio  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    with failing_as(UsageError, f"The video {file} cannot be written: ", of=OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError("there is no permission")

"""Episodes as a video file or in a window, frame by frame, through the callbacks of an env runner."""

from __future__ import annotations

import os
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


@contextmanager
def film(file: Path, num_episodes: int) -> Iterator[Callable[..., None]]:
    """Yields a callback for every step that adds a frame of the first episodes to a video file.

    Raises:
        UsageError: imageio is not installed, or the file has an ending that is none of `FORMATS` or cannot be written.
        RunError: an environment draws no picture.
    """
    _check_can_write(file)
    import imageio.v2

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
            fps = first.metadata.get("render_fps") or DEFAULT_FRAMES_PER_SECOND
            per_frame = {"duration": 1000 / fps, "loop": 0}  # milliseconds
            options = per_frame if file.suffix.lower() == ".gif" else {"fps": fps, "macro_block_size": 2}
            writers.append(imageio.v2.get_writer(file, **options))
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


def _check_can_write(file: Path) -> None:
    """Raises before any episode runs."""
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"The video {file} must end in one of {', '.join(FORMATS)}.")
    with failing_as(UsageError, "Videos need more: pip install imageio imageio-ffmpeg. ", of=ModuleNotFoundError):
        import imageio  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    with failing_as(UsageError, f"The video {file} cannot be written: ", of=OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise PermissionError("there is no permission")

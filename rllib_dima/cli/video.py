"""Episodes as a video file or in a window, frame by frame, through the callbacks of an env runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rllib_dima.cli.errors import RunError, UsageError

FORMATS = (".mp4", ".gif", ".mov", ".mkv", ".webm", ".avi")
DEFAULT_FRAMES_PER_SECOND = 30  # of environments that do not tell theirs
OnFrame = Callable[..., None]


def show(env: Any, **kwargs: Any) -> None:
    """Draws an environment in its own window; a callback for every step.

    Args:
        env: a runner's vector of environments, whose first is shown.
        **kwargs: what else RLlib passes to callbacks.
    """
    env.unwrapped.envs[0].render()


@contextmanager
def film(file: Path) -> Iterator[OnFrame]:
    """A callback for every step that adds a frame to a video file.

    Args:
        file: to write; its ending is one of `FORMATS`.

    Raises:
        UsageError: imageio is not installed, or the file has another ending.
        RunError: an environment draws no picture.
    """
    _check_can_write(file)
    writers: list[Any] = []

    def on_frame(env: Any, **kwargs: Any) -> None:
        first = env.unwrapped.envs[0]
        picture = first.render()
        if picture is None:
            raise RunError(
                f"{first.unwrapped} draws no picture: its render() returned None. It must honour "
                'env_config["render_mode"] == "rgb_array".'
            )
        if not writers:
            writers.append(_open(file, first.metadata.get("render_fps") or DEFAULT_FRAMES_PER_SECOND))
        writers[0].append_data(picture)

    try:
        yield on_frame
    finally:
        for writer in writers:
            writer.close()
    print(f"video: {file}")


def _open(file: Path, frames_per_second: float) -> Any:
    import imageio.v2

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".gif":
        return imageio.v2.get_writer(file, duration=1000 / frames_per_second, loop=0)  # milliseconds per frame
    return imageio.v2.get_writer(file, fps=frames_per_second, macro_block_size=2)


def _check_can_write(file: Path) -> None:
    """Raises before an episode is run, not after."""
    if file.suffix.lower() not in FORMATS:
        raise UsageError(f"The video {file} must end in one of {', '.join(FORMATS)}.")
    try:
        import imageio  # noqa: F401
        import imageio_ffmpeg  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"Videos need {error.name}: pip install imageio imageio-ffmpeg.") from None

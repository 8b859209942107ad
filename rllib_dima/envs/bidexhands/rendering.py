"""Pictures of a simulation, also on machines without a display."""

from __future__ import annotations

import importlib
import os
import sys

import mujoco
import numpy as np

from rllib_dima.envs.bidexhands.scene import CAMERA, IMAGE_HEIGHT, IMAGE_WIDTH


class Camera:
    """Renders the scene of a model from its camera.

    Args:
        model: with a camera named `scene.CAMERA`.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        _use_egl_without_display()
        self._renderer = mujoco.Renderer(model, IMAGE_HEIGHT, IMAGE_WIDTH)

    def image(self, data: mujoco.MjData) -> np.ndarray:
        """(IMAGE_HEIGHT, IMAGE_WIDTH, 3) uint8."""
        self._renderer.update_scene(data, CAMERA)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the graphics context."""
        self._renderer.close()


def _use_egl_without_display() -> None:
    """Lets MuJoCo render without a display: through EGL, unless the user has chosen otherwise with MUJOCO_GL.

    MuJoCo chooses when it is first imported, perhaps before MUJOCO_GL was set, so it must choose again.
    """
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not has_display:
        os.environ.setdefault("MUJOCO_GL", "egl")
        importlib.reload(mujoco.gl_context)

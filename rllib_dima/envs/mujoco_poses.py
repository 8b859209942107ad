"""A MuJoCo model put into a pose to be looked at: nothing moves, and no time passes."""

from __future__ import annotations

import mujoco
import numpy as np


def pose(model: mujoco.MjModel, data: mujoco.MjData, qpos: np.ndarray) -> None:
    """Puts bodies, cameras, lights and tendons where generalised positions have them.

    Contacts and forces are left as they were: a pose that was imagined may be one that no simulation survives.

    Args:
        model: of what is shown.
        data: to be changed.
        qpos: (nq,), its quaternions of any length.
    """
    data.qpos[:] = qpos
    mujoco.mj_normalizeQuat(model, data.qpos)
    for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_tendon):
        stage(model, data)

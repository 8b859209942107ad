"""The poses of hands and object out of global states.

Of the entries of a state (see `observations.py`) these determine the pose:

    hands    joint positions; the palm point and the positions of the fingertips' links, which together say where the
             base is. Its own position is in no entry, and its roll, pitch and yaw jump (the doors' hands start at a
             pitch of 90 degrees), so they are not used
    object   position and rotation of its root, if it is free, and the points that its joints move

The turn of the bottle's cap is in no entry and stays as it was at the start.
"""

from __future__ import annotations

import mujoco
import numpy as np

from rllib_dima.envs.bidexhands.observations import JOINTS_SEEN, LINKS_SEEN, PALM_SEEN, joint_scale
from rllib_dima.envs.bidexhands.scene import fingertip_bodies, point_sites
from rllib_dima.envs.bidexhands.simulation import Simulation
from rllib_dima.envs.bidexhands.tasks import HAND_OBSERVATION_SIZE
from rllib_dima.envs.mujoco_poses import pose

_HANDS = 62  # generalised positions of both: 7 of the free base and 24 joints each
_AT_ORIGIN = np.array([0, 0, 0, 1, 0, 0, 0])
_WXYZ = np.array([3, 0, 1, 2])
_DOORS = {"object/left_hinge": 0, "object/right_hinge": 1}
_MEASURED = {
    "bottle_cap": {"object/slide": 2},
    "pen": {"object/slide": 0},
    "door_open_inward": _DOORS,
    "door_open_outward": _DOORS,
}
"""Per task the joints whose positions are seen by the place of one of the object's points, and which."""


class Poses:
    """A scene that takes the poses of states, apart from the simulation's own.

    Args:
        simulation: whose scene it is.

    Attributes:
        data: of MuJoCo, in the last pose taken.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._model = model = simulation.model
        self.data = mujoco.MjData(model)
        self._scale, self._offset = joint_scale(model)
        self._links, sites = fingertip_bodies(model).reshape(2, 5), point_sites(model)
        self._palms, self._points = sites[10:12], sites[12:]
        self._joints = [(model.joint(name).id, point) for name, point in _MEASURED[simulation.task.name].items()]
        self._is_free = simulation.has_free_object

    def take(self, state: np.ndarray, qpos: np.ndarray) -> None:
        """Takes the pose of a state.

        Args:
            state: (S,).
            qpos: (nq,) generalised positions, for what the state leaves out.
        """
        state, qpos = np.asarray(state, np.float64), np.array(qpos, np.float64)
        hands = state[: 2 * HAND_OBSERVATION_SIZE].reshape(2, HAND_OBSERVATION_SIZE)
        bases = qpos[:_HANDS].reshape(2, -1)
        bases[:, :7], bases[:, 7:] = _AT_ORIGIN, (hands[:, JOINTS_SEEN] - self._offset) / self._scale
        self._start_object(state[2 * HAND_OBSERVATION_SIZE :], qpos)
        pose(self._model, self.data, qpos)
        for base, entries, links, palm in zip(bases, hands, self._links, self._palms, strict=True):
            own = np.vstack([self.data.xpos[links], self.data.site_xpos[palm]])
            base[:3], base[3:7] = best_fit(own, np.vstack([entries[LINKS_SEEN], entries[PALM_SEEN]]))
        points = state[2 * HAND_OBSERVATION_SIZE + 13 :].reshape(-1, 3)
        for joint, point in self._joints:
            qpos[self._model.jnt_qposadr[joint]] = self._moved(joint, self._points[point], points[point])
        pose(self._model, self.data, qpos)

    def _start_object(self, entries: np.ndarray, qpos: np.ndarray) -> None:
        """Its root where it is seen, and its joints at zero."""
        if self._is_free:
            qpos[_HANDS : _HANDS + 3], qpos[_HANDS + 3 : _HANDS + 7] = entries[:3], entries[3:7][_WXYZ]
        for joint, _ in self._joints:
            qpos[self._model.jnt_qposadr[joint]] = 0.0

    def _moved(self, joint: int, site: int, place: np.ndarray) -> float:
        """How far a joint that is at zero has to move for a site to come to a place, or as near as it can."""
        axis, before = self.data.xaxis[joint], self.data.site_xpos[site]
        if self._model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
            return float(axis @ (place - before))
        first, second = before - self.data.xanchor[joint], place - self.data.xanchor[joint]
        across = first @ second - (axis @ first) * (axis @ second)
        return float(np.arctan2(axis @ np.cross(first, second), across))


def best_fit(own: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rigid motion that brings points nearest to others in the sum of squares (Kabsch 1976).

    Args:
        own: (P, 3) not all on a line.
        seen: (P, 3) where they are to be.

    Returns:
        Translation (3,) and rotation (4,) as w, x, y, z.
    """
    middle, target = own.mean(axis=0), seen.mean(axis=0)
    left, _, right = np.linalg.svd((seen - target).T @ (own - middle))
    flip = np.diag([1.0, 1.0, np.linalg.det(left @ right)])  # no mirror images
    rotation, quaternion = left @ flip @ right, np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(-1))
    return target - rotation @ middle, quaternion

"""The global state: what both hands and the object are doing, in the benchmark's order and scales.

    right hand 199 | left hand 199 | object 22 (bottle_cap) or 19

One hand:

      0- 23  joint positions, the range of each mapped to [-1, 1]
     24- 47  joint velocities x 0.2
     48- 71  joint forces x 10
     72-136  last links of the 5 fingers: position 3, quaternion xyzw 4, linear velocity 3, angular velocity 3
    137-166  contact force 3 and torque 3 on each of these links, in its own frame, x 10
    167-169  palm point
    170-172  roll, pitch, yaw of the base, each in [0, 2 pi)
    173-198  the hand's last action

Object: root position 3, quaternion xyzw 4, linear velocity 3, angular velocity 3 x 0.2, then its points of 3 entries.
All entries are clipped to [-5, 5].
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from rllib_dima.envs.bidexhands.objects import quaternion
from rllib_dima.envs.bidexhands.scene import HANDS, fingertip_bodies, hand_name, point_sites
from rllib_dima.envs.bidexhands.simulation import Simulation, cross_products
from rllib_dima.envs.bidexhands.tasks import HAND_OBSERVATION_SIZE, JOINTS, Points

LIMIT = 5.0
VELOCITY_SCALE = 0.2
FORCE_SCALE = 10.0
# In the 199 entries of a hand:
JOINTS_SEEN, PALM_SEEN = slice(0, 24), slice(167, 170)
LINKS_SEEN = 72 + 13 * np.arange(5)[:, None] + np.arange(3)  # (5, 3) positions of the fingers' last links
_XYZW = np.array([1, 2, 3, 0])  # MuJoCo's order is w, x, y, z


class Observer:
    """Reads states and points from a simulation.

    Args:
        simulation: of any task.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation, self._data = simulation, simulation.data
        model = simulation.model
        self._state = np.zeros(simulation.task.state_size)
        self._hands = self._state[: 2 * HAND_OBSERVATION_SIZE].reshape(2, HAND_OBSERVATION_SIZE)
        self._object = self._state[2 * HAND_OBSERVATION_SIZE :]
        self._find_joints(model)
        self._find_links(model)
        self._root_turns = self._find_root_turns()
        self._sites = point_sites(model)
        self._object_root = model.body("object/root").id

    def state(self, actions: np.ndarray) -> np.ndarray:
        """(S,) float64, a view that the next call overwrites: the global state, not yet clipped.

        Args:
            actions: (2, 26) last actions of the hands.
        """
        self._read_joints()
        self._read_links()
        np.multiply(self._simulation.fingertip_wrenches.reshape(2, 30), FORCE_SCALE, out=self._hands[:, 137:167])
        self._hands[:, 167:170] = self._data.site_xpos[self._sites[10:12]]
        for hand, turn in enumerate(self._root_turns):
            self._hands[hand, 170:173] = euler_angles(*self._root_rotation(hand, turn))
        self._hands[:, 173:] = actions
        self._read_object()
        return self._state

    def points(self) -> Points:
        """The points that the reward depends on."""
        points = self._data.site_xpos[self._sites].tolist()
        return Points(points[:5], points[5:10], points[10], points[11], points[12:])

    def _find_joints(self, model: mujoco.MjModel) -> None:
        """Views of both hands' joints, and what maps their ranges to [-1, 1]."""
        self._positions = self._data.qpos[:62].reshape(2, 31)[:, 7:]
        self._velocities = self._data.qvel[:60].reshape(2, 30)[:, 6:]
        self._joint_scale, self._joint_offset = joint_scale(model)

    def _find_links(self, model: mujoco.MjModel) -> None:
        self._links = fingertip_bodies(model)
        self._link_block = np.zeros((10, 13))
        self._link_roots = model.body_rootid[self._links]
        at_center = self._simulation.settings.link_velocity == "center_of_mass"
        self._velocity_points = self._data.xipos if at_center else self._data.xpos

    def _find_root_turns(self) -> list[np.ndarray | None]:
        """For each hand the constant rotation between what is observed and the rotation of its first link."""
        simulation = self._simulation
        if simulation.settings.root_rotation == "link":
            return [None, None]
        turns = []
        for hand, start in zip(HANDS, (simulation.task.right_start, simulation.task.left_start), strict=True):
            link = simulation.model.body(hand_name(hand, "hand mount")).quat
            inverse, turn = np.zeros(4), np.zeros(4)
            mujoco.mju_negQuat(inverse, link)
            mujoco.mju_mulQuat(turn, inverse, quaternion(start.euler))
            turns.append(turn)
        return turns

    def _read_joints(self) -> None:
        hands = self._hands
        np.multiply(self._positions, self._joint_scale, out=hands[:, :24])
        hands[:, :24] += self._joint_offset
        np.multiply(self._velocities, VELOCITY_SCALE, out=hands[:, 24:48])
        np.multiply(self._simulation.joint_forces, FORCE_SCALE, out=hands[:, 48:72])

    def _read_links(self) -> None:
        """Pose and velocity of the fingertip links. MuJoCo's cvel is (angular, linear) at the hand's centre of mass."""
        data, links, block = self._data, self._links, self._link_block
        velocities = data.cvel[links]
        angular = velocities[:, :3]
        arms = self._velocity_points[links] - data.subtree_com[self._link_roots]
        block[:, 0:3] = data.xpos[links]
        block[:, 3:7] = data.xquat[links][:, _XYZW]
        block[:, 7:10] = velocities[:, 3:] + cross_products(angular, arms)
        block[:, 10:13] = angular
        self._hands[:, 72:137] = block.reshape(2, 65)

    def _root_rotation(self, hand: int, turn: np.ndarray | None) -> np.ndarray:
        """(4,) w, x, y, z."""
        rotation = self._data.qpos[31 * hand + 3 : 31 * hand + 7]
        if turn is None:
            return rotation
        result = np.empty(4)
        mujoco.mju_mulQuat(result, rotation, turn)
        return result

    def _read_object(self) -> None:
        data, root, entries = self._data, self._object_root, self._object
        entries[0:3] = data.xpos[root]
        entries[3:7] = data.xquat[root][_XYZW]
        if data.qvel.size > 62:  # a free object; the doors' root never moves
            entries[7:10] = data.qvel[60:63]
            np.multiply(data.cvel[root, :3], VELOCITY_SCALE, out=entries[10:13])
        entries[13:] = data.site_xpos[self._sites[12:]].reshape(-1)


def joint_scale(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """(24,) factors and (24,) summands that map the ranges of a hand's joints to [-1, 1]."""
    low, high = np.array([model.joint(hand_name("right", name)).range for name in JOINTS]).T
    return 2.0 / (high - low), -(high + low) / (high - low)


def euler_angles(w: float, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Roll, pitch, yaw in [0, 2 pi) of a unit quaternion, R = Rz Ry Rx; jumps where the pitch is near pi / 2."""
    roll = math.atan2(2.0 * (w * x + y * z), w * w - x * x - y * y + z * z)
    pitch = math.asin(min(1.0, max(-1.0, 2.0 * (w * y - z * x))))
    yaw = math.atan2(2.0 * (w * z + x * y), w * w + x * x - y * y - z * z)
    return roll % math.tau, pitch % math.tau, yaw % math.tau

"""The four Bi-DexHands tasks: sizes, episode lengths, start poses; reward, termination and success.

A task is two Shadow Hands and one object with joints. Everything here follows from positions of a few points, so that
the rewards can be checked by hand and hold for any simulator. This file needs neither MuJoCo nor Ray nor Isaac Gym,
and works in Python 3.8.

Both hands are right hands: the benchmark's "left" hand is a second copy of the right one. The right hand is agent_0,
the left hand is agent_1, the benchmark's order.

Lengths in metres, angles in radians, forces in newtons. Euler angles are (roll, pitch, yaw) with R = Rz Ry Rx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

AGENT_IDS = ("agent_0", "agent_1")  # right hand, left hand
FINGERS = ("ff", "mf", "rf", "lf", "th")
CONTROL_FREQUENCY = 60.0  # Hz
ACTION_SIZE = 26  # base force 3, base torque 3, targets of 20 joints
HAND_OBSERVATION_SIZE = 199  # the block of one hand; the object's block follows

JOINTS = (
    *("WRJ1", "WRJ0"),
    *("FFJ3", "FFJ2", "FFJ1", "FFJ0"),
    *("MFJ3", "MFJ2", "MFJ1", "MFJ0"),
    *("RFJ3", "RFJ2", "RFJ1", "RFJ0"),
    *("LFJ4", "LFJ3", "LFJ2", "LFJ1", "LFJ0"),
    *("THJ4", "THJ3", "THJ2", "THJ1", "THJ0"),
)
"""The 24 joints of a hand in the order of the observation."""

COUPLED_JOINTS = ("FFJ0", "MFJ0", "RFJ0", "LFJ0")  # moved by a tendon of the joint before, not by an actuator
ACTUATED_JOINTS = tuple(joint for joint in JOINTS if joint not in COUPLED_JOINTS)
"""The 20 joints in the order of the action, which follow its 6 base entries."""


class Pose(NamedTuple):
    """Where something starts.

    Args:
        position: (x, y, z).
        euler: (roll, pitch, yaw).
    """

    position: tuple[float, float, float]
    euler: tuple[float, float, float]


class Points(NamedTuple):
    """The points that reward, termination and success depend on, each (x, y, z).

    Args:
        right_fingers: 5 fingertip points of the right hand, in the order of `FINGERS`.
        left_fingers: 5 of the left hand.
        right_palm: palm point of the right hand.
        left_palm: palm point of the left hand.
        targets: the object's points, in the order of the observation: bottle root, nominal cap top, cap link; or left
            handle, right handle (doors); or right handle, left handle (pen).
    """

    right_fingers: Sequence[Sequence[float]]
    left_fingers: Sequence[Sequence[float]]
    right_palm: Sequence[float]
    left_palm: Sequence[float]
    targets: Sequence[Sequence[float]]


class Outcome(NamedTuple):
    """What a step led to.

    Args:
        reward: of the team.
        terminated: whether the task ended by itself.
        success: whether the object's joint has opened far enough; never ends an episode.
    """

    reward: float
    terminated: bool
    success: bool


def finger_sum(fingers: Sequence[Sequence[float]], target: Sequence[float]) -> float:
    """Sum of the distances of all fingertip points from a target."""
    return sum(math.dist(finger, target) for finger in fingers)


def bottle_cap(points: Points) -> Outcome:
    """Right fingers to the cap, left palm to the bottle; then pull the cap off.

    The fingers' target is fixed in the bottle: moving the cap does not move it, as in the benchmark.
    """
    bottle, cap_top, cap = points.targets
    reach = finger_sum(points.right_fingers, cap_top)
    hold = math.dist(bottle, points.left_palm)
    opening = math.dist(cap, bottle)
    lost = cap_top[2] <= 0.5 or math.dist(cap_top, points.right_palm) >= 0.5 or hold >= 0.2
    return Outcome(2.0 - reach - hold + (30.0 * opening if reach <= 0.3 else 0.0), lost, opening > 0.03)


def door(points: Points) -> Outcome:
    """Every hand to its handle; then open the doors, measured by how far apart the handles are sideways."""
    left_handle, right_handle = points.targets
    right, left = finger_sum(points.right_fingers, right_handle), finger_sum(points.left_fingers, left_handle)
    opening = abs(right_handle[1] - left_handle[1])
    bonus = 2.0 * opening if right < 0.5 and left < 0.5 else 0.0
    return Outcome(2.0 - right - left + bonus, right >= 1.5 or left >= 1.5, opening > 0.5)


def pen(points: Points) -> Outcome:
    """Right hand to the cap, left hand to the body of the pen; then pull them apart."""
    right_handle, left_handle = points.targets
    right, left = finger_sum(points.right_fingers, right_handle), finger_sum(points.left_fingers, left_handle)
    opening = 5.0 * math.dist(right_handle, left_handle)
    bonus = opening - 0.8 if right < 0.75 and left < 0.75 else 0.0
    reward = math.exp(-10.0 * right) + math.exp(-10.0 * left) + bonus
    return Outcome(reward, right >= 1.5 or left >= 1.5, opening > 1.5)


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        name: short name, as in the environment id `bidexhands_<name>`.
        isaac_name: the benchmark's name.
        outcome: reward, termination and success of points.
        observation_size: entries of one agent's observation: its own hand's block and the object's.
        state_size: entries of the global state: right hand, left hand, object.
        episode_steps: control steps until the time limit.
        force_scale: translation scale of the base, without unit.
        torque_scale: rotation scale of the base, without unit.
        right_start: start of the right hand.
        left_start: start of the left hand.
        object_start: start of the object.
        start_joints: joints of both hands that do not start at zero.
        action_size: entries of one agent's action.
    """

    name: str
    isaac_name: str
    outcome: Callable[[Points], Outcome]
    observation_size: int
    state_size: int
    episode_steps: int
    force_scale: float
    torque_scale: float
    right_start: Pose
    left_start: Pose
    object_start: Pose
    start_joints: Mapping[str, float] = field(default_factory=dict)
    action_size: int = ACTION_SIZE

    @property
    def max_force(self) -> float:
        """N per axis on the base at an action of 1."""
        return self.force_scale * 1e5 / CONTROL_FREQUENCY

    @property
    def max_torque(self) -> float:
        """N m per axis on the base at an action of 1."""
        return self.torque_scale * 1e3 / CONTROL_FREQUENCY


_DOOR_RIGHT_START = Pose((0.55, 0.2, 0.6), (3.14159, 1.57, 1.57))
_DOOR_LEFT_START = Pose((0.55, -0.2, 0.6), (3.14159, -1.57, 1.57))

TASKS = {
    task.name: task
    for task in (
        Task(
            name="bottle_cap",
            isaac_name="ShadowHandBottleCap",
            outcome=bottle_cap,
            observation_size=221,
            state_size=420,
            episode_steps=125,
            force_scale=0.1,
            torque_scale=0.1,
            right_start=Pose((0.0, -1.05, 0.5), (0.5, 3.14159, 3.14159)),
            left_start=Pose((0.0, -0.25, 0.45), (0.0, 0.87, 0.0)),
            object_start=Pose((0.0, -0.6, 0.5), (0.0, -0.7, 0.0)),
            start_joints={"THJ4": -1.04, "THJ3": 1.2, "THJ0": -1.57},
        ),
        Task(
            name="door_open_inward",
            isaac_name="ShadowHandDoorOpenInward",
            outcome=door,
            observation_size=218,
            state_size=417,
            episode_steps=250,
            force_scale=0.5,
            torque_scale=0.5,
            right_start=_DOOR_RIGHT_START,
            left_start=_DOOR_LEFT_START,
            object_start=Pose((0.0, 0.0, 0.7), (0.0, 3.14159, 0.0)),
        ),
        Task(
            name="door_open_outward",
            isaac_name="ShadowHandDoorOpenOutward",
            outcome=door,
            observation_size=218,
            state_size=417,
            episode_steps=250,
            force_scale=0.5,
            torque_scale=0.5,
            right_start=_DOOR_RIGHT_START,
            left_start=_DOOR_LEFT_START,
            object_start=Pose((0.0, 0.0, 0.7), (0.0, 0.0, 0.0)),
        ),
        Task(
            name="pen",
            isaac_name="ShadowHandPen",
            outcome=pen,
            observation_size=218,
            state_size=417,
            episode_steps=125,
            force_scale=0.5,
            torque_scale=0.1,
            right_start=Pose((0.55, 0.2, 0.8), (3.14159, 0.0, 1.57)),
            left_start=Pose((0.55, -0.2, 0.8), (3.14159, 0.0, 1.57)),
            object_start=Pose((0.0, 0.0, 0.6), (1.57, 1.57, 0.0)),
        ),
    )
}
"""The tasks by name."""

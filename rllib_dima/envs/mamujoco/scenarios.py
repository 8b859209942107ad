"""The robots of multi-agent MuJoCo (MAMuJoCo), and which actuators every agent moves.

`SCENARIOS` holds everything that differs between robots. A robot is divided as its `agent_conf` says: "2x4" is two
agents with four joints each, "9|8" and "3p" are Gymnasium-Robotics' names for unequal agents. The joints of every agent
come from Gymnasium-Robotics, except those of Ant and of the paper's tasks: these are the original benchmark's lists,
which Gymnasium-Robotics lacks (both "3x2"), orders otherwise (HalfCheetah) or changed (Ant "2x4d": there it has legs 1
and 4, which are neighbours, while "d" stands for the diagonal).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from rllib_dima.core.names import check_name

if TYPE_CHECKING:
    import mujoco

Partition = Literal["consecutive", "joints"]
PARTITIONS = ("consecutive", "joints")

JointLists = tuple[tuple[str, ...], ...]  # for every agent the joints it moves
MAX_REGISTERED_SEGMENTS = 20


@dataclass(frozen=True)
class Scenario:
    """A robot and the ways to divide it.

    Args:
        name: as the benchmark writes it.
        agent_confs: the divisions there are; for a robot of segments those that get an id, though any other is valid.
        model: Gymnasium's name of the environment that simulates it; None: Gymnasium-Robotics has a class of its own.
        versions: of Gymnasium's environment, those that work, the default first; none if `model` is None.
        no_v4: why "v4" is not among the versions.
        is_segmented: the robot is a chain of N x M segments, made for its division.
        root: generalised positions that the state leaves out by default; each has the velocity of its number.
        own_quantities: what an agent with local observations sees of its own joints, in MuJoCo's words.
        joints: joint lists by `agent_conf`, where they are not Gymnasium-Robotics'.
        paper_confs: the divisions of the paper's tasks.
    """

    name: str
    agent_confs: tuple[str, ...]
    model: str | None
    versions: tuple[str, ...] = ("v4", "v5")
    no_v4: str = ""
    is_segmented: bool = False
    root: tuple[int, ...] = (0, 1)
    own_quantities: tuple[str, ...] = ("qpos", "qvel")
    joints: Mapping[str, JointLists] = field(default_factory=dict)
    paper_confs: tuple[str, ...] = ()


_SEGMENT_CONFS = tuple(
    f"{num_agents}x{size}"
    for num_agents in range(2, MAX_REGISTERED_SEGMENTS + 1)
    for size in range(1, MAX_REGISTERED_SEGMENTS // num_agents + 1)
)
_BODY_QUANTITIES = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")

_ANT_JOINTS = {
    "2x4": (("hip_1", "ankle_1", "hip_2", "ankle_2"), ("hip_3", "ankle_3", "hip_4", "ankle_4")),
    "2x4d": (("hip_1", "ankle_1", "hip_3", "ankle_3"), ("hip_2", "ankle_2", "hip_4", "ankle_4")),
    "4x2": (("hip_1", "ankle_1"), ("hip_2", "ankle_2"), ("hip_3", "ankle_3"), ("hip_4", "ankle_4")),
}
_HALF_CHEETAH_JOINTS = {
    "2x3": (("bfoot", "bshin", "bthigh"), ("ffoot", "fshin", "fthigh")),
    "3x2": (("bfoot", "bshin"), ("bthigh", "ffoot"), ("fshin", "fthigh")),
    "6x1": (("bfoot",), ("bshin",), ("bthigh",), ("ffoot",), ("fshin",), ("fthigh",)),
}
_WALKER_JOINTS = {
    "2x3": (("foot_joint", "leg_joint", "thigh_joint"), ("foot_left_joint", "leg_left_joint", "thigh_left_joint")),
    "3x2": (("foot_joint", "leg_joint"), ("thigh_joint", "foot_left_joint"), ("leg_left_joint", "thigh_left_joint")),
}

_ALL = (
    Scenario(
        "Ant",
        ("2x4", "2x4d", "4x2"),
        "Ant",
        own_quantities=("qpos", "qvel", "cfrc_ext"),
        joints=_ANT_JOINTS,
        paper_confs=("2x4", "4x2"),
    ),
    Scenario(
        "CoupledHalfCheetah",
        ("1p1",),
        None,
        (),
        root=(0, 9),
        own_quantities=("qpos", "qvel", "ten_J", "ten_length", "ten_velocity"),
    ),
    Scenario(
        "HalfCheetah",
        ("2x3", "3x2", "6x1"),
        "HalfCheetah",
        root=(0,),
        joints=_HALF_CHEETAH_JOINTS,
        paper_confs=("2x3", "3x2", "6x1"),
    ),
    Scenario("Hopper", ("3x1",), "Hopper", root=(0,)),
    Scenario("Humanoid", ("9|8",), "Humanoid", own_quantities=_BODY_QUANTITIES),
    Scenario("HumanoidStandup", ("9|8",), "HumanoidStandup", own_quantities=_BODY_QUANTITIES),
    Scenario(
        "ManySegmentAnt",
        _SEGMENT_CONFS,
        "Ant",
        ("v5",),
        "Gymnasium's Ant-v4 looks for the body 'torso' of its own model, and segments are called 'torso_0' and so on",
        is_segmented=True,
        own_quantities=("qpos", "qvel", "cfrc_ext"),
    ),
    Scenario(
        "ManySegmentSwimmer",
        _SEGMENT_CONFS,
        "Swimmer",
        ("v5",),
        "Gymnasium's Swimmer-v4 accepts no model but its own",
        is_segmented=True,
    ),
    Scenario("Pusher", ("3p",), "Pusher", ("v5",), "Gymnasium's Pusher-v4 refuses MuJoCo 3 and later"),
    Scenario("Reacher", ("2x1",), "Reacher", own_quantities=("qpos", "qvel", "fingertip_dist")),
    Scenario("Swimmer", ("2x1",), "Swimmer"),
    Scenario("Walker2d", ("2x3", "3x2"), "Walker2d", root=(0,), joints=_WALKER_JOINTS, paper_confs=("2x3", "3x2")),
)

SCENARIOS = {scenario.name.lower(): scenario for scenario in _ALL}
"""The scenarios by their name in lower case."""


def registered_agent_confs() -> dict[str, tuple[str, ...]]:
    """The divisions that get an environment id, by the scenario's name in lower case.

    For the robots of segments these are all NxM of at least 2 agents and at most 20 segments.
    """
    return {name: scenario.agent_confs for name, scenario in SCENARIOS.items()}


def find_scenario(name: str) -> Scenario:
    """The scenario of a name in any case.

    Raises:
        ValueError: there is none.
    """
    if str(name).lower() not in SCENARIOS:
        check_name(name, SCENARIOS, "MAMuJoCo scenario")
    return SCENARIOS[name.lower()]


def check_agent_conf(scenario: Scenario, agent_conf: str) -> None:
    """Does nothing if the robot can be divided so.

    Raises:
        ValueError: it cannot.
    """
    if not scenario.is_segmented:
        check_name(agent_conf, scenario.agent_confs, f"agent_conf of {scenario.name}")
    elif not re.fullmatch(r"([2-9]|[1-9]\d+)x[1-9]\d*", str(agent_conf)):
        raise ValueError(
            f"Unknown agent_conf of {scenario.name} {agent_conf!r}. It must be NxM, N agents (at least 2) with M "
            "segments each, as in '4x2'."
        )


def find_partition(scenario: Scenario, agent_conf: str, partition: Partition | None) -> Partition:
    """The partition to use; by default the one behind the published numbers, where there are any.

    Raises:
        ValueError: unknown.
    """
    if partition is None:
        return "consecutive" if agent_conf in scenario.paper_confs else "joints"
    check_name(partition, PARTITIONS, "partition")
    return partition


def find_version(scenario: Scenario, version: str | None) -> str | None:
    """The version of Gymnasium's environment to use.

    Args:
        scenario: the robot.
        version: "v4" or "v5", or None for the scenario's default.

    Returns:
        The version; None for a robot that is not Gymnasium's.

    Raises:
        ValueError: unknown, or a version that the scenario does not have.
    """
    if version is None:
        return next(iter(scenario.versions), None)
    check_name(version, ("v4", "v5"), "version")
    if scenario.model is None:
        raise ValueError(f"{scenario.name} has a single version, but version={version!r} was given: leave it out.")
    if version not in scenario.versions:
        raise ValueError(f"{scenario.name} has no {version}: {scenario.no_v4}. Leave version out or use version='v5'.")
    return version


def find_graph(scenario: Scenario, agent_conf: str) -> tuple[list, list, list]:
    """Gymnasium-Robotics' graph of a robot: for every agent its joints, the edges, and what all agents see.

    For a division that Gymnasium-Robotics does not have, or has otherwise, all joints are in one group.

    Args:
        scenario: the robot.
        agent_conf: its division, checked.

    Returns:
        Groups of `obsk.Node`, list of `obsk.HyperEdge`, list of `obsk.Node`.
    """
    # Imported here, because it prints a notice about other environments, and the paper's tasks do without.
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import get_parts_and_edges

    return get_parts_and_edges(scenario.name, None if agent_conf in scenario.joints else agent_conf)


def divide_actuators(
    scenario: Scenario, agent_conf: str, partition: Partition, model: mujoco.MjModel
) -> list[np.ndarray]:
    """For every agent the actuators it moves, in the order of its action.

    Args:
        scenario: the robot.
        agent_conf: its division, checked.
        partition: "consecutive": agent i moves the i-th block of consecutive actuators, of as many as it has joints.
            "joints": the joint lists.
        model: the robot's model.

    Returns:
        Indices into the actuators of the model.

    Raises:
        ValueError: the joints of the division are not those of the model.
    """
    if agent_conf in scenario.joints:
        actuators = _actuators_of_joints(model, scenario.joints[agent_conf])
    else:
        nodes, _, _ = find_graph(scenario, agent_conf)
        actuators = [[node.act_ids for node in own] for own in nodes]
    if sorted(index for own in actuators for index in own) != list(range(model.nu)):
        raise ValueError(
            f"Every actuator of {scenario.name} must be moved by exactly one agent, but agent_conf {agent_conf!r} "
            f"divides its {model.nu} actuators into {actuators}."
        )
    sizes = [len(own) for own in actuators]
    if partition == "consecutive":
        return np.split(np.arange(model.nu), np.cumsum(sizes)[:-1])
    return [np.array(own) for own in actuators]


def _actuators_of_joints(model: mujoco.MjModel, lists: JointLists) -> list[list[int]]:
    actuator_of = {model.joint(joint).name: index for index, joint in enumerate(model.actuator_trnid[:, 0])}
    for joint in (joint for own in lists for joint in own):
        check_name(joint, actuator_of, "joint")
    return [[actuator_of[joint] for joint in own] for own in lists]

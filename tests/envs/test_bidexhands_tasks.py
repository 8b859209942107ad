"""Rewards, terminations and success of the Bi-DexHands tasks, by hand; and that the facts need no simulator."""

import math
import subprocess
import sys

import numpy as np
import pytest

from rllib_dima.envs.bidexhands import tasks
from rllib_dima.envs.bidexhands.tasks import TASKS, Points

FAR = [(9.0, 9.0, 9.0)] * 5


def around(target, distances):
    """Fingertips at given distances from a target, each in another direction."""
    directions = [(1, 0, 0), (0, 1, 0), (0, 0, -1), (0.6, 0.8, 0), (0, -0.6, 0.8)]
    return [
        tuple(np.add(target, np.multiply(direction, distance)))
        for direction, distance in zip(directions, distances, strict=True)
    ]


def bottle(reach=0.05, hold=0.1, opening=0.01, cap_z=0.7, palm_to_cap=0.2):
    """Points of the bottle task, from the distances that count."""
    bottle_root, cap_top = (1.0, 2.0, 0.6), (1.0, 2.0, cap_z)
    return Points(
        around(cap_top, [reach] * 5),
        FAR,
        (1.0 + palm_to_cap, 2.0, cap_z),
        (1.0, 2.0 - hold, 0.6),
        [bottle_root, cap_top, (1.0, 2.0, 0.6 + opening)],
    )


def handles(right, left, right_handle=(0.0, 0.1, 0.6), left_handle=(0.0, -0.1, 0.6), order="left first"):
    """Points of the doors or the pen, with the fingers at given distances from their handles."""
    targets = [left_handle, right_handle] if order == "left first" else [right_handle, left_handle]
    return Points(around(right_handle, right), around(left_handle, left), (0, 0, 0), (0, 0, 0), targets)


def test_sizes_and_limits():
    assert {name: (task.observation_size, task.state_size, task.episode_steps) for name, task in TASKS.items()} == {
        "bottle_cap": (221, 420, 125),
        "door_open_inward": (218, 417, 250),
        "door_open_outward": (218, 417, 250),
        "pen": (218, 417, 125),
    }
    expected = {"bottle_cap": (166.67, 1.667), "pen": (833.33, 1.667)}
    for name, task in TASKS.items():
        assert task.action_size == 26
        force, torque = expected.get(name, (833.33, 8.333))
        assert task.max_force == pytest.approx(force, abs=0.01) and task.max_torque == pytest.approx(torque, abs=0.001)
    assert [task.isaac_name for task in TASKS.values()] == [
        "ShadowHandBottleCap",
        "ShadowHandDoorOpenInward",
        "ShadowHandDoorOpenOutward",
        "ShadowHandPen",
    ]


def test_order_of_joints():
    assert len(tasks.JOINTS) == 24
    order = "WRJ1 WRJ0 FFJ3 FFJ2 FFJ1 MFJ3 MFJ2 MFJ1 RFJ3 RFJ2 RFJ1 LFJ4 LFJ3 LFJ2 LFJ1 THJ4 THJ3 THJ2 THJ1 THJ0"
    assert " ".join(tasks.ACTUATED_JOINTS) == order


@pytest.mark.parametrize(
    ("points", "reward", "terminated", "success"),
    [
        (bottle(), 2 - 0.25 - 0.1 + 0.3, False, False),
        (bottle(reach=0.0599), 2 - 0.2995 - 0.1 + 0.3, False, False),
        (bottle(reach=0.0601), 2 - 0.3005 - 0.1, False, False),  # too far for the bonus
        (bottle(opening=0.0301), 2 - 0.25 - 0.1 + 0.903, False, True),
        (bottle(opening=0.0299), 2 - 0.25 - 0.1 + 0.897, False, False),
        (bottle(hold=0.2001), 2 - 0.25 - 0.2001 + 0.3, True, False),
        (bottle(hold=0.1999), 2 - 0.25 - 0.1999 + 0.3, False, False),
        (bottle(cap_z=0.5), 2 - 0.25 - 0.1 + 0.3, True, False),
        (bottle(cap_z=0.5001), 2 - 0.25 - 0.1 + 0.3, False, False),
        (bottle(palm_to_cap=0.5001), 2 - 0.25 - 0.1 + 0.3, True, False),
        (bottle(palm_to_cap=0.4999), 2 - 0.25 - 0.1 + 0.3, False, False),
    ],
)
def test_bottle_cap(points, reward, terminated, success):
    outcome = TASKS["bottle_cap"].outcome(points)
    assert outcome.reward == pytest.approx(reward, abs=1e-12)
    assert (outcome.terminated, outcome.success) == (terminated, success)


def test_bottle_cap_ignores_left_fingers():
    near = bottle()._replace(left_fingers=[(1.0, 2.0, 0.6)] * 5)
    assert TASKS["bottle_cap"].outcome(near) == TASKS["bottle_cap"].outcome(bottle())


SPREAD = [0.01, 0.02, 0.03, 0.04, 0.05]  # sum 0.15


@pytest.mark.parametrize("name", ["door_open_inward", "door_open_outward"])
@pytest.mark.parametrize(
    ("points", "reward", "terminated", "success"),
    [
        (handles(SPREAD, [0.02] * 5), 2 - 0.15 - 0.1 + 2 * 0.2, False, False),
        (handles([0.101] * 5, [0.02] * 5), 2 - 0.505 - 0.1, False, False),  # one hand too far: no bonus
        (handles([0.02] * 5, [0.101] * 5), 2 - 0.505 - 0.1, False, False),
        (handles([0.301] * 5, [0.02] * 5), 2 - 1.505 - 0.1, True, False),
        (handles([0.02] * 5, [0.301] * 5), 2 - 1.505 - 0.1, True, False),
        (handles([0.299] * 5, [0.299] * 5), 2 - 2.99, False, False),
        # Only the sideways distance counts, here 0.501 and 0.499.
        (handles(SPREAD, SPREAD, (0.7, 0.301, 0.6), (0, -0.2, 0.6)), 2 - 0.3 + 1.002, False, True),
        (handles(SPREAD, SPREAD, (0.7, -0.299, 0.6), (0, 0.2, 0.6)), 2 - 0.3 + 0.998, False, False),
    ],
)
def test_doors(name, points, reward, terminated, success):
    outcome = TASKS[name].outcome(points)
    assert outcome.reward == pytest.approx(reward, abs=1e-12)
    assert (outcome.terminated, outcome.success) == (terminated, success)


def pen(right, left, **points):
    return handles(right, left, order="right first", **points)


@pytest.mark.parametrize(
    ("points", "reward", "terminated", "success"),
    [
        (pen(SPREAD, [0.02] * 5), math.exp(-1.5) + math.exp(-1) + 5 * 0.2 - 0.8, False, False),
        (pen([0.151] * 5, [0.02] * 5), math.exp(-7.55) + math.exp(-1), False, False),
        (pen([0.02] * 5, [0.151] * 5), math.exp(-7.55) + math.exp(-1), False, False),
        (pen([0.301] * 5, [0.02] * 5), math.exp(-15.05) + math.exp(-1), True, False),
        (pen([0.02] * 5, [0.301] * 5), math.exp(-15.05) + math.exp(-1), True, False),
        # The distance counts in every direction: 0.3 = |(0.2, 0.2, 0.1)|, a little more and a little less.
        (
            pen(SPREAD, SPREAD, right_handle=(0.2, 0.2, 0.1001), left_handle=(0, 0, 0)),
            2 * math.exp(-1.5) + 5 * math.hypot(0.2, 0.2, 0.1001) - 0.8,
            False,
            True,
        ),
        (
            pen(SPREAD, SPREAD, right_handle=(0.2, 0.2, 0.0999), left_handle=(0, 0, 0)),
            2 * math.exp(-1.5) + 5 * math.hypot(0.2, 0.2, 0.0999) - 0.8,
            False,
            False,
        ),
    ],
)
def test_pen(points, reward, terminated, success):
    outcome = TASKS["pen"].outcome(points)
    assert outcome.reward == pytest.approx(reward, abs=1e-12)
    assert (outcome.terminated, outcome.success) == (terminated, success)


def test_tasks_need_no_simulator():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('tasks', {tasks.__file__!r})\n"
        "module = sys.modules['tasks'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert len(module.TASKS) == 4\n"
        "print([name for name in ('mujoco', 'ray', 'torch', 'gymnasium') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

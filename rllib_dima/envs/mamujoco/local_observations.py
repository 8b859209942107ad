"""What an agent sees of its own joints and of those near it: Gymnasium-Robotics' observations, much faster."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from rllib_dima.envs.mamujoco.observations import _SAFE_VARIANCE, require_finite_state
from rllib_dima.envs.mamujoco.scenarios import Scenario, find_graph
from rllib_dima.envs.outcomes import require_finite

_FIELDS = ("qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext", "xpos", "ten_J", "ten_length", "ten_velocity")

Derive = Callable[[mujoco.MjData], Callable[[], list[np.ndarray]]]

_GLOBAL_QUANTITIES = ("qpos", "qvel")  # Gymnasium-Robotics' default of what all agents see of the whole robot


class LocalObservations:
    """Gymnasium-Robotics' observations of an agent's own and neighbouring joints.

    An agent sees of its own joints `scenario.own_quantities`, of those at distances 1 to k their positions, and of the
    whole robot what all agents see. Its own joints are those of the actuators it moves, however they were divided.

    Joints are sorted by label as in Gymnasium-Robotics, and by actuator where it gives several the same label (Pusher):
    there its own order depends on memory addresses, and processes would disagree.

    Its graphs are used as they are, so that results can be compared, but those of version 1.4 show wrong joints in some
    robots. CoupledHalfCheetah: both agents see those of the second cheetah. ManySegmentAnt: only the last segment sees
    its own, the others read the root's coordinates or joints of other segments. The humanoids: abdomen_y and abdomen_z
    are exchanged. Full observations are right everywhere.

    Its `build_obs` walks through the graph at every step, which takes longer than the simulation. Here it runs on
    made-up data once, which shows the place in MuJoCo's data that every entry is read from, and its bounds.

    Args:
        env: the simulation.
        scenario: the robot.
        agent_conf: its division, checked.
        actuators: for every agent the actuators it moves.
        agents: all agents.
        agent_obsk: k.

    Attributes:
        sizes: entries of every agent's observation.

    Raises:
        RuntimeError: this version of Gymnasium-Robotics computes an entry in a way that is not known here.
    """

    def __init__(
        self,
        env: MujocoEnv,
        scenario: Scenario,
        agent_conf: str,
        actuators: Sequence[np.ndarray],
        agents: Sequence[str],
        agent_obsk: int,
    ) -> None:
        views = _agent_views(scenario, agent_conf, actuators, agent_obsk)
        derive = _derive_reacher if scenario.name == "Reacher" else _derive_nothing
        self.sizes = tuple(view(env.data).size for view in views)
        ends = itertools.accumulate(self.sizes, initial=0)
        self._spans = [(agent, slice(*span)) for agent, span in zip(agents, itertools.pairwise(ends), strict=True)]
        places, self._low, self._high = _trace(views, mujoco.MjData(env.model), derive)
        self._is_bounded = bool(np.isfinite([self._low, self._high]).any())
        fields, self._derived = _fields(env.data), derive(env.data)
        used, self._places = _used(fields + self._derived(), places)
        self._fields = [field for index, field in enumerate(fields) if index in used]

    def __call__(self, state: np.ndarray, step: int) -> dict[str, np.ndarray]:
        """Observation of every agent, float32, parts of a new array.

        Args:
            state: (S,) float64; what is observed is read from the simulation's data, though.
            step: of the episode, for the error.

        Raises:
            SimulationError: an entry of the state or of an observation is NaN or infinite as float32.
        """
        if not state.dot(state) < _SAFE_VARIANCE:
            require_finite_state(state, step)
        entries = np.concatenate(self._fields + self._derived())[self._places]
        if self._is_bounded:
            entries = np.minimum(np.maximum(entries, self._low), self._high)
        entries = entries.astype(np.float32)
        if not math.isfinite(entries.dot(entries)):  # cheaper than testing every entry; it may overflow
            require_finite("the local observations", entries, step)
        return {agent: entries[span] for agent, span in self._spans}


def _agent_views(
    scenario: Scenario, agent_conf: str, actuators: Sequence[np.ndarray], agent_obsk: int
) -> list[Callable[[mujoco.MjData], np.ndarray]]:
    """For every agent, the function of MuJoCo's data that Gymnasium-Robotics computes its observation with."""
    from gymnasium_robotics.envs.multiagent_mujoco.obsk import build_obs, get_joints_at_kdist

    groups, edges, global_nodes = find_graph(scenario, agent_conf)
    node_of = {node.act_ids: node for group in groups for node in group}
    quantities = [list(scenario.own_quantities)] + [["qpos"]] * agent_obsk
    views = []
    for own in actuators:
        near = get_joints_at_kdist(tuple(node_of[actuator] for actuator in own), edges, agent_obsk)
        near = {k: sorted(nodes, key=lambda node: (node.label, node.act_ids)) for k, nodes in near.items()}
        views.append(
            functools.partial(
                build_obs,
                k_dict=near,
                local_categories=quantities,
                global_nodes=global_nodes,
                global_categories=_GLOBAL_QUANTITIES,
            )
        )
    return views


def _trace(views: Sequence[Callable], data: mujoco.MjData, derive: Derive) -> tuple[np.ndarray, ...]:
    """Where all entries of all views are read from, and the bounds they are clipped to.

    Args:
        views: functions of MuJoCo's data.
        data: scratch data.
        derive: what may be read beside MuJoCo's fields.

    Returns:
        Places in all fields and then the derived quantities; lower bounds; upper bounds. Each (entries of all agents,).
    """
    values, sources = _probe(views, data, derive, 1.0)
    order = np.argsort(sources)
    places = order[np.searchsorted(sources[order], values - 1e-12).clip(max=order.size - 1)]
    if not np.allclose(values, sources[places], rtol=0, atol=2e-12):
        raise RuntimeError(
            "Gymnasium-Robotics computes some entries of local observations in a way that is not known here. Use "
            "version 1.4 of gymnasium-robotics, or observations='full'."
        )
    bounds = []
    for scale in (-1e3, 1e3):
        values, sources = _probe(views, data, derive, scale)
        bounds.append(np.where(np.isclose(values, sources[places]), np.copysign(np.inf, scale), values))
    return places, *bounds


def _probe(
    views: Sequence[Callable], data: mujoco.MjData, derive: Derive, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """All entries of all views, and all they may be read from, on random numbers between 0.1 and 0.9 times `scale`."""
    rng = np.random.default_rng(0)
    fields = _fields(data)
    for field in fields:
        field[...] = scale * rng.uniform(0.1, 0.9, field.shape)
    return np.concatenate([view(data) for view in views]), np.concatenate(fields + derive(data)())


def _fields(data: mujoco.MjData) -> list[np.ndarray]:
    """MuJoCo's own arrays as flat views. It keeps their memory, so that they always show the present values."""
    return [getattr(data, name).reshape(-1) for name in _FIELDS]


def _used(sources: Sequence[np.ndarray], places: np.ndarray) -> tuple[set[int], np.ndarray]:
    """The sources that places lie in, by their number, and the same places when all others are left out."""
    owner = np.repeat(np.arange(len(sources)), [source.size for source in sources])
    used = set(owner[places].tolist())
    return used, np.searchsorted(np.flatnonzero(np.isin(owner, list(used))), places)


def _derive_nothing(data: mujoco.MjData) -> Callable[[], list[np.ndarray]]:
    return list


def _derive_reacher(data: mujoco.MjData) -> Callable[[], list[np.ndarray]]:
    """What only Reacher's agents see: sines and cosines of the angles, the way from the target to the fingertip."""
    angles, fingertip, target = data.qpos, data.body("fingertip").xpos, data.body("target").xpos
    return lambda: [np.sin(angles), np.cos(angles), fingertip - target]

"""The MuJoCo simulations under MAMuJoCo: how they are made, and how they are saved and restored exactly."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from rllib_dima.envs.mamujoco.scenarios import Scenario

COUPLED_EPISODE_STEPS = 1000  # Gymnasium-Robotics' limit of CoupledHalfCheetah, which is registered nowhere

_EVERYTHING = mujoco.mjtState.mjSTATE_INTEGRATION

# MuJoCo leaves these behind the positions by one substep, so that they cannot be computed from them. Rewards take
# velocities from the first line, states and observations show the second, images the others.
_LAGGING = (
    *("xpos", "xipos"),
    *("cinert", "cvel", "cfrc_ext", "qfrc_actuator", "ten_J", "ten_length", "ten_velocity"),
    *("xquat", "xmat", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "cam_xpos", "cam_xmat"),
    *("light_xpos", "light_xdir", "subtree_com", "wrap_xpos", "wrap_obj", "ten_wrapadr", "ten_wrapnum"),
)


def make_simulator(
    scenario: Scenario, agent_conf: str, version: str | None, render_mode: str | None, settings: Mapping[str, Any]
) -> tuple[MujocoEnv, int]:
    """Makes the environment of one robot as a whole.

    Args:
        scenario: the robot.
        agent_conf: its division, which says how many segments it has, if any.
        version: of Gymnasium's environment.
        render_mode: of Gymnasium.
        settings: keywords of Gymnasium's environment.

    Returns:
        The environment without wrappers, and the number of steps after which an episode is usually cut off.
    """
    if scenario.model is None:
        return _make_coupled(render_mode)
    if scenario.is_segmented:
        return _make_segmented(scenario, agent_conf, version, render_mode, settings)
    return _make_gymnasium(f"{scenario.model}-{version}", render_mode=render_mode, **settings)


def save_simulator(env: MujocoEnv) -> dict[str, Any]:
    """Everything a simulation's future depends on, as numpy arrays and plain values."""
    integration = np.empty(mujoco.mj_stateSize(env.model, _EVERYTHING))
    mujoco.mj_getState(env.model, env.data, integration, _EVERYTHING)
    return {
        "integration": integration,
        "lagging": {name: getattr(env.data, name).copy() for name in _LAGGING},
        "random": copy.deepcopy(env.np_random.bit_generator.state),
    }


def load_simulator(env: MujocoEnv, saved: Mapping[str, Any]) -> None:
    """Goes on exactly where another simulation of the same robot was.

    Args:
        env: the simulation.
        saved: what `save_simulator` returned, checked by `check_saved`.
    """
    env.np_random.bit_generator.state = copy.deepcopy(saved["random"])
    mujoco.mj_resetData(env.model, env.data)  # clears warnings
    mujoco.mj_setState(env.model, env.data, saved["integration"], _EVERYTHING)
    mujoco.mj_forward(env.model, env.data)  # contacts and all else; since MuJoCo 3.3.6 it leaves the state alone
    for name, values in saved["lagging"].items():
        getattr(env.data, name)[...] = values


def check_saved(env: MujocoEnv, saved: Mapping[str, Any]) -> None:
    """Does nothing if a saved simulation has the form of this one.

    Raises:
        ValueError: it has another form.
    """
    own = save_simulator(env)
    if _form(saved) != _form(own):
        raise ValueError(
            "The saved simulation does not fit this one: its arrays are missing or have other sizes. It was made by "
            f"another robot or another version of MuJoCo (this is {mujoco.__version__})."
        )


def _form(saved: Mapping[str, Any]) -> tuple:
    """What must agree for a saved simulation to be loaded."""
    try:
        shapes = {name: np.shape(values) for name, values in saved["lagging"].items()}
        return np.shape(saved["integration"]), shapes, saved["random"]["bit_generator"]
    except (KeyError, TypeError, AttributeError):
        return ()


def _make_coupled(render_mode: str | None) -> tuple[MujocoEnv, int]:
    from gymnasium_robotics.envs.multiagent_mujoco import CoupledHalfCheetahEnv

    return CoupledHalfCheetahEnv(render_mode), COUPLED_EPISODE_STEPS


def _make_segmented(
    scenario: Scenario, agent_conf: str, version: str | None, render_mode: str | None, settings: Mapping[str, Any]
) -> tuple[MujocoEnv, int]:
    from gymnasium_robotics.envs.multiagent_mujoco import many_segment_ant, many_segment_swimmer

    generator = {"Ant": many_segment_ant, "Swimmer": many_segment_swimmer}[scenario.model]  # pyright: ignore[reportArgumentType]: a segmented one has it
    num_agents, size = map(int, agent_conf.split("x"))
    with tempfile.TemporaryDirectory(prefix="rllib_dima_") as folder:
        model_file = os.path.join(os.path.abspath(folder), "model.xml")
        generator.gen_asset(n_segs=num_agents * size, asset_path=model_file)
        return _make_gymnasium(f"{scenario.model}-{version}", render_mode=render_mode, xml_file=model_file, **settings)


def _make_gymnasium(env_id: str, **settings: Any) -> tuple[MujocoEnv, int]:
    with warnings.catch_warnings():
        # The published numbers were obtained on -v4, so Gymnasium's advice to use -v5 does not apply.
        warnings.filterwarnings("ignore", f".*The environment {env_id} is out of date", DeprecationWarning)
        env = gymnasium.make(env_id, disable_env_checker=True, **settings)
    return env.unwrapped, gymnasium.spec(env_id).max_episode_steps  # pyright: ignore[reportReturnType]: its tasks have both

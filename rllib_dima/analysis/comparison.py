"""A trained dynamics model sampled otherwise than it was trained for: other orders, modes, K and solvers.

Sampling is decoupled from training in a diffusion model, but only so far: a denoising step can use only what some
training step has shown it. `caveats` says where a comparison is of that kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rllib_dima.analysis.replaying import OpenLoopErrors, open_loop_errors, replay
from rllib_dima.analysis.segments import Segments
from rllib_dima.core.dima.diffusion import DynamicsHyperparameters
from rllib_dima.core.dima.sampler import SamplerHyperparameters
from rllib_dima.core.dima.world_model import WorldModel
from rllib_dima.core.names import check_name

EXCHANGEABLE = tuple(
    field.name for field in dataclasses.fields(SamplerHyperparameters) if field.name != "env_steps_per_iteration"
)
TRAINED = "as trained"
ORDERS, MODES = ("ascending", "descending", "random"), ("sequential", "cumulative", "joint")
SEEN_IN_TRAINING = {"sequential": "one agent's action", "joint": "all actions at once"}


@dataclass(frozen=True)
class Variant:
    """A way of sampling: its errors, and why they do not tell what they seem to, if so."""

    changes: Mapping[str, Any]
    errors: OpenLoopErrors
    caveats: tuple[str, ...]


@contextmanager
def sampled_with(world_model: WorldModel, **changes: Any) -> Iterator[WorldModel]:
    """The model with other hyperparameters of the sampler (`EXCHANGEABLE`), until the block ends.

    Raises:
        ValueError: a hyperparameter that is not the sampler's, or a value that does not go with it or the team.
    """
    for name in changes:
        check_name(name, EXCHANGEABLE, "hyperparameter of the sampler")
    dynamics = world_model.dynamics
    before = dynamics.hp, dynamics.num_steps
    changed = dataclasses.replace(dynamics.hp, **changes)
    steps = changed.denoising_steps(dynamics.num_agents)
    try:
        dynamics.hp, dynamics.num_steps = changed, steps
        yield world_model
    finally:
        dynamics.hp, dynamics.num_steps = before


def caveats(hp: DynamicsHyperparameters, num_agents: int, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """Why a model trained with `hp` and sampled with `changes` says little about the changed way, if so."""
    different = _differences(hp, num_agents, changes)
    if not different:
        return ()
    mode = changes.get("conditioning", hp.conditioning)
    if different == {"conditioning_order"} and mode == "joint":
        return ("the order has no effect with joint conditioning",)
    found = []
    if hp.dynamics_training == "refinement":
        found.append("trained by refinement for its own sequence of steps, of which this is another")
    if mode != hp.conditioning and hp.conditioning in SEEN_IN_TRAINING:
        seen = SEEN_IN_TRAINING[hp.conditioning]
        found.append(f"trained with {hp.conditioning} conditioning: a step has only ever seen {seen}")
    if "sampler_solver" in different and hp.sampler_solver == "euler" and hp.sigma_offset_noise > 0:
        found.append("Heun's slopes are too steep in a model with offset noise")
    return tuple(found)


def standard_variants(hp: DynamicsHyperparameters, num_agents: int) -> dict[str, dict[str, Any]]:
    """What a report compares: as trained; orders, as in appendix E.2 with 2N steps; modes; twice the steps; Heun.

    A way that samples as the trained one, or as one before it, is left out.
    """
    trained, twice = hp.denoising_steps(num_agents), 2 * num_agents
    enough = max(trained, num_agents)
    ways: dict[str, dict[str, Any]] = {f"{order}, K = {twice}": order_of(order, twice) for order in ORDERS}
    ways |= {f"{mode}, K = {enough}": {"conditioning": mode, "num_denoising_steps": enough} for mode in MODES}
    ways |= {f"K = {2 * trained}": {"num_denoising_steps": 2 * trained}, "heun": {"sampler_solver": "heun"}}
    distinct = {}
    for name, way in {TRAINED: {}, **ways}.items():
        distinct.setdefault(_sampling(hp, num_agents, way), (name, way))
    return dict(distinct.values())


def _sampling(hp: DynamicsHyperparameters, num_agents: int, changes: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the changed sampler does: mode, number of steps, order and solver, where these make a difference."""
    changed = dataclasses.replace(hp, **changes)
    mode, steps = changed.conditioning, changed.denoising_steps(num_agents)
    order = None if mode == "joint" else changed.conditioning_order
    return mode, steps, order, changed.sampler_solver if steps > 1 else "euler"  # the last step is Euler's in either


def order_of(order: str, steps: int, mode: str = "sequential") -> dict[str, Any]:
    """The changes that reveal agents in an order."""
    return {"conditioning": mode, "conditioning_order": order, "num_denoising_steps": steps}


def _differences(hp: DynamicsHyperparameters, num_agents: int, changes: Mapping[str, Any]) -> set[str]:
    """Which of the changes change anything."""
    changed = dataclasses.replace(hp, **changes)
    names = {name for name in changes if getattr(hp, name) != getattr(changed, name)}
    same_steps = hp.denoising_steps(num_agents) == changed.denoising_steps(num_agents)
    return names - {"num_denoising_steps"} if same_steps else names


def compare(
    world_model: WorldModel,
    segments: Segments,
    mask: torch.Tensor,
    variants: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
) -> dict[str, Variant]:
    """Errors of the same segments, replayed with the same noise, for each way of sampling.

    Args:
        world_model: trained.
        segments: what happened.
        mask: as for `open_loop_errors`.
        variants: hyperparameters of the sampler by name.
        seed: of the noise.
    """
    results = {}
    for name, changes in variants.items():
        why = caveats(world_model.dynamics.hp, world_model.dynamics.num_agents, changes)
        with sampled_with(world_model, **changes):
            imagined = replay(world_model, segments, seed)
        results[name] = Variant(changes, open_loop_errors(world_model, segments, imagined, mask), why)
    return results

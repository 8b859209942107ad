"""The trained policy alone: out of a checkpoint, without the world model and without starting Ray.

policy = Policy.from_checkpoint("results/quickstart/checkpoint")
policy.reset()                         # whenever an episode begins: MAMBA's policy remembers what was before
actions = policy.act(observations)     # dicts by agent
policy.export("policy.pt2")            # of torch.export: runs wherever torch does, without this package

Checkpoints hold the policy twice: in RLlib's pickles, and as an array file and JSON, which cannot run code when they
are read. `Policy` reads only the latter, so it is safe with a stranger's checkpoint; RLlib's restore is not.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import numbers
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.fs
import torch
from torch import nn

from rllib_dima.checkpoint import CheckpointError, Place, locate, opened
from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout, joined_mask, usable_blocks
from rllib_dima.core.mamba.policy import MAMBAPolicy
from rllib_dima.core.marie.networks import MARIEActor
from rllib_dima.core.model_free.soft_networks import SquashedActors
from rllib_dima.core.policy.networks import ActingNetwork, Actor, AgentActors, JointPolicyNetwork, PolicyNetwork

POLICY_FOLDER = "learner_group/learner/rl_module/shared_policy"
WEIGHTS_FILE_NAME, DESCRIPTION_FILE_NAME = "weights.npz", "policy.json"  # in that folder
LAYOUT_FILE_NAME = "layout.json"  # inside an exported file
NETWORKS = {network.__name__: network for network in (Actor, AgentActors, MAMBAPolicy, MARIEActor, SquashedActors)}
"""Policies by the name in a checkpoint, which must not choose what is run: others are not loaded."""


class Policy:
    """The policy of all agents, in plain torch on the CPU.

    Most are decentralised: an agent's action follows from its observation. A joint one (MAMBA's) acts for all agents of
    one environment at once and remembers what was before: use an object of its own for every environment, and `reset`.

    Args:
        actor: the trained network.

    Attributes:
        layout: the agents, their order, and the sizes of observations and actions.
    """

    def __init__(self, actor: PolicyNetwork | JointPolicyNetwork) -> None:
        self.actor, self.layout = actor.cpu().eval(), actor.layout
        self.reset()

    @classmethod
    def from_checkpoint(cls, path: Any, filesystem: pyarrow.fs.FileSystem | None = None) -> Policy:
        """Loads the policy of a checkpoint; nothing else of it is read, and nothing in it is run.

        Args:
            path: what `algo.save_to_path()` returned, or a `checkpoint_000000` folder of Tune's: a path, a URI or a
                `Checkpoint` of Tune's.
            filesystem: of pyarrow, on which `path` is a path.

        Raises:
            CheckpointError: it is missing, damaged, incomplete or of no algorithm here, or its policy is not finite.
        """
        with opened(path, filesystem, only=POLICY_FOLDER) as checkpoint:
            folder = checkpoint / POLICY_FOLDER
            if not folder.is_dir():
                raise CheckpointError(f"The checkpoint {path} holds no policy: {POLICY_FOLDER} is missing.")
            return cls(_load_actor(folder, path))

    def reset(self) -> None:
        """Begins an episode. A decentralised policy has nothing to forget."""
        if isinstance(self.actor, JointPolicyNetwork):
            self._memory = torch.zeros(1, self.layout.num_agents, self.actor.memory_size)

    @torch.no_grad()
    def act(
        self,
        observations: Mapping[Any, Any],
        deterministic: bool = True,
        action_masks: Mapping[Any, Any] | None = None,
    ) -> dict[Any, np.ndarray | int]:
        """Every agent's action, from its own observation; of a joint policy from those of all, and what was before.

        Args:
            observations: by agent, those of a `CooperativeEnv`, padded (O,), which hold masks already; or the
                environment's own, flattened to the agent's own size, or as {"observation": ..., "action_mask": ...}.
                Agents may be left out, and those that have left must be; a joint policy needs all the others.
            deterministic: the mean, or the likeliest choice, of the policy that is evaluated, instead of a draw from
                the one that explores, with torch's global generator.
            action_masks: by agent, 1 for each of its own choices that is available, else 0. Needed beside the
                environment's own observations, if the policy was trained with masks.

        Returns:
            By agent, float32 (A,) in [-1, 1], with zeros as padding, or an integer, or int64 (F,) of several choices at
            once: what `CooperativeEnv.step` takes.

        Raises:
            ValueError: no agents, unknown ones, observations that are of a wrong size, NaN or infinite, or masks that
                are missing, of a wrong size, or leave nothing to do; or agents that a joint policy needs are missing.
        """
        if not observations:
            raise ValueError(f"act() was given no observations; give those of some of {list(self.layout.agent_ids)}.")
        agents = list(observations)
        masks = action_masks or {}
        padded = np.stack([self._padded(agent, observations[agent], masks.get(agent)) for agent in agents])  # (B, O)
        if not np.isfinite(padded).all():
            raise ValueError(_describe_unfinite(agents, padded))
        actions = self._actions(agents, torch.from_numpy(padded), deterministic)
        if self.layout.is_discrete:
            return dict(zip(agents, actions.numpy() if self.layout.is_factored else actions.tolist(), strict=True))
        return dict(zip(agents, self.layout.bounded(actions).numpy(), strict=True))

    def export(self, path: Any, filesystem: pyarrow.fs.FileSystem | None = None) -> None:
        """Writes the deterministic policy as a program of `torch.export`, which needs torch alone:

            extra = {"layout.json": ""}
            policy = torch.export.load("policy.pt2", extra_files=extra).module()
            actions = policy(observations)

        It takes padded observations (B, O), which hold masks of actions if there are any, and each end with what
        identifies its agent (see `rllib_dima/core/layout.py`); and returns actions (B, A) in [-1, 1] or, of discrete
        ones, int64 (B,), or (B, F) of several choices at once. `extra` then holds the agents, their sizes and where
        masks are as JSON. Torch may unpickle what is in such a file: load only those that you trust.

        A joint policy's program takes the observations of B teams (B, N, O) and what they remember (B, N, M), zeros
        when an episode begins; it returns their actions (B, N, ...) and what they remember then. "memory_size" is M.

        Args:
            path: the file to write, whose name ends in .pt2: a path or URI.
            filesystem: of pyarrow, on which `path` is a path.

        Raises:
            FileNotFoundError: the folder it is to be in does not exist.
            ValueError: `path` is a folder, or its name ends otherwise.
        """
        file = _writable(locate(path, filesystem))
        module, examples = self._exportable()
        batch = tuple({0: torch.export.Dim("batch")} for _ in examples)
        with torch.no_grad():
            program = torch.export.export(module.eval(), examples, dynamic_shapes=batch)
        content = io.BytesIO()
        memory = {"memory_size": self.actor.memory_size} if isinstance(self.actor, JointPolicyNetwork) else {}
        description = json.dumps({**_description(self.layout), **memory}, default=_plain)
        torch.export.save(program, content, extra_files={LAYOUT_FILE_NAME: description})
        with file.filesystem.open_output_stream(file.path) as stream:
            stream.write(content.getbuffer())

    def _actions(self, agents: list[Any], padded: torch.Tensor, deterministic: bool) -> torch.Tensor:
        """(B, ...) of B agents, whose padded observations are (B, O)."""
        if not isinstance(self.actor, JointPolicyNetwork):
            return self.actor.act(padded, deterministic)
        missing = [agent for agent in self.layout.agent_ids if agent not in agents]
        if missing and not self.layout.agents_leave:
            raise ValueError(
                f"{type(self.actor).__name__} acts for all agents together, but the observations of {missing} are "
                "missing: give act() those of all agents."
            )
        rows = [self.layout.agent_ids.index(agent) for agent in agents]
        team = torch.zeros(self.layout.num_agents, self.layout.observation_size)
        if self.layout.appends_agent_id:
            team[:, -self.layout.num_agents :] = torch.eye(self.layout.num_agents)  # all that is seen of who has left
        team[rows] = padded
        actions, self._memory = self.actor.act_jointly(team.unsqueeze(0), self._memory, deterministic)
        return actions[0, rows]

    def _exportable(self) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
        """What is exported, and inputs of it."""
        agents, size = self.layout.num_agents, self.layout.observation_size
        if isinstance(self.actor, JointPolicyNetwork):
            inputs = torch.zeros(2, agents, size), torch.zeros(2, agents, self.actor.memory_size)
            return _DeterministicTeam(self.actor), inputs
        return _Deterministic(self.actor), (torch.zeros(2 * agents, size),)

    def _padded(self, agent: Any, observation: Any, mask: Any = None) -> np.ndarray:
        """(O,) float32: the observation as `CooperativeEnv` presents it."""
        layout = self.layout
        if isinstance(observation, Mapping):
            observation, mask = _split(agent, observation)
        if agent not in layout.agent_ids:
            raise ValueError(f"Unknown agent {agent!r}; the policy was trained for {list(layout.agent_ids)}.")
        index = layout.agent_ids.index(agent)
        own_size = layout.observation_sizes[index]
        values = np.asarray(observation, dtype=np.float32).reshape(-1)
        if values.size == layout.observation_size:
            return values
        if values.size != own_size:
            raise ValueError(
                f"The observation of agent {agent!r} has {values.size} entries, but the policy was trained with "
                f"{own_size} ({layout.observation_size} with padding and agent id)."
            )
        padded = np.zeros(layout.observation_size, np.float32)
        padded[:own_size] = values
        if layout.masks_actions:
            padded[layout.available_slice][layout.action_mask()[index].numpy()] = self._checked_mask(agent, index, mask)
        if layout.agents_leave:
            padded[layout.alive_index] = 1.0
        if layout.appends_agent_id:
            padded[index - layout.num_agents] = 1.0
        return padded

    def _checked_mask(self, agent: Any, index: int, mask: Any) -> np.ndarray:
        """(own choices,) bool of the agent with this index."""
        if mask is None:
            raise ValueError(
                f"The policy was trained with masks of actions, but there is none for agent {agent!r}: give act() "
                'action_masks, or observations of the form {"observation": ..., "action_mask": ...}.'
            )
        size, available = self.layout.action_sizes[index], np.asarray(joined_mask(mask)).reshape(-1) > 0
        choices = self.layout.action_choices[index] if self.layout.is_factored else (size,)
        if available.size != size or not usable_blocks(available, choices):
            each = f", of each of the {len(choices)} choices" if len(choices) > 1 else ""
            raise ValueError(
                f"The action mask of agent {agent!r} is {mask}, but must have {size} entries, of which at least one is "
                f"available{each}."
            )
        return available


def save_weights(folder: Place, actor: ActingNetwork, weights_by_name: Mapping[str, np.ndarray]) -> None:
    """Writes into a folder what `Policy` needs of a checkpoint, as files that cannot run code when they are read.

    Args:
        folder: where to write.
        actor: the network.
        weights_by_name: its parameters and buffers, which may be older than those it has.
    """
    description = {
        "network": type(actor).__name__,
        "layout": dataclasses.asdict(actor.layout),
        "hyperparameters": {name: getattr(actor.hp, name) for name in actor.HYPERPARAMETERS.names()},
    }
    weights = io.BytesIO()
    np.savez(weights, **weights_by_name)  # pyright: ignore[reportArgumentType]: no array is called allow_pickle
    files = {
        DESCRIPTION_FILE_NAME: json.dumps(description, default=_plain).encode(),
        WEIGHTS_FILE_NAME: weights.getbuffer(),
    }
    for name, content in files.items():
        with folder.filesystem.open_output_stream(f"{folder.path}/{name}") as stream:
            stream.write(content)


def load_layout(folder: pathlib.Path) -> AgentLayout:
    """The agents of the policy that `save_weights` wrote to a local folder.

    Raises:
        CheckpointError: the file is missing or says something else.
    """
    return _load_description(folder)[1]


def _load_actor(folder: pathlib.Path, path: Any) -> PolicyNetwork | JointPolicyNetwork:
    """The network that `save_weights` wrote to a folder of the checkpoint `path`."""
    network, layout, hyperparameters = _load_description(folder)
    actor = network(layout, hyperparameters)
    try:
        with np.load(folder / WEIGHTS_FILE_NAME, allow_pickle=False) as weights:
            state = {name: torch.from_numpy(weights[name]) for name in weights.files}
        actor.load_state_dict(state)
    except (OSError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"The checkpoint {path} holds no policy that can be read: {error}") from error
    _check_finite(state, path)
    return actor


def _load_description(
    folder: pathlib.Path,
) -> tuple[type[PolicyNetwork | JointPolicyNetwork], AgentLayout, Hyperparameters]:
    try:
        description = json.loads((folder / DESCRIPTION_FILE_NAME).read_bytes())
        layout, hyperparameters = (
            {name: _as_tuple(value) for name, value in description[part].items()}
            for part in ("layout", "hyperparameters")
        )
        network = NETWORKS[description["network"]]
        return network, AgentLayout(**layout), network.HYPERPARAMETERS(**hyperparameters)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION_FILE_NAME} describes no policy: {error!r}") from error


def _split(agent: Any, observation: Mapping[str, Any]) -> tuple[Any, Any]:
    """An observation and its mask."""
    others = [key for key in observation if key != "action_mask"]
    if len(others) != 1:
        raise ValueError(
            f"The observation of agent {agent!r} is a dict with {list(observation)}, but must be a vector, or a dict "
            'of one and its "action_mask". Flatten it as gymnasium.spaces.flatten does.'
        )
    return observation[others[0]], observation.get("action_mask")


def _plain(number: Any) -> int | float:
    """Numpy's numbers as JSON can hold them."""
    return int(number) if isinstance(number, numbers.Integral) else float(number)


def _as_tuple(value: Any) -> Any:
    """Turns lists back into tuples, which JSON does not know."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


class _Deterministic(nn.Module):
    """What is exported."""

    def __init__(self, actor: PolicyNetwork) -> None:
        super().__init__()
        self.actor = copy.deepcopy(actor).requires_grad_(False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        agents = self.actor.layout.agent_index(observations)
        actions = self.actor.acting(observations, agents).deterministic()
        return self.actor.layout.bounded(actions)


class _DeterministicTeam(nn.Module):
    """What is exported of a joint policy."""

    def __init__(self, actor: JointPolicyNetwork) -> None:
        super().__init__()
        self.actor = copy.deepcopy(actor).requires_grad_(False)

    def forward(self, observations: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        actions, memory = self.actor.act_jointly(observations, memory, deterministic=True)
        return self.actor.layout.bounded(actions), memory


def _description(layout: AgentLayout) -> dict[str, Any]:
    return {
        "agents": layout.agent_ids,
        "observation_sizes": layout.observation_sizes,
        "observation_size": layout.observation_size,
        "appends_agent_id": layout.appends_agent_id,
        "action_kind": layout.action_kind,
        "action_sizes": layout.action_sizes,
        "action_choices": layout.action_choices,
        "action_mask_at": [layout.available_slice.start, layout.available_slice.stop] if layout.masks_actions else None,
        "alive_at": layout.observation_size + layout.alive_index if layout.agents_leave else None,
    }


def _check_finite(state: Mapping[str, torch.Tensor], path: str | pathlib.Path) -> None:
    names = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if names:
        raise CheckpointError(
            f"The policy in the checkpoint {path} holds NaN or infinite values ({', '.join(names)}): training had "
            "failed before it was saved. Use an earlier checkpoint."
        )


def _describe_unfinite(agents: list[Any], padded: np.ndarray) -> str:
    """Which of the observations (B, O) are NaN or infinite, and where."""
    index = int(np.argmin(np.isfinite(padded).all(axis=1)))
    wrong = np.flatnonzero(~np.isfinite(padded[index]))
    return (
        f"The observation of agent {agents[index]!r} is NaN or infinite in float32, in {wrong.size} of its entries, "
        f"the first of them entry {wrong[0]}; the policy needs finite numbers. Look for the cause in the environment."
    )


def _writable(file: Place) -> Place:
    """Returns `file` if an export can be written there."""
    parent = pathlib.PurePosixPath(file.path).parent.as_posix()
    of_file, of_parent = (file.filesystem.get_file_info(path).type for path in (file.path, parent))
    if of_file == pyarrow.fs.FileType.Directory:
        raise ValueError(
            f"Cannot export the policy to {file.path}, which is a folder: give a file, as {file.path}/policy.pt2."
        )
    if not file.path.endswith(".pt2"):
        raise ValueError(
            f"Cannot export the policy to {file.path}: exports are torch.export programs, no longer TorchScript. "
            "Give a name that ends in .pt2, and load it with torch.export.load()."
        )
    if of_parent != pyarrow.fs.FileType.Directory:
        raise FileNotFoundError(
            f"Cannot export the policy to {file.path}: there is no folder {parent}. Create it first."
        )
    return file

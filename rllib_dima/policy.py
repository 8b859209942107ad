"""The trained policy alone: out of a checkpoint, without the world model and without starting Ray.

policy = Policy.from_checkpoint("results/quickstart/checkpoint")
actions = policy.act(observations)     # dicts by agent
policy.export("policy.pt")             # TorchScript: runs wherever torch does, without this package
"""

from __future__ import annotations

import copy
import json
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from rllib_dima.checkpoint import CheckpointError, verify
from rllib_dima.core.behavior import Actor
from rllib_dima.core.layout import AgentLayout

POLICY_FOLDER = "learner_group/learner/rl_module/shared_policy"
LAYOUT_FILE_NAME = "layout.json"  # inside an exported file


class Policy:
    """The decentralised policy of all agents, in plain torch on the CPU.

    Args:
        actor: the trained network.

    Attributes:
        layout: the agents, their order, and the sizes of observations and actions.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor, self.layout = actor.cpu().eval(), actor.layout

    @classmethod
    def from_checkpoint(cls, path: str | pathlib.Path) -> Policy:
        """Loads the policy of a checkpoint on a local disk; nothing else of the checkpoint is read.

        Args:
            path: what `algo.save_to_path()` returned, or a `checkpoint_000000` folder of Tune's.

        Raises:
            CheckpointError: it is missing, damaged, incomplete or not DIMA's, or its policy is not finite.
        """
        verify(path, only=POLICY_FOLDER)
        folder = pathlib.Path(path).expanduser() / POLICY_FOLDER
        settings = _unpickle(folder / "class_and_ctor_args.pkl")["ctor_args_and_kwargs"][1]["model_config"]
        actor = Actor(settings["layout"], settings["hyperparameters"])
        state = _unpickle(folder / "module_state.pkl")
        state = {name.removeprefix("net."): torch.tensor(value) for name, value in state.items()}
        _check_finite(state, path)
        actor.load_state_dict(state)
        return cls(actor)

    @torch.no_grad()
    def act(self, observations: Mapping[Any, Any], deterministic: bool = True) -> dict[Any, np.ndarray | int]:
        """Every agent's action, from its own observation.

        Args:
            observations: by agent, those of a `CooperativeEnv`, padded (O,), or the environment's own, of the agent's
                own size. Some of the agents are enough.
            deterministic: the mean, or the likeliest choice, instead of a draw from torch's global generator.

        Returns:
            By agent, float32 (A,) in [-1, 1], with zeros as padding, or an integer: what `CooperativeEnv.step` takes.

        Raises:
            ValueError: no agents, unknown ones, or observations that are of a wrong size, NaN or infinite.
        """
        if not observations:
            raise ValueError(f"act() was given no observations; give those of some of {list(self.layout.agent_ids)}.")
        agents = list(observations)
        padded = np.stack([self._padded(agent, observations[agent]) for agent in agents])  # (B, O)
        if not np.isfinite(padded).all():
            raise ValueError(_describe_unfinite(agents, padded))
        actions = self.actor.act(torch.from_numpy(padded), deterministic)
        if self.layout.is_discrete:
            return dict(zip(agents, actions.tolist(), strict=True))
        return dict(zip(agents, actions.clamp(-1, 1).numpy(), strict=True))

    def export(self, path: str | pathlib.Path) -> None:
        """Writes the deterministic policy as a TorchScript file.

        Its `forward` takes padded observations (B, O), each ending with what identifies its agent, and returns actions
        (B, A) in [-1, 1] or, of discrete ones, int64 (B,). The file holds the agents and their sizes as JSON in the
        extra file `LAYOUT_FILE_NAME`.

        Args:
            path: the file to write.

        Raises:
            FileNotFoundError: the folder it is to be in does not exist.
            ValueError: `path` is a folder.
        """
        file = _writable(pathlib.Path(path).expanduser())
        example = torch.zeros(2 * self.layout.num_agents, self.layout.observation_size)
        with torch.no_grad():
            script = torch.jit.trace(_Deterministic(self.actor).eval(), example, check_trace=False)
        torch.jit.save(script, str(file), _extra_files={LAYOUT_FILE_NAME: json.dumps(_description(self.layout))})

    def _padded(self, agent: Any, observation: Any) -> np.ndarray:
        """(O,) float32: the observation as `CooperativeEnv` presents it."""
        layout = self.layout
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
        if layout.appends_agent_id:
            padded[index - layout.num_agents] = 1.0
        return padded


class _Deterministic(nn.Module):
    """What is exported."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = copy.deepcopy(actor).requires_grad_(False)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        agents = self.actor.layout.agent_index(observations)
        actions = self.actor(observations, agents).deterministic()
        return actions if self.actor.layout.is_discrete else actions.clamp(-1, 1)


def _description(layout: AgentLayout) -> dict[str, Any]:
    return {
        "agents": [str(agent) for agent in layout.agent_ids],
        "observation_sizes": layout.observation_sizes,
        "observation_size": layout.observation_size,
        "appends_agent_id": layout.appends_agent_id,
        "action_kind": layout.action_kind,
        "action_sizes": layout.action_sizes,
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


def _writable(file: pathlib.Path) -> pathlib.Path:
    """The file, if there is a folder to write it into."""
    if file.is_dir():
        raise ValueError(f"Cannot export the policy to {file}, which is a folder: give a file, as {file}/policy.pt.")
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot export the policy to {file}: there is no folder {file.parent}. Create it first."
        )
    return file


def _unpickle(file: pathlib.Path) -> Any:
    if not file.is_file():
        raise CheckpointError(f"The checkpoint holds no policy: {file} is missing.")
    with file.open("rb") as stream:
        return pickle.load(stream)

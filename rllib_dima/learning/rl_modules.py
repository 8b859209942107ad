"""Networks as RLlib modules: the policy, which environment runners hold, and those that only learners hold.

The networks themselves live in `rllib_dima.core`; these classes give each of them a module id, a place in checkpoints
and, for the policy, the two ways of acting. Only the policy is ever sent to an environment runner.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow.fs
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.util import log_once
from torch import nn

from rllib_dima.checkpoint import locate
from rllib_dima.core.hyperparameters import Hyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.policy.networks import JointPolicyNetwork, PolicyNetwork
from rllib_dima.policy import save_weights

POLICY_ID = "shared_policy"


def module_id(network: str) -> str:
    """The id of the module that holds a trainer's network: the actor is the shared policy."""
    return POLICY_ID if network == "actor" else network


# RLlib builds every MultiRLModule through a class it calls deprecated, and would say so once in every process.
log_once("RLModule(config=[RLModuleConfig object])")


class TeamNetwork(TorchRLModule):
    """A network of `rllib_dima.core` under an RLlib module id; `net` is the network itself.

    `model_config` must hold "network" (what makes it), "layout" (`AgentLayout`) and "hyperparameters"
    (`Hyperparameters`), and for the policy whether it "records_log_probs"; `TeamConfig` puts them there.

    Raises:
        RuntimeError: if the network cannot be built. (RLlib would report an AttributeError raised here as the use of
            a deprecated constructor, so the original error is chained under a message that names the module.)
    """

    net: nn.Module
    layout: AgentLayout

    def setup(self) -> None:
        """Builds `net` from the layout and the hyperparameters in `model_config`."""
        self.layout = self.model_config["layout"]
        hyperparameters: Hyperparameters = self.model_config["hyperparameters"]
        try:
            self.net = self.model_config["network"](self.layout, hyperparameters)
        except AttributeError as error:
            name = self.model_config["network"].__name__
            raise RuntimeError(f"The network {name} could not be built: {error}") from error

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, copied: RLlib's arrays share memory with a CPU network that trains on."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.state_dict().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Loads what `get_state` returned, exactly. (RLlib would round the float64 statistics to float32.)

        Raises:
            ValueError: the state is that of a network of another size or kind.
        """
        try:
            self.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
        except RuntimeError as error:
            raise ValueError(
                f"The saved state does not fit this {type(self.net).__name__}: it was saved with another environment, "
                f"recipe, model_size or network sizes. Build the algorithm with the same ones. {error}"
            ) from error

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        raise RuntimeError(
            f"{type(self.net).__name__} is not trained through forward_train(): TeamLearner.update() has the "
            "algorithm's trainer train `module.net`."
        )


class TeamPolicy(TeamNetwork):
    """The policy of all agents: local observations (B, O) to actions; or those of whole teams, with their memories."""

    net: PolicyNetwork | JointPolicyNetwork

    def save_to_path(
        self,
        path: str | pathlib.Path | None = None,
        *,
        state: dict[str, Any] | None = None,
        filesystem: pyarrow.fs.FileSystem | None = None,
        use_msgpack: bool = False,
    ) -> str:
        """Writes RLlib's files, and beside them those that `rllib_dima.Policy` reads."""
        place = locate(tempfile.mkdtemp() if path is None else path, filesystem)
        state = self.get_state() if state is None else state
        super().save_to_path(place.path, state=state, filesystem=place.filesystem, use_msgpack=use_msgpack)
        save_weights(place, self.net, {name.removeprefix("net."): value for name, value in state.items()})
        return place.path

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, deterministic=True)

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self._act(batch, deterministic=False)

    @torch.no_grad()
    def _act(self, batch: dict[str, Any], deterministic: bool) -> dict[str, Any]:
        """Actions in the order of the batch, computed in the order of the agents.

        RLlib orders the agents of an environment as a Python set does, which is another order in every process. Noise
        must not depend on that, or the same seed would give another run.

        Raises:
            ValueError: the observations are no tensor (B, O).
        """
        observations = batch.get(Columns.OBS)
        if not isinstance(observations, torch.Tensor) or observations.shape[1:] != (self.layout.observation_size,):
            kind, shape = type(observations).__name__, tuple(getattr(observations, "shape", ()))
            raise ValueError(
                f"The policy's module acts on a batch whose {Columns.OBS!r} is a tensor of shape (B, "
                f"{self.layout.observation_size}): an agent's padded observation in each row. It was given a {kind} of "
                f"shape {shape}. For observations as the environment gives them: "
                "rllib_dima.Policy(module.net).act(observations by agent)."
            )
        observations = observations.float()
        if isinstance(self.net, JointPolicyNetwork):
            teams = observations.unflatten(0, (-1, self.layout.num_agents))  # (B, N, O), as `TeamToModule` orders rows
            actions, memories = self.net.act_jointly(teams, batch[Columns.STATE_IN], deterministic)
            return {Columns.ACTIONS: actions.flatten(0, 1), Columns.STATE_OUT: memories}
        order = self.layout.agent_index(observations).argsort(stable=True)
        back = order.argsort()
        if self.model_config["records_log_probs"] and not deterministic:
            actions, log_probs = self.net.draw(observations[order])
            return {Columns.ACTIONS: actions[back], Columns.ACTION_LOGP: log_probs[back]}
        return {Columns.ACTIONS: self.net.act(observations[order], deterministic=deterministic)[back]}


class TeamMultiRLModule(MultiRLModule):
    """All modules of an algorithm; an inference-only state holds only those that environment runners have."""

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """State by module id; with `inference_only` without the modules whose spec says `learner_only`.

        RLlib's own `get_state` sends those modules to every environment runner as well, and the built modules do not
        know that they are for learners only; their specs do.
        """
        if inference_only:
            others = [not_components] if isinstance(not_components, str) else not_components or ()
            not_components = [*others, *self._learner_only_ids()]
        return super().get_state(components, not_components=not_components, inference_only=inference_only, **kwargs)

    def _learner_only_ids(self) -> list[str]:
        return [module_id for module_id, spec in self.rl_module_specs.items() if spec.learner_only]

"""Which actions are available at the moment, in the forms in which environments tell it.

    observations   {"observation": ..., "action_mask": ...}, a Dict space, as in PettingZoo and RLlib
    infos          infos[agent]["action_mask"], as in PettingZoo; only if the environment or env_config says so
    method         get_avail_actions(), as in SMAC: a dict by agent, or a list in the order of possible_agents

A mask has an entry for every choice of its agent's own, 1 if it is available. Of several choices at once it is the
masks of all of them, joined or as a tuple.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from rllib_dima.core.layout import joined_mask, usable_blocks
from rllib_dima.envs.adapter import find_attribute
from rllib_dima.envs.observations import MASK_KEY, ObservationReader, numbers_of
from rllib_dima.envs.spaces import AgentAction, ContractError

MaskSource = Literal["auto", "infos"]
MASK_SOURCES = ("auto", "infos")
METHOD = "get_avail_actions"


class ActionMasks:
    """Reads the masks of an environment.

    Args:
        env: the environment, in which the method is looked for.
        readers: of observations, by agent.
        actions: by agent.
        source: "auto": observations that carry masks, or the method; "infos".

    Attributes:
        source: "observations", "method" or "infos"; None if actions are always available.

    Raises:
        ContractError: there are masks, but actions are continuous.
    """

    def __init__(
        self,
        env: Any,
        readers: Mapping[Any, ObservationReader],
        actions: Mapping[Any, AgentAction],
        source: MaskSource = "auto",
    ) -> None:
        self._readers, self._actions = readers, actions
        self._method = find_attribute(env, METHOD)
        self._agents = list(env.possible_agents) or list(actions)
        self.source = self._find(source)
        if self.source and not all(action.kind != "continuous" for action in actions.values()):
            raise ContractError(
                f"The environment masks actions (in {self.source}), but they are continuous.",
                "Only choices can be masked: leave the mask out, or make the actions Discrete.",
            )

    def read(
        self, agents: Iterable[Any], observations: Mapping[Any, Any], infos: Mapping[Any, Any], is_last: bool
    ) -> dict[Any, np.ndarray]:
        """(own choices,) float32 by agent, 1 for what is available.

        Args:
            agents: those who are alive.
            observations: as the environment returned them.
            infos: likewise.
            is_last: whether the episode has ended, so that nothing needs to be available.

        Raises:
            ContractError: a mask is missing, of another size, or leaves nothing to do.
        """
        given = self._by_agent() if self.source == "method" else {}
        masks = {}
        for agent in agents:
            if self.source == "observations":
                reader = self._readers[agent]
                mask = reader.mask(observations[agent]) if reader.has_mask else np.ones(self._actions[agent].size)
            else:
                mask = given.get(agent) if self.source == "method" else (infos.get(agent) or {}).get(MASK_KEY)
            masks[agent] = self._checked(agent, mask, is_last)
        return masks

    def _find(self, source: MaskSource) -> Literal["observations", "method", "infos"] | None:
        if source == "infos":
            return "infos"
        if any(reader.has_mask for reader in self._readers.values()):
            return "observations"
        return "method" if self._method is not None else None

    def _by_agent(self) -> Mapping[Any, Any]:
        given = self._method()  # pyright: ignore[reportOptionalCall]: the source is the method
        return given if isinstance(given, Mapping) else dict(zip(self._agents, given, strict=True))

    def _checked(self, agent: Any, mask: Any, is_last: bool) -> np.ndarray:
        array = numbers_of(joined_mask(mask))
        size = self._actions[agent].size
        if array is None or array.shape != (size,):
            given = mask if array is None else f"of shape {array.shape}"
            raise ContractError(
                f"The action mask of agent {agent!r} (from {self.source}) is {given}, but must have {size} entries, "
                "one for each of its own choices.",
                "Return one for every agent that acts, also after a reset.",
            )
        available = array > 0
        if not (is_last or usable_blocks(available, self._actions[agent].choices)):
            raise ContractError(
                f"The action mask of agent {agent!r} (from {self.source}) leaves it nothing to do: {array.tolist()}.",
                "Have at least one action available, such as one without effect.",
            )
        return available.astype(np.float32)

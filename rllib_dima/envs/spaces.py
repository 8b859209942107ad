"""Which observation, state and action spaces DIMA accepts, and how its actions become the environment's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

if TYPE_CHECKING:
    from rllib_dima.core.layout import ActionKind  # imports torch

LARGEST = 1e15
"""The largest magnitude in observations, states and rewards: the learner squares them and adds up to 1e8 squares, in
float32, which ends at 3.4e38."""


class ContractError(ValueError):
    """An environment is not as DIMA needs it.

    Args:
        found: what is wrong.
        advice: what to do about it.
    """

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found, advice)
        self.found, self.advice = found, advice

    def __str__(self) -> str:
        return f"{self.found} {self.advice}"


class EnvTypeError(ContractError, TypeError):
    """An object is no environment, or of a kind that DIMA cannot train on."""


def require_space(space: gymnasium.Space | None, owner: str) -> None:
    """Refuses a space that is not there, or is of the old gym package.

    Args:
        space: the space.
        owner: whose space it is, for the error, as in "The observation space of agent 'a'".

    Raises:
        ContractError: it is one of both.
    """
    if space is None:
        raise ContractError(
            f"{owner} is None: the environment does not define it.",
            "Set self.observation_spaces and self.action_spaces in its __init__, to dicts with a gymnasium.spaces.Box "
            "(for actions also a Discrete) of every agent.",
        )
    refuse_old_gym(space, owner)


def refuse_old_gym(space: Any, owner: str) -> None:
    """Refuses a space of the package that gymnasium has replaced.

    Args:
        space: the space.
        owner: whose space it is, for the error.

    Raises:
        ContractError: it is one.
    """
    if type(space).__module__.split(".")[0] == "gym":
        kind = type(space).__name__
        raise ContractError(
            f"{owner} is a {kind} of the old gym package, {space}, but DIMA needs gymnasium's.",
            f"Make it a gymnasium.spaces.{kind} with the same arguments: gymnasium took gym's place.",
        )


def box_size(space: gymnasium.Space | None, owner: str) -> int:
    """Number of entries of a Box of any shape, once flattened.

    Args:
        space: the space.
        owner: whose space it is, for the error, as in "The observation space of agent 'a'".

    Raises:
        ContractError: the space is missing, is not a Box or has no entries.
    """
    require_space(space, owner)
    if not isinstance(space, Box):
        raise ContractError(
            f"{owner} is {space}, but DIMA needs a gymnasium.spaces.Box of any shape.",
            "Convert it in the environment, for example with gymnasium.spaces.flatten_space(space) and "
            "gymnasium.spaces.flatten(space, value).",
        )
    size = int(np.prod(space.shape))
    if size < 1:
        raise ContractError(f"{owner} has shape {space.shape}, without any entry.", "Give it at least one entry.")
    return size


class BoxAction:
    """One agent's continuous actions: the leading entries of a padded vector in [-1, 1], rescaled to its own bounds.

    Args:
        agent: whose actions these are, for errors.
        space: the agent's own action space; bounded, of floating-point entries.
        clip: whether entries outside [-1, 1] are clipped.

    Attributes:
        size: real entries of the agent's action vector.

    Raises:
        ContractError: a bound is infinite, or the entries are integers.
    """

    kind: ActionKind = "continuous"
    choices: tuple[int, ...] = ()

    def __init__(self, agent: object, space: Box, clip: bool = True) -> None:
        self.size = box_size(space, f"The action space of agent {agent!r}")
        if not np.issubdtype(space.dtype, np.floating):
            raise ContractError(
                f"The action space of agent {agent!r} is a Box of {space.dtype}, but DIMA needs float entries.",
                "Use a float Box, or a gymnasium.spaces.Discrete for a choice among numbered actions.",
            )
        if not np.isfinite([space.low, space.high]).all():
            raise ContractError(
                f"The action space of agent {agent!r} is {space}, but DIMA needs finite bounds, because its policy "
                "acts in [-1, 1] and is rescaled to them.",
                "Give the Box finite low and high.",
            )
        self._agent, self._space, self._clip = agent, space, clip
        self._center = (space.high.astype(np.float64) + space.low) / 2
        self._half_range = (space.high.astype(np.float64) - space.low) / 2
        self._is_unit = bool((space.low == -1).all() and (space.high == 1).all())

    def to_env(self, action: Any, width: int) -> np.ndarray:
        """The environment's form of an action; entries outside [-1, 1] are clipped first, if it clips.

        Args:
            action: (A,) padded action.
            width: A.

        Returns:
            Array of the shape and the dtype of the agent's own space, within its bounds if it clips.

        Raises:
            ValueError: wrong shape, or entries that are NaN or infinite.
        """
        action = finite_action(self._agent, action, width)[: self.size]
        unit = (action.clip(-1.0, 1.0) if self._clip else action).reshape(self._space.shape)
        if self._is_unit:
            return unit.astype(self._space.dtype)
        scaled = (self._center + self._half_range * unit.astype(np.float64)).astype(self._space.dtype)
        return scaled.clip(self._space.low, self._space.high) if self._clip else scaled  # rounding may pass a bound


class DiscreteAction:
    """One agent's discrete actions: a number below `size`, counted from the first action of its own space.

    Args:
        agent: whose actions these are, for errors.
        space: the agent's own action space.

    Attributes:
        size: number of choices the agent really has.
        choices: the same, in a tuple.
    """

    kind: ActionKind = "discrete"

    def __init__(self, agent: object, space: Discrete) -> None:
        self.size = int(space.n)
        self.choices = (self.size,)
        self._agent, self._start = agent, int(space.start)

    def to_env(self, action: Any, width: int) -> int:
        """The environment's form of an action.

        Args:
            action: an integer in [0, size).
            width: number of choices of the agent that has most, for the error.

        Raises:
            ValueError: not an integer, or outside the agent's own choices.
        """
        choice = np.asarray(action)
        if choice.ndim != 0 or not np.issubdtype(choice.dtype, np.integer):
            raise ValueError(
                f"The action of agent {self._agent!r} is {action!r}, but it must be a single integer below {self.size}."
            )
        if not 0 <= choice < self.size:
            raise ValueError(
                f"The action of agent {self._agent!r} is {int(choice)}, but it has only the choices 0 to "
                f"{self.size - 1} (the shared action space has {width}). Mask the others with layout.action_mask()."
            )
        return int(choice) + self._start


class MultiDiscreteAction:
    """One agent's several choices at once: numbers below those of `choices`, counted from the first of each.

    In a team that mixes them with single choices, a `Discrete` space is one choice.

    Args:
        agent: whose actions these are, for errors.
        space: the agent's own action space.

    Attributes:
        size: sum of the numbers of choices.
        choices: the numbers of choices.

    Raises:
        ContractError: the space is without any choice.
    """

    kind: ActionKind = "multi_discrete"

    def __init__(self, agent: object, space: MultiDiscrete | MultiBinary | Discrete) -> None:
        self._agent, self._space = agent, space
        if isinstance(space, Discrete):
            sizes, start = np.array([space.n]), np.array([space.start])
        elif isinstance(space, MultiDiscrete):
            sizes, start = space.nvec.reshape(-1), space.start.reshape(-1)
        else:
            sizes = np.full(int(np.prod(space.shape)), 2)
            start = np.zeros_like(sizes)
        if not sizes.size:
            raise ContractError(f"The action space of agent {agent!r} is {space}, without any choice.", "Give it one.")
        self._sizes, self._start = sizes, start
        self.choices, self.size = tuple(map(int, sizes)), int(sizes.sum())

    def to_env(self, action: Any, width: int) -> Any:
        """The environment's form of an action.

        Args:
            action: (F,) integers; those beyond the agent's own choices are padding.
            width: entries of an action in its one-hot form, which does not matter here.

        Returns:
            Array of the shape and dtype of the agent's own space; an integer if that is a `Discrete`.

        Raises:
            ValueError: not integers, too few, or outside the agent's own choices.
        """
        numbers, count = np.asarray(action), len(self.choices)
        if numbers.ndim != 1 or len(numbers) < count or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"The action of agent {self._agent!r} is {action!r}, but it must be {count} integers.")
        own = numbers[:count]
        if ((own < 0) | (own >= self._sizes)).any():
            raise ValueError(
                f"The action of agent {self._agent!r} is {own.tolist()}, but its numbers of choices are {self.choices}."
            )
        chosen = own + self._start
        if isinstance(self._space, Discrete):
            return int(chosen[0])
        return chosen.reshape(self._space.shape).astype(self._space.dtype)


AgentAction = BoxAction | DiscreteAction | MultiDiscreteAction


def agent_action(agent: object, space: gymnasium.Space | None, clip: bool = True, joined: bool = False) -> AgentAction:
    """The translation of one agent's actions, continuous ones clipped to [-1, 1] or not.

    Args:
        agent: whose actions these are, for errors.
        space: the agent's own action space.
        clip: whether continuous actions are clipped.
        joined: whether others of its team make several choices at once, so that one choice is taken as several are.

    Raises:
        ContractError: the space is neither a bounded float Box nor one of choices.
    """
    owner = f"The action space of agent {agent!r}"
    require_space(space, owner)
    if isinstance(space, Box):
        return BoxAction(agent, space, clip)
    if isinstance(space, Discrete) and not joined:
        return DiscreteAction(agent, space)
    if isinstance(space, (Discrete, MultiDiscrete, MultiBinary)):
        return MultiDiscreteAction(agent, space)
    raise ContractError(
        f"{owner} is {space}, but DIMA needs a bounded float gymnasium.spaces.Box, or a Discrete, MultiDiscrete or "
        "MultiBinary.",
        "Flatten Dict and Tuple actions in the environment, into one Box or one MultiDiscrete.",
    )


def team_actions(action_spaces: Mapping[Any, gymnasium.Space | None], clip: bool = True) -> dict[Any, AgentAction]:
    """The translations of all agents' actions, all of one kind, by agent.

    Raises:
        ContractError: an unsupported space, or continuous and discrete ones in one team.
    """
    joined = any(isinstance(space, (MultiDiscrete, MultiBinary)) for space in action_spaces.values())
    actions = {agent: agent_action(agent, space, clip, joined) for agent, space in action_spaces.items()}
    kinds = {agent: action.kind for agent, action in actions.items()}
    if len(set(kinds.values())) > 1:
        raise ContractError(
            f"All agents must have the same kind of actions, but they are {kinds}.",
            "Make all of them Box or all of them discrete, for example by giving continuous agents a few fixed actions "
            "to choose from.",
        )
    return actions


def finite_action(agent: object, action: Any, size: int) -> np.ndarray:
    """(size,) array of a continuous action.

    Args:
        agent: whose action it is, for errors.
        action: what was given.
        size: expected number of entries.

    Raises:
        ValueError: wrong shape, not numbers, or entries that are NaN or infinite.
    """
    action = np.asarray(action)
    if action.shape != (size,) or action.dtype.kind not in "fiu":
        raise ValueError(
            f"The action of agent {agent!r} has shape {action.shape} and dtype {action.dtype}, but it must be "
            f"{size} numbers, shape ({size},), in [-1, 1]."
        )
    if not all_finite(action):
        raise ValueError(
            f"The action of agent {agent!r} has NaN or infinite entries: {action.tolist()}. The policy that computed "
            "it has most likely diverged; look for NaN in its losses and lower its learning rate."
        )
    return action


def all_finite(values: np.ndarray | float) -> bool:
    """Whether no entry is NaN or infinite.

    Args:
        values: numbers, of any shape.
    """
    # This runs several times in every step of every environment. A sum of squares costs half as much as testing every
    # entry, and is finite only if all are; it may overflow, so that only its "yes" counts.
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def in_range(values: np.ndarray | float) -> bool:
    """Whether no entry is NaN, infinite or larger than `LARGEST` in size.

    Args:
        values: numbers, of any shape.
    """
    # As in all_finite, only a "yes" of the sum of squares counts.
    return bool(np.vdot(values, values) < LARGEST**2) or bool(are_in_range(values).all())


def are_in_range(values: np.ndarray | float) -> np.ndarray:
    """By entry, whether it is finite and within `LARGEST`; shaped like `values`."""
    return np.abs(values) <= LARGEST

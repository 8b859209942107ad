"""How observations of any space become vectors, and where in them an environment tells which actions are available."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rllib_dima.envs.spaces import ContractError, require_space

MASK_KEY = "action_mask"
IMAGE_SIDE = 16  # pixels, from which on bytes in rows and columns are an image


class ObservationReader:
    """One agent's observations as vectors.

    A Dict with the key "action_mask", as PettingZoo and RLlib have it, is a mask beside the observation, which is all
    that is under other keys.

    Args:
        agent: whose observations these are, for errors.
        space: the agent's own observation space: any that gymnasium can flatten, but no images.

    Attributes:
        size: entries of a vector, without the mask.
        has_mask: whether observations carry a mask of actions.

    Raises:
        ContractError: the space is missing, holds an image, is without entries, or has no fixed size.
    """

    def __init__(self, agent: object, space: gymnasium.Space | None) -> None:
        self._name = f"the observation of agent {agent!r}"
        owner = f"The observation space of agent {agent!r}"
        self.has_mask = False
        if isinstance(space, spaces.Dict) and MASK_KEY in space.spaces:
            self.has_mask = True
            others = {key: own for key, own in space.spaces.items() if key != MASK_KEY}
            self._keys = list(others)
            space = next(iter(others.values())) if len(others) == 1 else spaces.Dict(others)
        self._space, self.size = space, flat_size(space, owner)

    def read(self, value: Any) -> np.ndarray:
        """(size,) of what the environment returned, in its own dtype.

        Raises:
            ContractError: it does not fit the space.
        """
        if self.has_mask:
            self._require_keys(value)
            value = value[self._keys[0]] if len(self._keys) == 1 else {key: value[key] for key in self._keys}
        if isinstance(self._space, spaces.Box):
            return read_array(self._name, value, self._space.shape).reshape(-1)
        return self._flattened(value)

    def mask(self, value: Any) -> Any:
        """The mask in what the environment returned.

        Raises:
            ContractError: there is none.
        """
        self._require_keys(value)
        return value[MASK_KEY]

    def _require_keys(self, value: Any) -> None:
        if not isinstance(value, Mapping) or not value.keys() >= {MASK_KEY, *self._keys}:
            given = list(value) if isinstance(value, Mapping) else type(value).__name__
            found = f"{self._name} must be a dict with {[*self._keys, MASK_KEY]}, as its space says, but is {given}."
            raise ContractError(found, "Correct one of the two.")

    def _flattened(self, value: Any) -> np.ndarray:
        try:
            flat = np.asarray(spaces.flatten(self._space, value))  # pyright: ignore[reportArgumentType]: checked
        except Exception as error:  # whatever gymnasium raises for a value that does not fit
            found = f"{self._name} does not fit its space {self._space}: {type(error).__name__}: {error}."
            raise ContractError(found, "Return what the space says, or correct the space.") from error
        return read_array(f"{self._name}, flattened,", flat, (self.size,))


def flat_size(space: gymnasium.Space | None, owner: str) -> int:
    """Number of entries of an observation space, once flattened.

    Args:
        space: the space.
        owner: whose space it is, for the error, as in "The observation space of agent 'a'".

    Raises:
        ContractError: the space is missing, holds an image, is without entries, or has no fixed size.
    """
    require_space(space, owner)
    for part in _leaves(space):
        _refuse_image(part, owner)
    if not space.is_np_flattenable:  # pyright: ignore[reportOptionalMemberAccess]: the line above checks it
        raise ContractError(
            f"{owner} is {space}, which has no fixed number of entries.",
            "Use Box, Discrete, MultiDiscrete and MultiBinary, and Dict and Tuple of these: pad sequences and graphs "
            "to their largest size in the environment.",
        )
    size = spaces.flatdim(space)  # pyright: ignore[reportArgumentType]
    if size < 1:
        raise ContractError(f"{owner} is {space}, without any entry.", "Give it at least one entry.")
    return size


def read_array(name: str, value: Any, shape: tuple[int, ...] | None, or_else: str = "") -> np.ndarray:
    """An array that an environment returned.

    Args:
        name: what it is, for the error.
        value: what was returned.
        shape: that of its space.
        or_else: what else can be done if it is another one, for the error.

    Raises:
        ContractError: it is no array of numbers, or of another shape.
    """
    array = numbers_of(value)
    if array is None:
        advice = "Return a numpy array of the shape and the dtype of its space."
        raise ContractError(f"{name} is not an array of numbers: {value!r}.", advice)
    if array.shape != shape:
        found = f"{name} has shape {array.shape}, but its space says {shape}."
        raise ContractError(found, f"Correct one of the two.{or_else}")
    return array


def numbers_of(value: Any) -> np.ndarray | None:
    """The value as an array of numbers; None if it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # nested lists of unequal lengths, tensors on a GPU
        return None
    return array if array.dtype.kind in "biuf" else None


def _leaves(space: Any) -> Iterator[gymnasium.Space]:
    """The spaces within a Dict or Tuple, or the space itself."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            yield from _leaves(part)
    else:
        yield space


def _refuse_image(space: gymnasium.Space, owner: str) -> None:
    """Refuses bytes in rows and columns: DIMA's networks take vectors, and its decoder predicts every entry."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return
    sides = [side for side in space.shape if side >= IMAGE_SIDE]
    if len(space.shape) in (2, 3) and len(sides) >= 2:
        raise ContractError(
            f"{owner} holds an image, {space}, but DIMA learns from vectors.",
            "Have the environment return its state as numbers (many can: PettingZoo's butterfly takes "
            "vector_state=True), or encode the image in a wrapper.",
        )

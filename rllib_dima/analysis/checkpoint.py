"""The world model and the replay buffer out of a checkpoint, without an algorithm around them, and without Ray."""

from __future__ import annotations

from typing import Any, cast

from ray.rllib.core.rl_module import RLModule

from rllib_dima.checkpoint import CheckpointError, opened
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.replay.buffer import ReplayBuffer
from rllib_dima.learning.learner import REPLAY_FILE_NAME

REPLAY_FILE = f"learner_group/learner/{REPLAY_FILE_NAME}"
WORLD_MODEL_FOLDER = "learner_group/learner/rl_module/world_model"


def load_world_model(path: Any) -> Any:
    """Loads the world model of a checkpoint, in evaluation mode, on the CPU; nothing else of it is read.

    It is in pickles of RLlib's, which can run any code that somebody put there: load only what you trust.

    Args:
        path: as for `Policy.from_checkpoint`.

    Returns:
        The algorithm's own: a module with `reset(start)`.

    Raises:
        CheckpointError: it is missing, damaged or incomplete, or of an algorithm without a world model.
    """
    with opened(path, only=WORLD_MODEL_FOLDER) as checkpoint:
        folder = checkpoint / WORLD_MODEL_FOLDER
        if not folder.is_dir():
            raise CheckpointError(
                f"The checkpoint {path} holds no world model: {WORLD_MODEL_FOLDER} is missing. Only DIMA's, "
                "MARIE's and MAMBA's have one."
            )
        try:
            module = cast(Any, RLModule.from_checkpoint(folder.as_posix()))
        except ValueError as error:
            raise CheckpointError(f"The world model of {path} cannot be loaded: {error}") from error
    return module.net.cpu().eval()


def load_replay(path: Any, layout: AgentLayout, capacity: int) -> ReplayBuffer:
    """Loads the replay buffer of a checkpoint, into host memory.

    Args:
        path: as for `Policy.from_checkpoint`.
        layout: of the team.
        capacity: as it was saved with.

    Raises:
        CheckpointError: it is missing, damaged, or of another team.
    """
    with opened(path, only=REPLAY_FILE) as checkpoint:
        file = checkpoint / REPLAY_FILE
        if not file.is_file():
            raise CheckpointError(f"The checkpoint {path} holds no replay buffer: it was saved without.")
        replay = ReplayBuffer(layout, capacity)
        try:
            replay.load(file)
        except ValueError as error:
            raise CheckpointError(f"The replay buffer of {path} cannot be loaded: {error}") from error
    return replay

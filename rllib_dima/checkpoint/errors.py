"""The error of everything about checkpoints."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not one that DIMA can read."""

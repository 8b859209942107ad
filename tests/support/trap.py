"""An object that shows whether it was unpickled."""


class Trap:
    """Shows if it is unpickled."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)

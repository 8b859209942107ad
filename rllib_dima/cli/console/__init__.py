"""What the command says: progress, results, and what a misspelt word was probably meant to be."""

import sys


def notice(message: str) -> None:
    """Prints something worth knowing that is neither a result nor an error."""
    print(f"rllib: note: {message}", file=sys.stderr, flush=True)

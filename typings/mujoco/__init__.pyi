# MuJoCo's names come from compiled modules without types.
from typing import Any

def __getattr__(name: str) -> Any: ...

"""A stand-in for Isaac Gym: what the bridge can see of it, without a simulator."""

import sys

if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym")

"""The paper's own returns, which scores are shares of: arXiv 2505.20922, appendix E.1, Table 2, DIMA, four seeds."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Mean and standard deviation over seeds of the return after so many environment steps."""

    mean: float
    deviation: float
    steps: int


RETURNS = {
    "mamujoco_ant_2x4": Published(4881, 756, 1_000_000),
    "mamujoco_ant_4x2": Published(4766, 450, 1_000_000),
    "mamujoco_halfcheetah_2x3": Published(6370, 121, 1_000_000),
    "mamujoco_halfcheetah_3x2": Published(6175, 212, 1_000_000),
    "mamujoco_halfcheetah_6x1": Published(5643, 163, 1_000_000),
    "mamujoco_walker2d_2x3": Published(3329, 1056, 1_000_000),
    "mamujoco_walker2d_3x2": Published(4084, 357, 1_000_000),
    "bidexhands_bottle_cap": Published(259.9, 4.1, 300_000),
    "bidexhands_door_open_inward": Published(290.4, 29.0, 300_000),
    "bidexhands_door_open_outward": Published(367.1, 19.4, 300_000),
    "bidexhands_pen": Published(24.4, 11.4, 300_000),  # printed as a second row of the bottle cap
}

"""The paper's own returns, which scores are shares of: arXiv 2505.20922, appendix E.1, Table 2, four seeds each."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Mean and standard deviation over seeds of the return after so many environment steps."""

    mean: float
    deviation: float
    steps: int


_COLUMNS = ("DIMA", "MARIE", "MAMBA", "HASAC", "HAPPO", "MAPPO")
_MILLION: dict[str, tuple[tuple[float, float] | None, ...]] = {
    "mamujoco_ant_2x4": ((4881, 756), (4471, 553), (1314, 756), (1344, 282), (1716, 449), (859, 47)),
    "mamujoco_ant_4x2": ((4766, 450), (1173, 136), (1618, 931), (850, 126), (1917, 253), (854, 41)),
    "mamujoco_halfcheetah_2x3": ((6370, 121), (4045, 275), (2813, 1580), (2499, 1081), (2628, 893), (3196, 75)),
    "mamujoco_halfcheetah_3x2": ((6175, 212), (2380, 1145), (3029, 798), (2872, 890), (3402, 317), (2936, 766)),
    "mamujoco_halfcheetah_6x1": ((5643, 163), (1738, 1213), (1848, 220), (2044, 110), (2939, 1113), (925, 121)),
    "mamujoco_walker2d_2x3": ((3329, 1056), (2822, 997), (124, 19), (1135, 210), (1007, 282), (752, 216)),
    "mamujoco_walker2d_3x2": ((4084, 357), (604, 349), (466, 103), (958, 715), (932, 513), (1004, 480)),
}
_300K: dict[str, tuple[tuple[float, float] | None, ...]] = {  # the paper has no MARIE there
    "bidexhands_bottle_cap": ((259.9, 4.1), None, (203.8, 5.2), (210.9, 6.1), (100.7, 3.8), (104.0, 2.3)),
    "bidexhands_door_open_inward": ((290.4, 29.0), None, (225.0, 79.4), (246.3, 7.0), (30.7, 2.5), (65.8, 6.9)),
    "bidexhands_door_open_outward": ((367.1, 19.4), None, (177.4, 43.1), (221.9, 7.3), (58.8, 4.6), (96.4, 8.5)),
    # printed as a second row of the bottle cap
    "bidexhands_pen": ((24.4, 11.4), None, (4.3, 0.4), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)),
}

TABLE = {
    algorithm: {
        task: Published(*cell, steps)
        for rows, steps in ((_MILLION, 1_000_000), (_300K, 300_000))
        for task, cells in rows.items()
        if (cell := cells[column]) is not None
    }
    for column, algorithm in enumerate(_COLUMNS)
}
"""By algorithm and task."""
RETURNS = TABLE["DIMA"]

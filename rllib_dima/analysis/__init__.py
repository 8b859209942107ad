"""Looking at a trained world model: imagination beside what really happened.

    segments = draw_segments(trajectories, count=100, context_length=world_model.hp.context_length, horizon=15)
    errors = open_loop_errors(world_model, segments, replay(world_model, segments), layout.own_observation_mask())

Numbers are made by plain torch and numpy, figures by matplotlib (`figures.py`), and `rllib imagine` puts both together
for a checkpoint (`cli/imagination.py`).
"""

from rllib_dima.analysis.comparison import compare, sampled_with
from rllib_dima.analysis.diversity import diversity
from rllib_dima.analysis.replaying import open_loop_errors, persistence, replay, termination_calibration
from rllib_dima.analysis.segments import draw_segments
from rllib_dima.analysis.sensitivity import model_sensitivity, simulator_sensitivity

__all__ = [
    "compare",
    "diversity",
    "draw_segments",
    "model_sensitivity",
    "open_loop_errors",
    "persistence",
    "replay",
    "sampled_with",
    "simulator_sensitivity",
    "termination_calibration",
]

"""Model-free algorithms with a central critic: MAPPO, HAPPO and HASAC."""

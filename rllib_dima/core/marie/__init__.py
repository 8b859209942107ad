"""MARIE: every agent's future as a sequence of tokens, with all agents' present summed up at each step."""

"""A team whose simulator breaks down."""

import copy

from support.team import Team, team_config

from rllib_dima.envs import SimulationError


class Fragile(Team):
    """Breaks down in a step of the episodes of which it is told: {episode from 0 on: step from 1 on}."""

    def __init__(self, config=None):
        super().__init__(config)
        self.episode = -1

    def reset(self, **kwargs):
        self.episode += 1
        return super().reset(**kwargs)

    def step(self, actions):
        results = super().step(actions)
        if self.config["breaks"].get(self.episode) in (self.steps, "always"):
            raise SimulationError("the door exploded")
        return results

    def get_state(self):
        names = ("episode", "steps", "number", "random")
        return copy.deepcopy({name: self.__dict__.get(name) for name in names})

    def set_state(self, state):
        self.__dict__.update(copy.deepcopy(state))


def fragile_config(breaks, **env_config):
    """A configuration of episodes of 7 steps."""
    return team_config({"breaks": breaks, **env_config}).environment(Fragile)


ALWAYS = dict.fromkeys(range(1000), "always")

"""From what a configuration names to an environment: whichever way it is named, and whatever it is called with."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from mpe2 import simple_spread_v3
from pettingzoo import ParallelEnv
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune import register_env

from rllib_dima import DIMAConfig
from rllib_dima.envs import check_env, create_team
from rllib_dima.envs.spaces import ContractError, EnvTypeError


class Pair(MultiAgentEnv):
    """Two agents that meet nothing; remembers what it was made with."""

    def __init__(self, **given):
        super().__init__()
        self.given = given
        self.possible_agents = self.agents = ["a", "b"]
        self.observation_spaces = dict.fromkeys("ab", Box(-1, 1, (2,)))
        self.action_spaces = dict.fromkeys("ab", Box(-1, 1, (1,)))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {agent: self.np_random.uniform(-1, 1, 2).astype(np.float32) for agent in "ab"}, {}

    def step(self, action_dict):
        observations, infos = Pair.reset(self)
        reward = float(self.np_random.uniform())
        return observations, dict.fromkeys("ab", reward), {"__all__": False}, {"__all__": True}, infos


class Config(Pair):
    def __init__(self, config):
        super().__init__(config=config)


class EnvConfigAndMore(Pair):
    def __init__(self, env_config=None, render_mode=None):
        super().__init__(config=env_config, render_mode=render_mode)


class Annotated(Pair):
    def __init__(self, given: "dict[str, int] | None" = None):
        super().__init__(config=given)


class EmptyDict(Pair):
    def __init__(self, given={}):  # noqa: B006
        super().__init__(config=given)


class OddName(Pair):
    def __init__(self, whatever):
        super().__init__(config=whatever)


class Keywords(Pair):
    def __init__(self, size=3, render_mode=None):
        super().__init__(size=size, render_mode=render_mode)


class Needed(Pair):
    def __init__(self, size, render_mode=None):
        super().__init__(size=size, render_mode=render_mode)


class OnlyKeywords(Pair):
    def __init__(self, *, size: int):
        super().__init__(size=size)


class AnyKeywords(Pair):
    pass


class Layout(Pair):
    def __init__(self, layout: dict, size=2):
        super().__init__(layout=layout, size=size)


class Confidence(Pair):
    def __init__(self, confidence=0.5):
        super().__init__(confidence=confidence)


def made(env, **env_config):
    """What an environment was made with."""
    return create_team(env, EnvContext(env_config, worker_index=2))[0].given


CONVENTIONS = [
    Config,
    EnvConfigAndMore,
    Annotated,
    EmptyDict,
    OddName,
    lambda cfg: Config(cfg),
    lambda _: Config(_),
    lambda *args: Config(*args),
    functools.partial(lambda kind, env_config: kind(env_config), Config),
]


@pytest.mark.parametrize("env", CONVENTIONS)
def test_rllibs_only_argument_is_the_whole_env_config(env):
    given = made(env, size=4, team_reward="mean", state="observations")["config"]
    assert given == {"size": 4} and given.worker_index == 2
    assert made(env)["config"] == {}


@pytest.mark.parametrize(
    ("env", "env_config", "expected"),
    [
        (Keywords, {"size": 4}, {"size": 4, "render_mode": None}),
        (Keywords, {}, {"size": 3, "render_mode": None}),
        (Needed, {"size": 4}, {"size": 4, "render_mode": None}),
        (OnlyKeywords, {"size": 4}, {"size": 4}),
        (AnyKeywords, {"size": 4, "x": 1}, {"size": 4, "x": 1}),
        (Layout, {"layout": {"x": 1}}, {"layout": {"x": 1}, "size": 2}),
        (Confidence, {"confidence": 1}, {"confidence": 1}),
        (lambda: Pair(), {}, {}),
        (functools.partial(Keywords, size=5), {"render_mode": "x"}, {"size": 5, "render_mode": "x"}),
    ],
)
def test_keywords_are_filled_from_env_config(env, env_config, expected):
    assert made(env, **env_config) == expected
    register_env("keywords", env)
    assert made("keywords", **env_config) == expected


@pytest.mark.parametrize(
    ("env", "env_config", "message"),
    [
        (Keywords, {"sise": 4}, r"Keywords takes the keywords \['size', 'render_mode'\], but .*unknown: \['sise'\]"),
        (OnlyKeywords, {}, r"Missing: \['size'\]"),
        (Confidence, {"size": 4}, r"unknown: \['size'\]"),
        (lambda a, b: Pair(), {"a": 1}, r"Missing: \['b'\]"),
        (lambda: Pair(), {"a": 1}, r"unknown: \['a'\]"),
    ],
)
def test_other_keywords_are_refused_alike_whichever_way_the_environment_is_named(env, env_config, message):
    register_env("refusing", env)
    for named in (env, "refusing"):
        with pytest.raises(ContractError, match=f"{message.replace('Keywords takes', 'takes')}.*register_env"):
            made(named, **env_config)
        assert not check_env(named, env_config=env_config, steps=3).ok


def test_pettingzoos_functions_and_classes_take_keywords():
    for env in (simple_spread_v3.parallel_env, lambda config: simple_spread_v3.parallel_env(**config)):
        team, settings = create_team(env, {"N": 2, "team_reward": "mean"})
        assert team.possible_agents == ["agent_0", "agent_1"] and settings == {"team_reward": "mean"}

    class Walk(ParallelEnv):
        def __init__(self, length=3):
            self.length, self.possible_agents = length, ["a", "b"]

        def observation_space(self, agent):
            return Box(-1, 1, (1,))

        action_space = observation_space

    assert create_team(Walk, {"length": 5})[0].par_env.length == 5


def test_gymnasiums_ids_take_keywords_and_keep_their_time_limit():
    gymnasium.register("DimaPair-v0", entry_point=Keywords, max_episode_steps=5)
    team = create_team("DimaPair-v0", {"size": 4})[0]
    assert team.unwrapped.given == {"size": 4, "render_mode": None}
    assert team.spec.max_episode_steps == 5
    assert create_team("DimaPair-v0", {"max_episode_steps": 7})[0].spec.max_episode_steps == 7
    DIMAConfig().environment("test_creation:DimaPair-v0").validate()  # imported first, also in remote runners
    assert create_team("test_creation:DimaPair-v0", {})[0].spec.max_episode_steps == 5


@pytest.mark.parametrize("env", [Config, Keywords, lambda config: Config(config), lambda: Pair()])
def test_check_env_and_training_take_the_same(env):
    config = DIMAConfig().environment(env)
    config.validate()
    assert check_env(env, steps=3).ok


@pytest.mark.parametrize("env", [Pair(), 3])
def test_what_cannot_be_called_is_refused(env):
    with pytest.raises(EnvTypeError, match="is no environment that DIMA can make"):
        DIMAConfig().environment(env).validate()
    with pytest.raises(EnvTypeError, match="is no environment that DIMA can make"):
        create_team(env, {})

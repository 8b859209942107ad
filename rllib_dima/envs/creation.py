"""Makes a team of what a configuration names. Every environment to train on is built here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from pettingzoo import AECEnv, ParallelEnv
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv as TurnBasedPettingZooEnv
from ray.tune.registry import ENV_CREATOR, _global_registry

from rllib_dima.core.names import check_name
from rllib_dima.envs.adapter import joint_agents
from rllib_dima.envs.cooperative import STATE_SOURCES, require_multi_agent
from rllib_dima.envs.gymnasium_team import GymnasiumTeam, layers
from rllib_dima.envs.masks import MASK_SOURCES
from rllib_dima.envs.outcomes import TEAM_REWARDS
from rllib_dima.envs.pettingzoo import PettingZooEnv, turn_based
from rllib_dima.envs.registry import WRAPPER_CONFIG_KEYS, require_registered
from rllib_dima.envs.spaces import ContractError, EnvTypeError

_CONFIG_WORDS = {"config", "cfg", "conf", "configuration", "context", "ctx"}  # in what RLlib's only argument is called
_CONFIG_TYPES = ("dict", "Dict", "Mapping", "EnvContext")  # in its annotation


def create_team(env: Any, env_config: Mapping[str, Any]) -> tuple[MultiAgentEnv, dict[str, Any]]:
    """Builds the environment that a configuration names.

    Args:
        env: an id known to Ray or gymnasium, or a class or function.
        env_config: settings of the environment, as a rule an `EnvContext`, and of `CooperativeEnv`
            (`WRAPPER_CONFIG_KEYS`).

    Returns:
        The environment, and the settings of `CooperativeEnv`.

    Raises:
        EnvTypeError: what was made is no team, or `env` cannot be called.
        ContractError: settings that the environment does not take, or lacks.
        ValueError: an unknown value of a setting of `CooperativeEnv`.
    """
    settings = wrapper_settings(env_config)
    own = env_config if isinstance(env_config, EnvContext) else EnvContext(dict(env_config), worker_index=0)
    own = own.copy_with_overrides()
    for key in settings:
        del own[key]
    return as_multi_agent_env(_create(env, own), settings.get("state") != "observations"), settings


def wrapper_settings(env_config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `CooperativeEnv` in an `env_config`.

    Raises:
        ValueError: one has an unknown value.
    """
    settings = {key: env_config[key] for key in WRAPPER_CONFIG_KEYS if key in env_config}
    check_name(settings.get("team_reward", "shared"), TEAM_REWARDS, "team_reward")
    check_name(settings.get("state", "environment"), STATE_SOURCES, "state in env_config")
    check_name(settings.get("action_masks", "auto"), MASK_SOURCES, "action_masks in env_config")
    if not isinstance(settings.get("agents_leave"), bool | None):
        raise ValueError(f"agents_leave in env_config must be True or False, but is {settings['agents_leave']!r}.")
    return settings


def require_creator(env: Any) -> None:
    """Refuses anything that cannot make an environment.

    Raises:
        EnvTypeError: it cannot be called.
    """
    if not callable(env):
        raise EnvTypeError(
            f"{env!r} is no environment that DIMA can make: it is no id, and cannot be called.",
            "Give an id known to Ray or gymnasium, or a class or function of an env_config.",
        )


def as_multi_agent_env(env: Any, use_state: bool = True) -> MultiAgentEnv:
    """Any environment that DIMA can train on, as an RLlib `MultiAgentEnv`.

    Args:
        env: a `MultiAgentEnv`; a parallel PettingZoo environment, also in RLlib's `ParallelPettingZooEnv`, which hides
            the global state; an environment of gymnasium with a Tuple or Dict of agents. Gymnasium's wrappers around
            them are used.
        use_state: False: never to ask PettingZoo's environments for the state.

    Raises:
        EnvTypeError: anything else, or a wrapper for single agents, with what to do about it.
        ContractError: `state()` fails.
    """
    *around, base = layers(env)
    if isinstance(base, (ParallelEnv, AECEnv)):
        return PettingZooEnv(base, use_state)  # pyright: ignore[reportArgumentType]: it refuses an AECEnv
    if type(env) is ParallelPettingZooEnv:
        return PettingZooEnv(env.par_env, use_state, given=env)
    if isinstance(base, ParallelPettingZooEnv):  # with something of the user's around it
        return GymnasiumTeam(env, PettingZooEnv(base.par_env, use_state))
    if isinstance(base, TurnBasedPettingZooEnv):
        raise turn_based(base.env)
    if isinstance(base, gymnasium.Env) and not isinstance(base, MultiAgentEnv) and joint_agents(env):
        return GymnasiumTeam(env)
    require_multi_agent(base)
    return GymnasiumTeam(env) if around else base  # pyright: ignore[reportReturnType]: the line above checks it


def _create(env: Any, env_config: EnvContext) -> Any:
    """What RLlib makes of an id, a class or a function, in the order in which RLlib looks."""
    if isinstance(env, str):
        require_registered(env)
        if _global_registry.contains(ENV_CREATOR, env):
            return _call(_global_registry.get(ENV_CREATOR, env), env_config, env)
        # Gymnasium's checker knows single agents only.
        return gymnasium.make(env, **{"disable_env_checker": True, **env_config})
    require_creator(env)
    return _call(env, env_config, getattr(env, "__name__", type(env).__name__))


def _call(creator: Callable[..., Any], env_config: EnvContext, name: str) -> Any:
    """Calls a class or function with the whole `env_config`, as RLlib does, or with keywords if it takes those.

    Raises:
        ContractError: it takes keywords, and `env_config` has others, or lacks some.
    """
    try:
        parameters = list(inspect.signature(creator).parameters.values())
    except ValueError:  # written in C
        return creator(env_config)
    if _takes_config(parameters, env_config):
        return creator(env_config)
    _check_keywords(parameters, env_config, name)
    return creator(**env_config)


def _takes_config(parameters: list[inspect.Parameter], env_config: Mapping[str, Any]) -> bool:
    """Whether a callable follows RLlib's convention: its first argument is the `env_config`, and no other is needed."""
    if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        return False
    first, *others = parameters
    if any(_is_needed(other) for other in others):
        return False
    is_called_config = _CONFIG_WORDS & set(first.name.lower().split("_")) or first.name.startswith("_")
    if is_called_config or first.kind is inspect.Parameter.VAR_POSITIONAL:
        return True
    if any(parameter.name in env_config for parameter in parameters):
        return False
    annotation = "dict" if first.annotation is first.empty and _is_needed(first) else str(first.annotation)
    return isinstance(first.default, Mapping) or any(kind in annotation for kind in _CONFIG_TYPES)


def _is_needed(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def _check_keywords(parameters: list[inspect.Parameter], env_config: Mapping[str, Any], name: str) -> None:
    """Refuses an `env_config` that does not fit the keywords of a callable."""
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [] if takes_all else [key for key in env_config if key not in known]
    missing = [p.name for p in parameters if _is_needed(p) and p.name not in env_config]
    if unknown or missing:
        raise ContractError(
            f"{name} takes the keywords {known}, but env_config has {sorted(env_config)}. "
            f"Missing: {missing}; unknown: {unknown}.",
            "Give env_config those keywords; or register a function of the env_config that makes the environment: "
            f'ray.tune.register_env("mine", lambda env_config: {name}(...)).',
        )

"""docs/settings.md: every argument is read or refused as it says, and its callback reads what it says."""

import re
import runpy
from functools import partialmethod

import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from support.pages import ROOT, blocks
from support.team import team_config

import rllib_dima
from rllib_dima import DIMAConfig
from rllib_dima.algorithms.base import TeamAlgorithm

PAGE = ROOT / "docs/settings.md"
HOOKS = runpy.run_path(str(ROOT / "docs/hooks.py"))
VALUES = (3, 0.5, True, False, "x", {"a": 1}, RLlibCallback, lambda *args, **kwargs: None)
"""Whatever an argument takes, one of them is neither its default nor refused by RLlib itself."""
TAKES_ONLY = {"batch_mode": "complete_episodes", "count_steps_by": "agent_steps", "policies": {"a", "b"}}


def rows(method):
    """Of a method's table, what becomes of each argument, by its name."""
    table = HOOKS["_settings_table"](method).splitlines()[2:]
    cells = [line.strip("| ").split(" | ", 1) for line in table]
    return {name: outcome for names, outcome in cells for name in re.findall(r"`(\w+)`", names)}


def refusals(method, name):
    """What is said to values of an argument other than its default; "" where one is accepted."""
    said, before = [], vars(DIMAConfig().environment("mamujoco_ant_4x2"))
    for value in (TAKES_ONLY[name],) if name in TAKES_ONLY else VALUES:
        config = DIMAConfig().environment("mamujoco_ant_4x2")
        try:
            getattr(config, method)(**{name: value})
            if any(kept != before[key] for key, kept in vars(config).items()):
                config.validate()
                said.append("")
        except Exception as error:  # RLlib's own checks raise all kinds
            said.append(str(error))
    return said


@pytest.mark.parametrize("method", HOOKS["settings_methods"]())
def test_arguments_are_read_or_refused_as_the_page_says(method):
    told = rows(method)
    assert told and told.keys() >= HOOKS["settings_of"](method).keys() - {"gamma"}
    for name, outcome in told.items():
        if method == "training" and outcome == "read.":
            continue
        said = refusals(method, name)
        if outcome.startswith("read"):
            assert not any("does not use" in text for text in said), name
            assert "" in said or "Must be" in outcome or name in HOOKS["NOTES"], (name, said)
        elif "`.learners()`" in outcome:
            assert all(f"config.learners({name}=" in text for text in said), name
        else:
            advice = outcome.removeprefix("**refused.**").strip() or "Leave it out."
            refused = [text for text in said if "does not use" in text]
            assert refused and "" not in said and all(advice in text for text in refused), (name, said)


def test_the_page_names_every_method_and_what_algorithms_refuse():
    text = PAGE.read_text()
    assert HOOKS["SETTINGS_MARKER"] in text
    short = text.split("## ")[0]
    assert [name for name in HOOKS["settings_methods"]() if f"`.{name}()`" not in short] == []
    refused = [name for name, method in vars(TeamAlgorithm).items() if isinstance(method, partialmethod)]
    assert len(refused) > 9 and [name for name in refused if f"`{name}`" not in text] == []


def test_all_algorithms_read_the_same_settings_of_rllib():
    of_rllib = vars(AlgorithmConfig()).keys()
    for algorithm in rllib_dima.ALGORITHMS:
        own = getattr(rllib_dima, f"{algorithm}Config").hyperparameter_class.names()
        assert of_rllib & {*own} == {"gamma"}, algorithm


def test_a_dictionarys_entries_are_refused_at_once():
    config = DIMAConfig().environment("mamujoco_ant_4x2").evaluation(evaluation_config={"lr": 1e-3})
    with pytest.raises(ValueError, match="does not use 'lr'"):
        config.get_evaluation_config_object()


def test_the_callback_of_the_page_reads_the_teams_return(ray_running):
    """Episodes of 27 steps, a reward of 1 each, two agents, and iterations of 20 steps."""
    (block,) = blocks(PAGE, "python")
    summed = []
    names = {"config": team_config({"length": 27})}
    exec(compile(block, str(PAGE), "exec"), names)
    config = names["config"]
    config.callbacks(on_episode_step=lambda episode, **kwargs: summed.append(episode.get_return()))
    algo = config.build()
    results = [algo.train()["env_runners"] for _ in range(2)]
    algo.stop()
    assert results[1]["my_return"] == results[1]["episode_return_mean"] == 27
    assert summed[19] == 40 and summed[26] == 14  # both agents; only since the last iteration

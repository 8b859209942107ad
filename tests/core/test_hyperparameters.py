"""Names, types, ranges and precedence of hyperparameters."""

import dataclasses

import numpy as np
import pytest

from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.names import check_name, near_names

FIELDS = dataclasses.fields(DIMAHyperparameters)


def test_defaults_are_the_papers():
    hp = DIMAHyperparameters()
    paper = {
        "context_length": 3, "imagination_horizon": 15, "num_imagined_rollouts": 600, "lambda_": 0.95, "gamma": 0.99,
        "entropy_coeff": 0.001, "clip_param": 0.1, "ppo_epochs": 5, "policy_updates_per_iteration": 4,
        "decoder_lr": 3e-4, "dynamics_lr": 1e-4, "reward_lr": 1e-4, "actor_lr": 5e-4, "critic_lr": 5e-4,
        "decoder_batch_size": 256, "dynamics_batch_size": 64, "reward_batch_size": 128, "replay_capacity": 250_000,
        "decoder_updates_per_iteration": 200, "dynamics_updates_per_iteration": 200, "sigma_data": 0.5,
        "reward_updates_per_iteration": 200, "env_steps_per_iteration": 200, "dynamics_grad_clip": 1.0,
        "noise_log_mean": -0.4, "noise_log_std": 1.2, "sampler_sigma_max": 5.0, "sampler_sigma_min": 2e-3,
        "sampler_rho": 7.0, "conditioning": "sequential", "conditioning_order": "descending",
        "sampler_solver": "euler", "decoder_fsq_levels": (8, 6, 5), "reward_embedding_size": 256,
        "reward_num_layers": 6, "reward_num_heads": 4, "reward_dropout": 0.1, "adam_epsilon": 1e-5,
        "dynamics_condition_size": 256, "dynamics_channels": 64, "decoder_hidden_size": 512, "decoder_num_layers": 3,
    }  # fmt: skip
    assert {name: getattr(hp, name) for name in paper} == paper


def test_every_hyperparameter_is_documented():
    assert all(field.metadata["doc"].endswith((".", ").")) for field in FIELDS)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gama", "Did you mean 'gamma'"),
        ("dynamics_learning", "dynamics_"),
        ("xyzzy", "Known: acceleration, actor_grad_clip, "),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"Unknown hyperparameter '{name}'. .*{hint}"):
        DIMAHyperparameters.resolve({name: 1})


def test_unknown_presets_and_words_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown model_size 'nanno'\. Did you mean 'nano'"):
        DIMAHyperparameters.resolve({}, model_size="nanno")
    with pytest.raises(ValueError, match=r"Unknown conditioning 'sequentiel'\. Did you mean 'sequential'"):
        DIMAHyperparameters.resolve({"conditioning": "sequentiel"})
    check_name("a", ["a", "b"], "letter")


@pytest.mark.parametrize(("given", "meant"), [("GAMMA", "gamma"), ("dima", "DIMA"), ("ANT", "Ant"), ("Antt", "Ant")])
def test_names_are_compared_regardless_of_case(given, meant):
    with pytest.raises(ValueError, match=f"Unknown name '{given}'. Did you mean '{meant}'"):
        check_name(given, ["gamma", "DIMA", "Ant", "other"], "name")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("learning_rate", ["actor_lr", "critic_lr"]),
        ("actor-learning-rate", ["actor_lr"]),
        ("Batch size", ["dynamics_batch_size"]),
        ("epochs", ["num_epoch"]),
        ("critic", ["critic_lr", "critic_hidden_size"]),
        ("actr_lr", ["actor_lr", "critic_lr"]),
        ("xyzzy", []),
        ("", []),
    ],
)
def test_names_that_hold_every_word_count_more_than_those_that_look_alike(given, near):
    known = ["critic_hidden_size", "actor_lr", "critic_lr", "dynamics_batch_size", "num_epoch"]
    assert near_names(given, known, cutoff=0.6) == near


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ppo_epochs", True), ("ppo_epochs", 5.0), ("ppo_epochs", "5"), ("gamma", True), ("gamma", "0.9"),
        ("gamma", [0.9]), ("normalize_values", 1), ("normalize_values", "yes"), ("decoder_fsq_levels", 8),
        ("decoder_fsq_levels", ()), ("decoder_fsq_levels", (8.0, 6)), ("decoder_fsq_levels", (True, 6)),
    ],
)  # fmt: skip
def test_values_of_other_types_are_refused(name, value):
    with pytest.raises(TypeError, match=f"{name} must be"):
        DIMAHyperparameters.resolve({name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gamma", 1.5, "gamma must be at least 0.0 and at most 1.0, but is 1.5"),
        ("gamma", float("nan"), "gamma must be finite"),
        ("actor_lr", float("inf"), "actor_lr must be finite"),
        ("ppo_epochs", 0, "ppo_epochs must be at least 1, but is 0"),
        ("decoder_fsq_levels", (8, 2), "decoder_fsq_levels must be at least 3, but is 2"),
        ("reward_dropout", 1.0, "at most 0.99"),
        ("dynamics_condition_size", 9, "must be even, but is 9"),
        ("reward_embedding_size", 30, r"\(30\) must be a multiple of reward_num_heads \(4\)"),
        ("sampler_sigma_min", 6.0, r"sampler_sigma_min \(6.0\) exceeds sampler_sigma_max \(5.0\)"),
        ("noise_sigma_min", 30.0, r"noise_sigma_min \(30.0\) exceeds noise_sigma_max \(20.0\)"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        DIMAHyperparameters.resolve({name: value})


@pytest.mark.parametrize("field", [f for f in FIELDS if f.metadata["low"] is not None], ids=lambda field: field.name)
def test_every_lower_limit_is_enforced(field):
    below = field.metadata["low"] - 1
    with pytest.raises(ValueError, match=f"{field.name} must be at least"):
        DIMAHyperparameters.resolve({field.name: (below,) if isinstance(field.default, tuple) else below})


def test_whole_numbers_and_numpys_scalars_are_accepted():
    hp = DIMAHyperparameters.resolve(
        {"ppo_epochs": np.int64(3), "gamma": np.float32(0.5), "actor_lr": 1, "decoder_fsq_levels": [5, 5]}
    )
    assert (hp.ppo_epochs, hp.gamma, hp.actor_lr, list(hp.decoder_fsq_levels)) == (3, 0.5, 1, [5, 5])


def test_user_wins_over_preset_over_family_over_default(monkeypatch):
    monkeypatch.setitem(DIMAHyperparameters.MODEL_SIZES, "odd", {"entropy_coeff": 0.5, "actor_hidden_size": 7})
    hp = DIMAHyperparameters.resolve({"actor_hidden_size": 9, "gamma": None}, "bidexhands", "odd")
    assert (hp.actor_hidden_size, hp.entropy_coeff, hp.gamma, hp.ppo_epochs) == (9, 0.5, 0.95, 5)
    assert DIMAHyperparameters.resolve({"gamma": 0.7}, "bidexhands").gamma == 0.7
    assert DIMAHyperparameters.resolve({}).gamma == 0.99


def test_families_are_the_papers():
    values = lambda hp: (hp.gamma, hp.entropy_coeff, hp.env_steps_per_iteration)  # noqa: E731
    assert values(DIMAHyperparameters.resolve({}, "mamujoco")) == (0.99, 0.001, 200)
    assert values(DIMAHyperparameters.resolve({}, "bidexhands")) == (0.95, 0.01, 500)


@pytest.mark.parametrize("family", [None, *DIMAHyperparameters.FAMILIES])
@pytest.mark.parametrize("size", DIMAHyperparameters.MODEL_SIZES)
@pytest.mark.parametrize("recipe", DIMAHyperparameters.RECIPES)
def test_every_preset_is_valid_and_names_known_fields(recipe, size, family):
    DIMAHyperparameters.resolve({}, family, size, recipe)  # raises otherwise


def test_a_recipe_has_settings_by_family_and_by_size():
    def value(name, *of, **user):
        return getattr(DIMAHyperparameters.resolve(user, *of, "swift"), name)

    families = (None, "bidexhands", "mamujoco")
    for size in ("paper", "nano"):
        assert [value("imagination_noise", family, size) for family in families] == [0.0, 0.0, 1.0]
    assert value("imagination_noise", "mamujoco", "nano", imagination_noise=0.5) == 0.5
    assert DIMAHyperparameters.resolve({}, "mamujoco").imagination_noise == 0.0
    assert [value("dynamics_width", "mamujoco", size) for size in ("paper", "small", "nano")] == [512, 512, 256]
    assert [value("gamma", family, "nano") for family in families] == [0.99, 0.95, 0.99]


def test_the_presets_of_the_paper_change_nothing():
    assert DIMAHyperparameters.resolve({}) == DIMAHyperparameters()


def test_a_buffer_smaller_than_a_window_is_refused():
    with pytest.raises(ValueError, match=r"replay_capacity \(14\) must be at least 15"):
        DIMAHyperparameters.resolve({"replay_capacity": 14, "env_steps_per_iteration": 14})
    windows = {"context_length": 20, "num_autoregressive_steps": 4}
    assert DIMAHyperparameters.resolve(windows).longest_window == 23
    imagined = {"reward_network": "mlp", "reward_imagined_fraction": 0.1}
    assert DIMAHyperparameters.resolve({**windows, **imagined}).longest_window == 19 + 15
    with pytest.raises(ValueError, match=r"\(22\) must be at least 23"):
        DIMAHyperparameters.resolve({"replay_capacity": 22, "env_steps_per_iteration": 22, **windows})
    assert DIMAHyperparameters.resolve({"replay_capacity": 15, "env_steps_per_iteration": 15}).replay_capacity == 15


@pytest.mark.parametrize("setting", [{"reward_reads_next_state": True}, {"reward_imagined_fraction": 0.5}])
def test_what_only_an_mlp_of_rewards_can_is_refused_without_one(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name}={value} needs reward_network='mlp', not 'transformer'"):
        DIMAHyperparameters.resolve(setting)
    assert getattr(DIMAHyperparameters.resolve({**setting, "reward_network": "mlp"}), name) == value


def test_more_minibatches_than_imagined_steps_are_refused():
    with pytest.raises(ValueError, match=r"ppo_minibatches \(13\) exceeds the 12 steps of an imagined batch"):
        DIMAHyperparameters.resolve({"ppo_minibatches": 13, "num_imagined_rollouts": 4, "imagination_horizon": 3})
    assert (
        DIMAHyperparameters.resolve(
            {"ppo_minibatches": 12, "num_imagined_rollouts": 4, "imagination_horizon": 3}
        ).ppo_minibatches
        == 12
    )


def test_a_buffer_smaller_than_an_iteration_is_refused():
    with pytest.raises(ValueError, match=r"replay_capacity \(199\) must be at least 200"):
        DIMAHyperparameters.resolve({"replay_capacity": 199})


@pytest.mark.parametrize(("context_length", "most"), [(1, 3), (3, 4), (4, 4), (7, 5)])
def test_levels_that_do_nothing_but_pad_the_time_axis_are_refused(context_length, most):
    assert DIMAHyperparameters.resolve({"context_length": context_length, "dynamics_num_levels": most})
    with pytest.raises(ValueError, match=rf"dynamics_num_levels \({most + 1}\) .* Use at most {most} levels"):
        DIMAHyperparameters.resolve({"context_length": context_length, "dynamics_num_levels": most + 1})


@pytest.mark.parametrize("part", ["decoder", "dynamics", "reward", "actor", "critic"])
def test_clipping_to_nothing_and_an_epsilon_of_nothing_are_refused(part):
    for name in (f"{part}_grad_clip", "adam_epsilon"):
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            DIMAHyperparameters.resolve({name: 0.0})


def test_denoising_steps_follow_the_number_of_agents():
    hp = DIMAHyperparameters.resolve({})
    assert [hp.denoising_steps(agents) for agents in (1, 2, 3, 6)] == [2, 4, 3, 6]
    assert DIMAHyperparameters.resolve({"num_denoising_steps": 7}).denoising_steps(3) == 7


def test_sequential_conditioning_needs_a_step_per_agent():
    with pytest.raises(ValueError, match=r"num_denoising_steps \(2\) is smaller than the number of agents \(3\)"):
        DIMAHyperparameters.resolve({"num_denoising_steps": 2}).denoising_steps(3)
    for conditioning in ("joint", "cumulative"):
        assert (
            DIMAHyperparameters.resolve({"num_denoising_steps": 2, "conditioning": conditioning}).denoising_steps(3)
            == 2
        )


def test_channels_that_do_not_split_into_groups_are_refused():
    with pytest.raises(ValueError, match="dynamics_channels"):
        DIMAHyperparameters.resolve({"dynamics_channels": 50})  # the way up has 100 channels in 3 groups

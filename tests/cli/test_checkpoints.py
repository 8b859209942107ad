"""Which checkpoint a folder stands for, and how progress and the end of trials are told."""

import json
import math
import os
import pickle
import signal
from types import SimpleNamespace

import pytest
from support.trap import Trap

from rllib_dima.checkpoint import write_manifest
from rllib_dima.cli.checkpoints import find_checkpoint, last_return, load_config
from rllib_dima.cli.console import ProgressLines, check_criteria, report, share_done
from rllib_dima.cli.errors import RunError, UsageError
from rllib_dima.cli.experiment import saving


def make_trial(folder, returns, numbers):
    """A trial as Tune leaves it: results, and a checkpoint for each number."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"env_runners": {} if value is None else {"episode_return_mean": value}}) for value in returns]
    (folder / "result.json").write_text("\n".join(lines))
    for number in numbers:
        (folder / f"checkpoint_{number:06d}").mkdir()
        (folder / f"checkpoint_{number:06d}" / "rllib_checkpoint.json").write_text("{}")
    return folder


def test_a_checkpoint_is_itself_and_a_trial_its_newest(tmp_path):
    trial = make_trial(tmp_path / "exp" / "a", [1.0], [0, 9, 10])
    newest = trial / "checkpoint_000010"
    assert find_checkpoint(newest) == newest and find_checkpoint(trial) == newest
    newest.joinpath("rllib_checkpoint.json").unlink()  # being written
    assert find_checkpoint(str(trial)) == trial / "checkpoint_000009"


def test_an_experiment_is_its_trial_with_the_highest_last_return(tmp_path):
    make_trial(tmp_path / "a", [90.0, 10.0], [3])
    best = make_trial(tmp_path / "b", [5.0, 20.0, None, math.nan], [1])
    make_trial(tmp_path / "c", [None], [5])
    make_trial(tmp_path / "d", [99.0], [])
    (tmp_path / "b" / "result.json").open("a").write('\n{"env_runners": {"episode_ret')
    assert last_return(best) == 20.0 and last_return(tmp_path / "c") == -math.inf
    assert find_checkpoint(tmp_path) == best / "checkpoint_000001"


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    make_trial(tmp_path / "a", [1.0], [0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("a", "./a/", "~/a", f"file://{tmp_path}/a/"):
        assert find_checkpoint(folder) == tmp_path / "a" / "checkpoint_000000"


def test_folders_without_a_checkpoint_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "no", "no folder"),
        (tmp_path, "no checkpoint"),
        ("s3://b/c", "download"),
        ("", "no place"),
    ):
        with pytest.raises(UsageError, match=message):
            find_checkpoint(folder)


def test_nothing_is_unpickled_of_a_checkpoint_that_was_tampered_with(tmp_path):
    file = tmp_path / "class_and_ctor_args.pkl"
    file.write_bytes(pickle.dumps("as it was saved"))
    write_manifest(tmp_path, "DIMA")
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RunError, match=r"class_and_ctor_args\.pkl is damaged"):
        load_config(tmp_path)
    assert not Trap.sprung


RESULT = {
    "training_iteration": 3,
    "num_env_steps_sampled_lifetime": 600,
    "time_this_iter_s": 2.5,
    "time_total_s": 90.0,
    "env_runners": {"episode_return_mean": 12.34, "num_env_steps_sampled_lifetime": 600},
    "learners": {"default_policy": {"loss": 1.0}},
}


def test_a_line_tells_steps_return_and_the_time_that_is_left():
    stop = {"num_env_steps_sampled_lifetime": 1800, "env_runners/episode_return_mean": 20}
    line = ProgressLines(stop).describe(RESULT)
    assert " ".join(line.split()) == "iteration 3 steps 600 return 12.3 2.5 s total 0:01:30 left 0:03:00"
    evaluated = {**RESULT, "env_runners": {}, "evaluation": {"env_runners": {"episode_return_mean": 7.0}}}
    line = " ".join(ProgressLines({}).describe(evaluated).split())
    assert line == "iteration 3 steps 600 return - 2.5 s evaluation 7.0 total 0:01:30"


def test_the_line_of_dima_holds_its_losses():
    model = {"decoder_loss": 0.25, "dynamics_loss": 0.5, "reward_loss": 0.125}
    line = ProgressLines({}).describe({**RESULT, "learners": {"world_model": model, "critic": {"value_loss": 0.75}}})
    assert "decoder 0.250 dynamics 0.500 reward 0.125 value 0.750" in line and "total 0:01:30" in line


def test_the_share_done_is_that_of_the_nearest_end():
    assert share_done(RESULT, {"training_iteration": 12, "time_total_s": 100}) == 0.9
    assert share_done(RESULT, {"training_iteration": 2}) == 1.0
    assert share_done(RESULT, {"env_runners/episode_return_mean": 13, "nothing": 1, "time_total_s": 0}) == 0.0


def test_a_criterion_that_is_never_reported_ends_the_run_at_its_second_result():
    stop = {
        "training_iteration": 9,
        "evaluation/x": 1,
        "env_runners/episode_return_mean": 1,
        "perf/ram_util_percent": 99,
    }
    second = {**RESULT, "iterations_since_restore": 2}
    check_criteria(stop, second)
    for wrong, near in (("iteration", "training_iteration"), ("num_steps", "num_env_steps_sampled_lifetime")):
        check_criteria({**stop, wrong: 9}, {**RESULT, "iterations_since_restore": 1})
        with pytest.raises(RunError, match=f"'{wrong}'.*{near}"):
            check_criteria({**stop, wrong: 9}, second)


def test_lines_name_the_trial_where_there_are_several_and_where_it_goes_on(capsys):
    lines = ProgressLines({})
    trial = SimpleNamespace(trial_id="ab_1", last_result={}, latest_checkpoint_result=None)
    result = {**RESULT, "iterations_since_restore": 1}
    lines.on_trial_start(0, [trial], trial)
    lines.on_trial_result(1, [trial], trial, result)
    lines.on_trial_result(2, [trial, trial], trial, result)
    trial.latest_checkpoint_result = SimpleNamespace(
        metrics={"training_iteration": 7}, checkpoint=SimpleNamespace(path="/c")
    )
    lines.on_trial_start(3, [trial], trial)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("iteration") and second.startswith("ab_1   iteration")
    assert third == "goes on after iteration 7 from /c"


class Trial:
    """As much of one of Tune's trials as the report reads."""

    path = "/there/trial"

    def __init__(self, name, status, value=None, checkpoint=None, error=None, text=None):
        self.name, self.status, self.error, self.text = name, status, error, text
        self.trial_id = name
        self.last_result = {"training_iteration": 2, "num_env_steps_sampled_lifetime": 40.0, "env_runners": {}}
        if value is not None:
            self.last_result["env_runners"]["episode_return_mean"] = value
        self.checkpoint = checkpoint and SimpleNamespace(path=checkpoint)

    def __str__(self):
        return self.name

    def get_pickled_error(self):
        return self.error

    def get_error(self):
        return self.text


def test_the_end_names_every_trial_and_the_best_checkpoint(capsys):
    trials = [Trial("a", "TERMINATED", 1.0, "/a"), Trial("b", "TERMINATED", 5.0, "/b"), Trial("c", "TERMINATED")]
    assert report("/there", trials, end=None) == 0
    out = capsys.readouterr().out
    assert "a: 2 iterations, 40 steps, return 1.0\n" in out and "c: 2 iterations, 40 steps, no episode" in out
    assert out.endswith("rllib evaluate /b\n")
    for end, code in ((saving.INTERRUPTED, 130), (saving.OUT_OF_TIME, 0)):
        assert report("/there", trials, end) == code
        assert f"{end}. To go on, add --resume" in capsys.readouterr().out
        assert report("/there", [Trial("d", "TERMINATED")], end) == code
        assert "--resume" not in capsys.readouterr().out  # where nothing was saved


def test_a_failed_trial_tells_the_error_behind_rays_wrappers(capsys):
    wrapper = RuntimeError("ray")
    wrapper.cause = ValueError("the cable broke")
    failed = [Trial("a", "ERROR", error=wrapper), Trial("b", "ERROR", text="Traceback\n  x\nKeyError: 'y'\n")]
    assert report("/there", [*failed, Trial("c", "TERMINATED", 1.0, "/c")], end=None) == 1
    printed = capsys.readouterr()
    assert "a failed: ValueError: the cable broke\nThe traceback is in /there/trial/error.txt" in printed.err
    assert "b failed: KeyError: 'y'" in printed.err and "rllib evaluate /c" in printed.out


@pytest.fixture
def left():
    """The signals with which Tune's handler was called; it is in place before a callback is set up."""
    seen = []
    with saving.kept_signal_handlers():
        signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
        yield seen


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set."""
    now = [1000.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    return now


def running(*names):
    return [Trial(name, "RUNNING") for name in names]


def is_asked(callback, trials, trial):
    """Whether a trial's result, as the callback leaves it, asks Tune for a checkpoint."""
    result = {}
    callback.on_trial_result(1, trials, trial, result)
    return result.get("should_checkpoint", False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_what_runs_has_been_saved(number, left, capsys):
    callback = saving.Saving(by_time=False)
    callback.setup()
    first, second, waiting = trials = [*running("a", "b"), Trial("c", "PENDING")]
    callback.on_step_end(0, trials)
    assert not is_asked(callback, trials, first) and callback.end is None
    os.kill(os.getpid(), number)
    assert is_asked(callback, trials, second) and callback.end == saving.INTERRUPTED
    callback.on_trial_save(1, trials, second)  # before the step has ended
    callback.on_step_end(1, trials)
    assert "Ctrl-C to leave at once" in capsys.readouterr().out and not left
    waiting.status = "RUNNING"  # in the place of another; has nothing to lose
    assert is_asked(callback, trials, first) and not is_asked(callback, trials, waiting)
    for trial in (first, second):
        callback.on_trial_save(2, trials, trial)
    callback.on_step_end(2, trials)
    assert left == [signal.SIGINT]


def test_an_interruption_does_not_wait_for_what_has_failed_and_a_second_leaves_at_once(left):
    callback = saving.Saving(by_time=False)
    callback.setup()
    (trial,) = trials = running("a")
    os.kill(os.getpid(), signal.SIGINT)
    callback.on_step_end(1, trials)
    assert not left
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    trial.status = "ERROR"
    callback.on_step_end(2, trials)
    assert left


def test_a_time_budget_ends_like_an_interruption(left, clock):
    callback = saving.Saving(by_time=False, time_budget_s=50)
    callback.setup()
    (trial,) = trials = running("a")
    clock[0] += 50
    callback.on_step_end(1, trials)
    assert callback.end is None and not is_asked(callback, trials, trial)
    clock[0] += 1
    callback.on_step_end(2, trials)
    assert callback.end == saving.OUT_OF_TIME and is_asked(callback, trials, trial) and not left
    callback.on_trial_save(3, trials, trial)
    callback.on_step_end(3, trials)
    assert left


@pytest.mark.parametrize("by_time", [True, False])
def test_checkpoints_by_time_are_due_a_period_after_the_last(by_time, left, clock):
    callback = saving.Saving(by_time)
    trials = running("a", "b")
    asked = []
    for seconds in (0, saving.PERIOD_S - 1, 1, saving.PERIOD_S - 1, 1):
        clock[0] += seconds
        asked.append(is_asked(callback, trials, trials[0]))
        if asked[-1]:
            callback.on_trial_save(1, trials, trials[0])
    assert asked == [False, False, by_time, False, by_time]
    assert not is_asked(callback, trials, trials[1])  # whose first result this is


def test_handlers_of_signals_are_what_they_were_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with saving.kept_signal_handlers():
        saving.Saving(by_time=True).setup()
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

"""Command lines of the examples that cannot work are refused with one line, before Ray or a simulation starts."""

import os
import pathlib
import runpy
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import ray

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "examples"))
import bidexhands_scripted
import quickstart
import tune_asha
import tune_pbt

EXAMPLES = pathlib.Path(tune_asha.__file__).parent


def refusal(example, arguments, monkeypatch, capsys):
    """What a command writes that ends with status 2 and starts nothing; its last line."""

    def start(*args, **kwargs):
        raise AssertionError("started")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(bidexhands_scripted, "BiDexHands", start)
    monkeypatch.setattr(sys, "argv", [example.__name__, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        example.main()
    written = capsys.readouterr()
    assert ended.value.code == 2 and written.out == ""
    return written.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("example", "option"),
    [
        *((tune_asha, option) for option in ("--trials", "--iterations", "--grace", "--concurrent")),
        *((tune_pbt, option) for option in ("--trials", "--iterations", "--perturb-every", "--concurrent")),
        (bidexhands_scripted, "--episodes"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_counts_must_be_positive(example, option, monkeypatch, capsys):
    for value in ("0", "-1", "x"):
        message = refusal(example, [f"{option}={value}"], monkeypatch, capsys)
        assert message.endswith(f"argument {option}: must be a whole number of at least 1, but is '{value}'")


def test_asha_resumes_only_what_exists(tmp_path, monkeypatch, capsys):
    message = refusal(tune_asha, ["--resume", "--storage", tmp_path], monkeypatch, capsys)
    assert f"--resume: there is no search in {tmp_path / 'tune_asha'}; leave it out" in message
    assert os.listdir(tmp_path) == []


def test_asha_may_not_stop_trials_only_after_their_end(monkeypatch, capsys):
    message = refusal(tune_asha, ["--iterations", 3, "--grace", 4], monkeypatch, capsys)
    assert "--grace is 4, but must not be more than --iterations, which is 3" in message


@pytest.mark.parametrize("example", [tune_asha, tune_pbt], ids=lambda example: example.__name__)
def test_storage_must_be_a_folder(example, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    message = refusal(example, ["--storage", tmp_path / "file"], monkeypatch, capsys)
    assert "--storage must be a folder" in message


@pytest.mark.parametrize("file", ["pen", "pen.txt", "folder.mp4", "file/pen.mp4"])
def test_videos_that_cannot_be_written_are_refused(file, tmp_path, monkeypatch, capsys):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    message = refusal(bidexhands_scripted, ["--task", "pen", "--video", tmp_path / file], monkeypatch, capsys)
    assert "--video: " in message and str(tmp_path / file).removesuffix("/pen.mp4") in message


class OneStep:
    """Stands for the simulation: an episode of one step."""

    agents, closed = ("agent_0", "agent_1"), 0

    def __init__(self, task, render_mode):
        self.task = task

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)

    def close(self):
        OneStep.closed += 1


def script(env, frames):
    frames += [env.render()] * 2
    return 1.0, 1, True


def test_folder_of_a_video_is_created(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bidexhands_scripted, "BiDexHands", OneStep)
    monkeypatch.setattr(bidexhands_scripted, "play_script", script)
    monkeypatch.setattr(bidexhands_scripted, "random_return", lambda env, episodes: 0.0)
    video = tmp_path / "results" / "pen.mp4"
    monkeypatch.setattr(sys, "argv", ["bidexhands_scripted", "--task", "pen", "--video", str(video)])
    bidexhands_scripted.main()
    assert len(list(imageio.imiter(video))) == 2
    assert capsys.readouterr().out.splitlines()[-1].split() == ["pen", "1.0", "1", "True", "0.0"]


def test_simulation_is_closed_when_an_episode_fails(monkeypatch):
    def fail(env, frames):
        raise KeyboardInterrupt

    monkeypatch.setattr(bidexhands_scripted, "BiDexHands", OneStep)
    monkeypatch.setattr(bidexhands_scripted, "play_script", fail)
    before = OneStep.closed
    with pytest.raises(KeyboardInterrupt):
        bidexhands_scripted.play_both("pen", 1, None)
    assert OneStep.closed == before + 1


@pytest.fixture
def base_install(monkeypatch):
    """Without the extra "plots"; imageio itself comes with gymnasium-robotics."""
    for name in ("matplotlib", "matplotlib.figure", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_starts_on_a_base_install(example, base_install):
    runpy.run_path(str(example), run_name="imported")


def test_quickstart_ends_without_a_picture_on_a_base_install(base_install, tmp_path, capsys):
    curve, picture = tmp_path / "curve.csv", tmp_path / "curve.png"
    quickstart.plot(curve, picture, {"random": -290.0, "untrained": 0.0}, 1600.0)
    assert "pip install matplotlib" in capsys.readouterr().out and not picture.exists()


def test_quickstart_draws_its_curve(tmp_path):
    curve, picture = tmp_path / "curve.csv", tmp_path / "curve.png"
    curve.write_text("steps,return\n200,nan\n1000,-150.0\n")
    quickstart.plot(curve, picture, {"random": -290.0, "untrained": 0.0}, 1600.0)
    assert imageio.imread(picture).ndim == 3


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_no_example_has_an_unfilled_placeholder(example):
    assert not [word for word in ("MEASURED", "TODO", "FIXME", "XXX") if word in example.read_text()]


def test_no_video_is_promised_on_a_base_install(monkeypatch, capsys):
    monkeypatch.setattr(bidexhands_scripted, "find_spec", lambda name: None)
    message = refusal(bidexhands_scripted, ["--task", "pen", "--video", "pen.mp4"], monkeypatch, capsys)
    assert message.endswith("pip install imageio-ffmpeg")

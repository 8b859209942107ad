"""The learning results that the pages state are those of the benchmark's files."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def figure(folder, mode):
    """Mean and sample standard deviation, over the seeds, of the last evaluation of every run."""
    runs = [json.loads(file.read_text()) for file in folder.glob(f"learning_halfcheetah_2x3_{mode}_[0-9].json")]
    returns = [run["curve"][-1]["deterministic"] for run in runs]
    return f"{statistics.fmean(returns):.0f} +- {statistics.stdev(returns):.0f}"


def test_learning_results_are_those_of_the_files():
    for page in ("README.md", "benchmarks/RESULTS.md", "tuned_examples/dima_halfcheetah_2x3_nano.yaml"):
        assert figure(RESULTS, "swift") in (ROOT / page).read_text(), page
    for page in ("README.md", "benchmarks/RESULTS.md"):
        assert figure(RESULTS, "sequential") in (ROOT / page).read_text(), page
        assert figure(RESULTS / "five_episodes", "sequential") in (ROOT / page).read_text(), page
    for mode in ("sequential", "cumulative"):
        assert figure(RESULTS / "first_version", mode) in (ROOT / "benchmarks/RESULTS.md").read_text()

"""What importing loads: the core needs no Ray, registering no simulator, and nothing but the import registers."""

import ast
import pathlib
import subprocess
import sys

import pytest

import rllib_dima.core

FILES = sorted(pathlib.Path(rllib_dima.core.__file__).parent.rglob("*.py"))
WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # as if it were not installed
from rllib_dima.core.dima.hyperparameters import DIMAHyperparameters
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.dima import trainer
assert not [name for name in sys.modules if name.startswith("ray.")]
print(DIMAHyperparameters.resolve({}, "mamujoco").denoising_steps(num_agents=2))
"""

HEAVY = ("ray", "mujoco", "pettingzoo", "gymnasium_robotics")
REGISTERED = """
import sys
{first}
import rllib_dima
{then}
from ray.tune.registry import ENV_CREATOR, _global_registry, get_trainable_cls
loaded = {{"ray.rllib", "mujoco", "pettingzoo", "torch"}} & set(sys.modules)
assert all(_global_registry.contains(ENV_CREATOR, env_id) for env_id in rllib_dima.envs.ENV_IDS)
print(len(loaded), get_trainable_cls("DIMA") is rllib_dima.DIMA)
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_of_the_core_imports_ray_or_the_layers_above(file):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] != "ray", f"{file.name} imports {name}"
            assert not name.startswith("rllib_dima") or name.startswith("rllib_dima.core"), f"{file.name}: {name}"


def test_the_core_works_where_ray_cannot_be_imported():
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4"


@pytest.mark.parametrize(
    "statement",
    [
        "import rllib_dima",
        "import rllib_dima.core.dima.trainer",
        "from rllib_dima import Policy",
        "from rllib_dima.envs import ENV_IDS, env_family, env_config_keys",
        "import rllib_dima.cli",
    ],
)
def test_ray_and_simulators_are_not_loaded_before_they_are_used(statement):
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_runners_of_experience_load_neither_quantisers_nor_compilers():
    code = (
        "import sys, rllib_dima.algorithms.dima, rllib_dima.algorithms.marie, rllib_dima.sampling.env_runner\n"
        "print([name for name in ('vector_quantize_pytorch', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("first", "then"), [("", ""), ("import ray", "from ray import tune"), ("from ray import tune", "")]
)
def test_importing_registers_whether_ray_is_imported_before_or_after(first, then):
    code = REGISTERED.format(first=first, then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0 True\n", done.stdout + done.stderr


@pytest.mark.parametrize("module", ["ray.rllib", "rllib_dima.algorithms.dima"])
def test_whatever_imports_ray_first_registers_too(module):
    code = REGISTERED.format(first="", then=f"import {module}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith(" True\n"), done.stderr

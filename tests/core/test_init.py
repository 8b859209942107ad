"""The core is pure torch: nothing below it needs Ray."""

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
from rllib_dima.core.hyperparameters import resolve
from rllib_dima.core.layout import AgentLayout
from rllib_dima.core.dima import trainer
assert not [name for name in sys.modules if name.startswith("ray.")]
print(resolve({}, "mamujoco").denoising_steps(AgentLayout(("a", "b"), 1, (1, 1), (1, 1)).num_agents))
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

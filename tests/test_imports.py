"""The package's modules import one another without a circle."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest
from support.pages import ROOT


def modules(root):
    """The source of every module of the package, by its name."""
    files = {file: file.relative_to(root).with_suffix("").parts for file in (root / "rllib_dima").rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): file.read_text() for file, parts in files.items()}


def imports(statements):
    """What is imported as a module is loaded: neither in a function nor for types only."""
    for statement in statements:
        match statement:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names):
                yield from (module, *(f"{module}.{alias.name}" for alias in names))
            case ast.If(ast.Name("TYPE_CHECKING")) | ast.FunctionDef():
                continue
            case _:
                yield from imports(
                    node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt | ast.ExceptHandler)
                )


def require_no_circle(sources):
    graph = {name: sources.keys() & {*imports(ast.parse(text).body)} - {name} for name, text in sources.items()}
    TopologicalSorter(graph).prepare()
    return graph


def test_no_module_is_imported_by_what_it_imports():
    graph = require_no_circle(modules(ROOT))
    assert len(graph) > 100 and "rllib_dima.envs.spaces" in graph["rllib_dima.envs.cooperative"]
    with pytest.raises(CycleError, match=r"\['a', 'b', 'a'\]|\['b', 'a', 'b'\]"):
        require_no_circle({"a": "class A:\n    from b import c", "b": "import a"})

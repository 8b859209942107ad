"""YAML and JSON as values: numbers and mappings as experiments mean them."""

from __future__ import annotations

import re
from typing import Any

import yaml


def read_values(text: str) -> Any:
    """The value of a YAML text, and so of a JSON text.

    Raises:
        yaml.YAMLError: it is neither, or a key occurs twice.
    """
    return yaml.load(text, Loader=_Loader)


def problem(error: Exception) -> str:
    """What is wrong with a text, in one line."""
    mark = getattr(error, "problem_mark", None)
    return f"{getattr(error, 'problem', error)}{f', line {mark.line + 1}' if mark else ''}"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 and 1e3 as numbers, text to YAML 1.1, and refuses keys that YAML would misread."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        names = [key.value for key in keys]
        for key in keys:
            if names.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
            if key.style is None and ":" in key.value:
                message = f"{key.value!r} needs a space after the colon"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A number: whole, as settings may need it to be, if it is written as 1e3 is."""
        value = super().construct_yaml_float(node)
        return int(value) if "e" in node.value.lower() and value.is_integer() and abs(value) < 2**53 else value


_EXPONENT_FORM = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FORM, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)

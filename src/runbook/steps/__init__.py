"""One file per step type, and the registry that scans this folder: there is no list to edit.

What several step types share belongs in `checks` if it only reads, in `actions` if it acts.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any

from runbook.spec.step import Step


class StepTypes(Mapping[str, type[Step[Any]]]):
    """The step types by name: each module of `runbook.steps` defines the one after which it is named.

    A module is imported when its type is looked up, because a runbook uses few of them. The lookup raises ImportError
    if the module does not define the type: a type that is silently missing would look like a mistake in the runbook.
    """

    def __init__(self) -> None:
        folder = importlib.import_module("runbook.steps").__path__
        self._modules = {name.replace("_", "-"): f"runbook.steps.{name}" for _, name, _ in pkgutil.iter_modules(folder)}
        self._loaded: dict[str, type[Step[Any]]] = {}

    def __getitem__(self, type_name: str) -> type[Step[Any]]:
        if type_name not in self._loaded:
            self._loaded[type_name] = _step_type(importlib.import_module(self._modules[type_name]), type_name)
        return self._loaded[type_name]

    def __contains__(self, type_name: object) -> bool:
        return type_name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._modules))

    def __len__(self) -> int:
        return len(self._modules)


def _step_type(module: ModuleType, type_name: str) -> type[Step[Any]]:
    name = "".join(word.capitalize() for word in type_name.split("-"))
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise ImportError(f"{module.__name__} must define the step type {type_name} as the class {name}")
    return found


@cache
def registry() -> Mapping[str, type[Step[Any]]]:
    """Return the step types."""
    return StepTypes()

"""Helpers for the book on growing neural cellular automata with evolution strategies.

Read the modules in this order: checkpoint, keeper, target, model, rollout, loss, evolution, render,
backprop, beyond, train, runs, browser, background, widgets. Each imports only from those before it.
Importing the package changes nothing, and what is listed here is imported when it is first asked
for.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "describe_machine": "train",
    "NCA": "model",
    "perceive": "model",
    "seed_state": "model",
    "list_emoji": "target",
    "load_emoji": "target",
    "load_image": "target",
    "list_runs": "runs",
    "load_run": "runs",
    "use_cores": "evolution",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'nca_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nca_lib.{_HOMES[name]}"), name)

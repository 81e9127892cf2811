"""Helpers for the book on growing neural cellular automata with evolution strategies.

Three rooms; imports go inwards only:

- the core, here, is what chapters 1 to 8 build by hand. Read target, model, rollout, loss,
  evolution, backprop, in this order.
- `nca_lib.lab` is for people who train: configurations, the loop, run folders, the benchmark.
- `nca_lib.show` is for people who look: figures, widgets, patterns in a page.

Importing the package changes nothing, and what is listed here is imported when it is first asked
for.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "describe_machine": "lab.machine",
    "NCA": "model",
    "perceive": "model",
    "seed_state": "model",
    "list_emoji": "target",
    "load_emoji": "target",
    "load_image": "target",
    "list_runs": "lab.runs",
    "load_run": "lab.runs",
    "use_cores": "lab.machine",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'nca_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nca_lib.{_HOMES[name]}"), name)

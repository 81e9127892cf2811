"""What evolution costs, read from the shipped runs, for pages that run no cells.

The front page writes these as {{ price }}. Jupyter Book loads this file as a Sphinx extension
(`_config.yml`).
"""

import csv

import numpy as np
from publishing import ROOT


def history(run: str) -> np.ndarray:
    """Rollouts and loss of a shipped run, (rows, 2), steadied as in chapter 8."""
    path = ROOT / "nca_lib" / "data" / "runs" / run / "history.csv"
    with path.open(encoding="utf-8") as file:
        rows = [(float(row["rollouts"]), float(row["loss"])) for row in csv.DictReader(file)][16:]
    rollouts, loss = np.transpose(rows)
    loss = np.median(np.lib.stride_tricks.sliding_window_view(loss, 5), axis=-1)
    return np.stack([rollouts[4:], loss], axis=-1)


def prices() -> dict[str, str]:
    """Rollouts of the evolved lizard, and how many times more it takes to an equal loss."""
    evolved, descended = history("lizard"), history("lizard-backprop")
    level = 1.01 * max(curve[:, 1].min() for curve in (evolved, descended))  # both come so far
    first, second = (curve[curve[:, 1] <= level][0, 0] for curve in (evolved, descended))
    return {
        "evolved_rollouts": f"{evolved[-1, 0]:,.0f}",
        "price": f"{float(f'{first / second:.2g}'):,.0f}",
    }


def setup(app):
    """Hook for Sphinx."""

    def tell(app, config):
        config.myst_substitutions = prices() | config.myst_substitutions

    app.connect("config-inited", tell)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""What evolution costs, read from the shipped runs, for pages that run no cells.

The front page writes these as {{ price }}. Jupyter Book loads this file as a Sphinx extension
(`_config.yml`).
"""

import json

from publishing import ROOT


def prices() -> dict[str, str]:
    """Rollouts of the evolved lizard, and how many times those of backpropagation's.

    The two end at an equal loss: chapter 8, "The same task, twice".
    """
    runs = (ROOT / "nca_lib/data/runs" / name for name in ("lizard", "lizard-backprop"))
    evolved, descended = (
        json.loads((run / "run.json").read_text(encoding="utf-8"))["rollouts"] for run in runs
    )
    return {"evolved_rollouts": f"{evolved:,}", "price": f"{evolved / descended:,.0f}"}


def setup(app):
    """Hook for Sphinx."""

    def tell(app, config):
        config.myst_substitutions = prices() | config.myst_substitutions

    app.connect("config-inited", tell)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

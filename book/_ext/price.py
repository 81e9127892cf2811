"""What evolution costs, read from the shipped runs, for pages that run no cells.

The front page writes these as {{ price }}. Jupyter Book loads this file as a Sphinx extension
(`_config.yml`).
"""

import json

from publishing import ROOT


def prices() -> dict[str, str]:
    """Rollouts of the two lizards, and how many times more evolution took, to two digits."""
    runs = ROOT / "nca_lib" / "data" / "runs"
    evolved, descended = (
        json.loads((runs / name / "run.json").read_text(encoding="utf-8"))["rollouts"]
        for name in ("lizard", "lizard-backprop")
    )
    return {
        "evolved_rollouts": f"{evolved:,}",
        "descended_rollouts": f"{descended:,}",
        "price": f"{float(f'{evolved / descended:.2g}'):,.0f}",
    }


def setup(app):
    """Hook for Sphinx."""

    def tell(app, config):
        config.myst_substitutions = prices() | config.myst_substitutions

    app.connect("config-inited", tell)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

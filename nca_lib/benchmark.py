"""Time the reference notebook, plain JAX and this library: see `nca_lib.lab.benchmark`.

From the command line::

    python -m nca_lib.benchmark --json benchmark.json
"""

import sys

from nca_lib.lab.benchmark import benchmark, main

__all__ = ["benchmark", "main"]

if __name__ == "__main__":
    sys.exit(main())

"""Copy _config.yml with execution switched off, to build the book from executed notebooks.

Usage: python .ci/executed_config.py SOURCE DESTINATION
"""

import sys
from pathlib import Path

import yaml

source, destination = map(Path, sys.argv[1:])
config = yaml.safe_load(source.read_text(encoding="utf-8"))
config["execute"]["execute_notebooks"] = "off"
destination.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

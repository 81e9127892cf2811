"""Long runs: for people who train. Nothing here imports matplotlib or IPython."""

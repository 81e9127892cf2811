"""Shapes and dtypes are what the annotations say, with and without JAX's help in promoting them."""

import subprocess
import sys

CALLS = """
import dataclasses
from jaxtyping import TypeCheckError, install_import_hook
with install_import_hook("nca_lib", "beartype.beartype"):
    from nca_lib import evolution, loss, model, rollout
    from nca_lib.lab import goals, loop, task
    from nca_lib.train import PRESETS
import jax
import jax.numpy as jnp
jax.config.update("jax_disable_most_optimizations", True)  # to compile takes the most time here
small = {"size": 6, "num_steps": 4, "window": 2, "population": 4, "generations": 2}
for name in ("whitened", "backprop"):
    config = dataclasses.replace(PRESETS["smoke"], **small, strategy=name, pool=8)
    made = task.make_task(config)
    trainer = task.make_trainer(made)
    state = trainer[0].init(jax.random.key(0), made.params)
    assert len(list(loop.run(made, trainer, state, [1, 2]))) == 2

# Everything of the core that a rollout and a loss consist of, and nothing of other libraries but
# the two layers, is strict in promotion.
jax.config.update("jax_numpy_dtype_promotion", "strict")
for mask in rollout.MASKS:
    made = task.make_task(dataclasses.replace(PRESETS["smoke"], mask=mask, **small))
    fires, cell = made.fires(jax.random.key(0)), made.merge(made.params)
    rollout.record(cell, made.start, fires)
    loss.window_loss(cell, made.start, fires, made.measure, 2, 0, 0.1)
    rollout.damage(jax.random.key(1), made.start)
    evolution.second_moments(cell, made.start, fires)
for surrogate in goals.SLOPES:
    state = jax.random.uniform(jax.random.key(0), (8, 8, 4))
    goals.hindmost(state, surrogate)
    goals.methuselah(state, surrogate)
try:
    model.living_mask(jnp.zeros((4, 4)))
except TypeCheckError:
    pass
else:
    raise SystemExit("nobody looked")
"""


def test_annotations_hold():
    subprocess.run([sys.executable, "-W", "error", "-c", CALLS], check=True)

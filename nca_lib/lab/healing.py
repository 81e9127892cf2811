"""How well a pattern lasts, and how well it heals: its loss after a wound, or after none."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key

from nca_lib.lab.config import Config
from nca_lib.lab.task import Task
from nca_lib.loss import mse
from nca_lib.model import Array
from nca_lib.rollout import disc, half


def wounds(config: Config) -> dict[str, Bool[Array, "H W"]]:
    """Mark what each wound erases: eight halves, a disc in the middle and a diagonal band.

    The halves lie every 45 degrees, clockwise from the right one. The radius of the disc and the
    width of the band are a quarter of the target's side. Explained in chapter 7, "How healing is
    measured".
    """
    side, quarter = config.size + 2 * config.padding, config.size / 4
    erased = {f"half at {a}°": half(side, side, math.radians(a)) for a in range(0, 360, 45)}
    edges = [half(side, side, math.pi / 4, offset) for offset in (-quarter / 2, quarter / 2)]
    middle = disc(side, side, side / 2, side / 2, quarter)
    return erased | {"disc": middle, "band": edges[0] & ~edges[1]}


def recover(
    task: Task,
    params: Any,
    keys: Key[Array, " N"],
    num_steps: int,
    wound: Bool[Array, "H W"] | None = None,
) -> Float[Array, "N T"]:
    """Grow for the trained steps, erase what `wound` marks, go on for T = `num_steps` more.

    There is a rollout for each key. Of each state after the wound it tells the loss in units of
    what the rule scores when it grows from the seed (`Task.loss`, the mean over the same rollouts):
    1 is as good as grown. Explained in chapter 7, "How healing is measured".
    """
    model, target = task.merge(params), jnp.asarray(task.target)

    def live(key):
        key_grow, key_after = jax.random.split(key)
        loss, state = task.judge(params, task.start, task.fires(key_grow), reach=0)
        state = state if wound is None else jnp.where(wound[..., None], 0.0, state)

        def step(state, fire):
            state = model(state, fire)
            return state, mse(state, target)

        after = jax.lax.scan(step, state, task.fires(key_after, num_steps))[1]
        return loss, after

    grown, after = jax.lax.map(live, keys)
    return after / grown.mean()

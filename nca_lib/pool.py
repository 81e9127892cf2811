"""Starts that have lived: a pool of grown states, for patterns that last and heal (chapter 7).

Whoever is trained from one cell alone has never seen what comes after its last step. So what a
rollout grows goes back into a pool, and later rollouts start from there (Mordvintsev et al. 2020).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32, Key

from nca_lib.loss import mse
from nca_lib.model import Array, State
from nca_lib.rollout import damage

BATCH = 8  # states of which evolution takes one, the worst of them made anew


def draw_starts(
    key: Key[Array, ""],
    pool: Float[Array, "pool H W C"],
    count: int,
    seed: State,
    target: Float[Array, "H W 4"],
    share: float,
) -> tuple[Int32[Array, " count"], Float[Array, "count H W C"]]:
    """Take `count` starts out of the pool; the worst begins anew from the seed.

    Of the others a share is damaged. What died or explodes teaches nothing, and begins anew, too.
    Explained in chapter 7, "Starts that have lived".

    Returns:
        Their places in the pool, and the starts, the seed first.
    """
    key_pick, key_coin, key_damage = jax.random.split(key, 3)
    places = jax.random.permutation(key_pick, jnp.arange(len(pool), dtype=jnp.int32))[:count]
    losses = mse(pool[places], target)
    places = places[jnp.argsort(jnp.where(jnp.isfinite(losses), -losses, -jnp.inf))]
    starts = pool[places]
    hurt = jax.vmap(damage)(jax.random.split(key_damage, count), starts)
    coin = jax.random.uniform(key_coin, (count, 1, 1, 1), jnp.float32) < share
    starts = jnp.where(coin, hurt, starts)
    largest = jnp.abs(starts).max(axis=(1, 2, 3), keepdims=True)
    usable = (largest > 0) & (largest < 100)  # NaN is neither
    return places, jnp.where(usable, starts, seed).at[0].set(seed)

"""What decides a run: every setting with its bounds and meaning, and the presets (chapter 5)."""

import dataclasses
import math
from pathlib import Path

from nca_lib.lab.goals import GOALS, SURROGATES, WORLD
from nca_lib.model import MAX_ELEMENTS, PRECISIONS, check
from nca_lib.pool import BATCH
from nca_lib.rollout import MASKS
from nca_lib.target import MAX_PADDING, MAX_SIZE

SHIPPED = Path(__file__).parents[1] / "data" / "runs"  # the runs that come with the package
FRESH = 1_000_003  # seed of keys that no training draws, for final losses and pictures
CELLS = ("smooth", "ifs", "digital")
KINDS = {int: "an int", float: "a finite number", bool: "true or false", str: "a string"}


def _field(default, meaning, low=None, high=None, choices=()):
    """A field of `Config`, with what `--help` and errors say of it."""
    told = {"help": meaning, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=told)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run's outcome. The defaults are the preset `pocket`.

    A value that cannot run is refused with a ValueError that names the field, the value and what
    was expected. Explained in chapter 4, "Half a minute of evolution".
    """

    emoji: str = _field("🦎", "the target; '' for a goal without one")
    size: int = _field(24, "side of the target in cells, without padding", 1, MAX_SIZE)
    padding: int = _field(4, "empty cells around the target, on each side", 0, MAX_PADDING)
    premultiply: bool = _field(True, "weigh colour by alpha: invisible colour costs nothing")
    channels: int = _field(8, "numbers per cell, RGBA included", 4, 1_024)
    hidden: int = _field(32, "width of the hidden layer", 1, 65_536)
    step_size: float = _field(1.0, "factor on every update; 2 is inverted dropout", 1e-6, 1e6)
    alive_threshold: float = _field(0.1, "alpha above which a cell is mature", 0.0, 0.999)
    mask: str = _field("paired", "which cells fire", choices=MASKS)
    precision: str = _field("float32", "of the dense layers", choices=tuple(PRECISIONS))
    num_steps: int = _field(32, "steps of growth", 1, 1_000_000)
    window: int = _field(8, "last steps over which the loss is averaged", 1, 1_000_000)
    population: int = _field(64, "rollouts per generation; evolution wants pairs", 1, 1_000_000)
    strategy: str = _field(
        "whitened",
        "pgpe learns a sigma for every weight; whitened does so for noise that is shaped by what "
        "the cells see; open_es keeps one sigma for all; backprop follows the gradient (no sigma, "
        "a generation is a step, the population a batch)",
        choices=("whitened", "pgpe", "open_es", "backprop"),
    )
    std: float = _field(
        0.03,
        "noise scale sigma at the start; for whitened that of up to 1,064 weights: of D more it is "
        "std * sqrt(1064 / D), so that members of a larger network are as far from the mean",
        1e-9,
        1e3,
    )
    std_rate: float = _field(0.1, "how fast sigmas are learned, where they are", 0.0, 1e3)
    learning_rate: float = _field(
        0.5, "step at the start: Adam's, or in units of sigma where those are learned", 1e-9, 1e3
    )
    learning_rate_end: float = _field(0.1, "share of it at the end, along a cosine", 0.0, 1e3)
    ranks: bool = _field(True, "evolution heeds the order of members, not how far apart they are")
    shared_luck: bool = _field(True, "the same cells fire in all members of a generation")
    generations: int = _field(125_000, "how many", 1, 1_000_000_000)
    init: str = _field("", "start from the weights of this run: a shipped one, or a folder")
    age: int = _field(0, "most steps a start has lived; at 0 all start from the seed", 0, 1_000_000)
    pool: int = _field(0, "grown states that are kept to start from", 0, 65_536)
    damage: float = _field(0.0, "share of the grown starts that are damaged", 0.0, 1.0)
    overflow: float = _field(0.0, "weight of the penalty on values outside [-2, 2]", 0.0, 1e6)
    log_every: int = _field(50, "generations between two rows of history", 1, 1_000_000_000)
    seed: int = _field(0, "of the initial weights, the noise and the fire masks", 0, 2**32 - 1)
    cells: str = _field(
        "smooth", "ifs: hidden units decide; digital: and states are bits", choices=CELLS
    )
    goal: str = _field(
        "target", "what is judged: likeness to the target, or else", choices=("target", *GOALS)
    )
    surrogate: str = _field(
        "", "where backprop meets decisions: straight or soft", choices=("", *SURROGATES)
    )

    @property
    def starts_grown(self) -> bool:
        """Whether training starts from grown states, and not from the seed alone."""
        return bool(self.age or self.pool)

    def __post_init__(self):
        """Refuse what cannot run, before anything is compiled."""
        for field in dataclasses.fields(self):
            _check_field(field, getattr(self, field.name))
        _check_together(self)


def read_config(values: dict) -> Config:
    """Make the configuration that a file holds, which may lack fields that were added since.

    A NotImplementedError names fields that a later version must have added.
    """
    if values.get("strategy") == "backprop" and values.get("age"):  # once this meant a pool
        values = values | {"age": 0, "pool": 256}
    if later := values.keys() - {field.name for field in dataclasses.fields(Config)}:
        names = ", ".join(sorted(later))
        raise NotImplementedError(f"a later version of nca_lib has added {names}: update nca_lib")
    return Config(**values)


def _check_field(field: dataclasses.Field, value: object) -> None:
    told, kind = field.metadata, field.type
    good = type(value) is kind or (kind is float and type(value) is int)
    check(good and (kind is not float or math.isfinite(value)), field.name, value, KINDS[kind])
    fine = told["low"] is None or told["low"] <= value <= told["high"]
    check(fine, field.name, value, f"{told['low']} to {told['high']}")
    fine = not told["choices"] or value in told["choices"]
    check(fine, field.name, value, f"one of {told['choices']}")


def _check_together(config: Config) -> None:
    """What a value must be because of others: (name, whether it is fine, what was expected)."""
    evolves, is_picture = config.strategy != "backprop", config.goal == "target"
    stands_in = not evolves and (config.cells != "smooth" or not is_picture)
    side, C = config.size + 2 * config.padding, config.channels
    batch, kept = BATCH if evolves else config.population, MAX_ELEMENTS // (side**2 * C)
    wide = MAX_ELEMENTS // (8 * C)
    # At the end a whole life is kept and drawn, 6 x enlarged.
    long = MAX_ELEMENTS // (side**2 * max(C, 16)) - 1
    sizes = f"size {config.size}, padding {config.padding} and channels {C}"
    rules = [
        ("hidden", config.hidden <= wide, f"at most {wide} for channels {C}"),
        ("num_steps", config.num_steps <= long, f"at most {long} for {sizes}"),
        ("window", config.window <= config.num_steps, f"1 to {config.num_steps} (num_steps)"),
        ("population", not evolves or config.population % 2 == 0, "even, for pairs"),
        ("pool", not config.pool or batch <= config.pool <= kept, f"0, or {batch} to {kept}"),
        ("size", config.mask != "paired" or config.size % 2 == 0, "even, for paired masks"),
        ("size", config.goal != "life" or side <= WORLD, f"{WORLD} with padding at most, for life"),
        ("emoji", is_picture or not config.emoji, f"'', for the goal {config.goal!r}"),
        ("pool", is_picture or not config.pool, f"0, for the goal {config.goal!r}"),
        ("age", is_picture or not config.age, f"0, for the goal {config.goal!r}"),
        ("age", evolves or not config.age, "0, for backprop: grown starts are from a pool"),
        ("age", not (config.age and config.pool), "0 with a pool, which gives starts, too"),
        ("damage", config.starts_grown or not config.damage, "0 without age or pool"),
        # Without a stand-in the gradient of a decision is zero; nothing else has a use for one.
        ("surrogate", config.surrogate or not stands_in, f"one of {SURROGATES}"),
        ("surrogate", stands_in or not config.surrogate, "'' but for backprop of decisions"),
    ]
    for name, is_fine, wanted in rules:
        check(is_fine, name, getattr(config, name), wanted)


PGPE = {"strategy": "pgpe", "learning_rate": 0.3}

PRESETS = {
    # Made for two CPU cores: 1,064 parameters, 32 x 32 cells. 8,000,000 rollouts, within an hour;
    # the shorter ones learn their sigmas faster, and end before large steps do harm.
    "pocket": Config(),
    "short": Config(generations=15_625, std_rate=0.12, learning_rate_end=0.3),
    "quick": Config(
        generations=1_000, std=0.035, std_rate=0.3, learning_rate=0.6, learning_rate_end=1.0
    ),
    # The notebook's target of 40 x 40 cells.
    "lizard-40": Config(
        size=40, channels=12, num_steps=48, std=0.025, std_rate=0.12, generations=80_000
    ),
    # The same task by gradients, in minutes.
    "backprop": Config(
        strategy="backprop",
        population=4,
        learning_rate=0.008,
        learning_rate_end=0.02,
        generations=4_000,
    ),
    # Seconds: to see that everything works.
    "smoke": Config(
        size=12,
        padding=2,
        num_steps=12,
        window=4,
        strategy="open_es",  # the one that chapter 4 builds by hand
        std=0.02,
        learning_rate=0.01,
        generations=200,
        log_every=10,
    ),
    # Cells of bits that walk to the right, and some dozen that Life makes much of (chapter 9).
    "walk": Config(
        emoji="",
        goal="walk",
        cells="digital",
        size=56,
        channels=12,
        num_steps=48,
        std=0.3,
        **PGPE,
        generations=600,
    ),
    "life": Config(emoji="", goal="life", init="lizard-pgpe", window=1, generations=1_500, **PGPE),
    # The lizard, grown by a network of ifs (chapter 9).
    "ifs": Config(cells="ifs", std=0.01, generations=1_000, **PGPE),
    # The notebook "Growing NCA with Evolution Strategies" to the letter. Its loss was meant to
    # cover the last 32 steps, but its slice takes the batch axis: all 90 steps count. Its dropout
    # doubles the updates it keeps, hence the step size of 2.
    "reference": Config(
        size=40,
        premultiply=False,
        channels=16,
        hidden=128,
        step_size=2.0,
        mask="bernoulli",
        num_steps=90,
        window=90,
        population=512,
        strategy="open_es",
        std=0.001,
        learning_rate=0.001,
        learning_rate_end=1.0,
        generations=10_240,
        log_every=16,  # each interval is one call, which on a CPU takes minutes
    ),
}

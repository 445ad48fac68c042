"""Made-up outcomes of methods × seeds × examples, of which it is known what the methods are really worth."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

# Shares of the variance behind an answer. Examples are hard or easy for all methods alike, and a little more so for
# one method than for another; a seed makes all methods a little better or worse (its order of the data), and each
# method by itself; the rest is chance, seed by seed and example by example.
EXAMPLE, METHOD_AND_EXAMPLE, SEED, METHOD_AND_SEED = 0.5, 0.1, 0.005, 0.01
REST = 1 - EXAMPLE - METHOD_AND_EXAMPLE - SEED - METHOD_AND_SEED
BASE = -1


@dataclass(frozen=True)
class World:
    """One task of a simulated comparison.

    Attributes:
        outcomes: [methods + 1, seeds, n] right (100) or wrong (0), or losses in nats; the last is the base, which is
            the same for all seeds.
        weights: [n] what each example counts for.
        worth: [methods + 1] what their mean is over all examples there could be and, with several seeds, all seeds.
    """

    outcomes: np.ndarray
    weights: np.ndarray
    worth: np.ndarray


def answers(worth: np.ndarray, seeds: int, n: int, random: np.random.Generator) -> World:
    """Answers of methods that are worth so many percent; those of one seed are of adapters that are worth it."""
    seed, noise = _effects(len(worth), seeds, n, random)
    middle = np.repeat(ndtri(worth / 100)[:, None], seeds, axis=1)
    if seeds > 1:
        middle[BASE] *= (1 - SEED - METHOD_AND_SEED) ** 0.5  # the base has no seed, and so varies less
        middle += seed
    else:
        middle *= (1 - SEED - METHOD_AND_SEED) ** 0.5
    return World(100.0 * (middle[:, :, None] + noise > 0), np.ones(n), worth)


def losses(worth: np.ndarray, seeds: int, n: int, random: np.random.Generator) -> World:
    """Losses per token, skewed as losses are, of answers of many lengths."""
    seed, noise = _effects(len(worth), seeds, n, random)
    spread = 0.4
    level = seed[:, :, None] if seeds > 1 else 0.0
    within = spread**2 * (1 - SEED - METHOD_AND_SEED)
    own = np.log(worth)[:, None, None] - within / 2
    values = np.exp(own + spread * (level + noise))
    if seeds > 1:  # the mean over seeds, too, is what was asked for
        values[:BASE] *= np.exp(-(spread**2) * (SEED + METHOD_AND_SEED) / 2)
    return World(values, random.integers(1, 30, size=n).astype(float), worth)


def _effects(methods: int, seeds: int, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What seeds do to each method, [methods, seeds], and examples and chance, [methods, seeds, n]. The last has none
    of the seeds, and the same chance in all."""
    seed = random.normal(size=seeds) * SEED**0.5 + random.normal(size=(methods, seeds)) * METHOD_AND_SEED**0.5
    seed[BASE] = 0.0
    example = random.normal(size=n) * EXAMPLE**0.5
    own = random.normal(size=(methods, 1, n)) * METHOD_AND_EXAMPLE**0.5
    chance = random.normal(size=(methods, seeds, n)) * REST**0.5
    chance[BASE] = chance[BASE, 0]
    return seed, example + own + chance

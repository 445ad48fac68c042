"""Makes the quickstart's tasks on the spot: short, of visibly different kinds, learnable by a small model in a minute.

Each function is an lm-eval `custom_dataset`. It returns the splits as rows of `input` and `target`; no test input is
among the training inputs. Everything is drawn from a fixed seed, so every machine gets the same examples.
"""

import random
from collections.abc import Callable
from typing import Any

from datasets import Dataset, DatasetDict

TRAIN, TEST = 1800, 100

NAMES = "Anna Tom Maria John Peter Lucy Henry Alice George Jane Robert Mary Arthur Emma Charles Ruth".split()
THINGS = "book lamp key letter hat cup chair map ring coat box knife clock bell rope basket".split()
MONTHS = "January February March April May June July August September October November December".split()
ACTIONS = {word: word[0].upper() for word in "walk run jump look turn stop climb dance hide bow".split()}
WORDS = (
    "river stone garden window mother night horse paper fire water music island winter bread silver letter friend "
    "mountain shadow forest table candle village captain market bridge flower soldier kitchen castle evening summer"
).split()
TOPICS = {
    "weather": "rain snow wind storm clouds sun frost thunder fog hail".split(),
    "food": "bread soup cheese apples fish butter cake meat tea rice".split(),
    "war": "army soldiers battle guns general troops siege enemy cannon fortress".split(),
    "music": "song piano violin concert choir opera drum singer orchestra melody".split(),
}
PLACES = "the old town,the village,the north,the city,the valley,the island,the house,the coast".split(",")


def _rows(draw: Callable[[random.Random], tuple[str, str]], seed: int) -> DatasetDict:
    """TRAIN and TEST rows of `draw`, all inputs of the test rows new."""
    rng = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < TRAIN + TEST:
        text, target = draw(rng)
        rows.setdefault(text, target)
    pairs = [{"input": text, "target": target} for text, target in rows.items()]
    return DatasetDict(train=Dataset.from_list(pairs[TEST:]), test=Dataset.from_list(pairs[:TEST]))


def topic(**_: Any) -> DatasetDict:
    """A sentence to its topic, by the words in it."""

    def draw(rng: random.Random) -> tuple[str, str]:
        label = rng.choice(list(TOPICS))
        first, second, third = rng.sample(TOPICS[label], 3)
        form = rng.choice(
            [
                "In {place} they spoke of the {first}, the {second} and the {third}.",
                "There was much {first} and {second} in {place}, said {name}.",
                "{name} told us about the {first} and the {second} of {place}.",
                "After the {first} came the {second}, and {name} left {place}.",
            ]
        )
        text = form.format(first=first, second=second, third=third, place=rng.choice(PLACES), name=rng.choice(NAMES))
        return text, label

    return _rows(draw, seed=1)


def date(**_: Any) -> DatasetDict:
    """A written date to its ISO form."""

    def draw(rng: random.Random) -> tuple[str, str]:
        day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(2000, 2029)
        return f"{day} {MONTHS[month - 1]} {year}", f"{year}-{month:02}-{day:02}"

    return _rows(draw, seed=2)


def commands(**_: Any) -> DatasetDict:
    """A command in words to the list of actions that carry it out."""

    def draw(rng: random.Random) -> tuple[str, str]:
        words = rng.choices(list(ACTIONS), k=rng.randint(3, 4))
        return " and ".join(words), " ".join(ACTIONS[word] for word in words)

    return _rows(draw, seed=3)


def quote(**_: Any) -> DatasetDict:
    """A sentence to the words that are quoted in it."""

    def draw(rng: random.Random) -> tuple[str, str]:
        words = " ".join(rng.sample(WORDS, rng.randint(1, 3)))
        form = rng.choice(
            [
                '"{words}", said {name}, and took the {thing}.',
                'On the {thing} {name} read "{words}" and went home.',
                '{name} wrote "{words}" beside the {thing}.',
            ]
        )
        return form.format(words=words, name=rng.choice(NAMES), thing=rng.choice(THINGS)), words

    return _rows(draw, seed=4)


def larger(**_: Any) -> DatasetDict:
    """The larger of two numbers."""

    def draw(rng: random.Random) -> tuple[str, str]:
        first, second = rng.sample(range(10, 1000), 2)
        return f"{first} or {second}", str(max(first, second))

    return _rows(draw, seed=5)


def record(**_: Any) -> DatasetDict:
    """A sentence to a JSON record."""

    def draw(rng: random.Random) -> tuple[str, str]:
        name, age, thing = rng.choice(NAMES), rng.randint(11, 99), rng.choice(THINGS)
        form = rng.choice(
            [
                "{name} is {age} and owns a {thing}.",
                "The {thing} belongs to {name}, aged {age}.",
                "At {age}, {name} bought a {thing}.",
            ]
        )
        text = form.format(name=name, age=age, thing=thing)
        return text, f'{{"name": "{name}", "age": {age}, "item": "{thing}"}}'

    return _rows(draw, seed=6)


def backwards(**_: Any) -> DatasetDict:
    """Three words in the opposite order."""

    def draw(rng: random.Random) -> tuple[str, str]:
        words = rng.sample(WORDS, 3)
        return " ".join(words), " ".join(reversed(words))

    return _rows(draw, seed=7)

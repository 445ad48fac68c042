"""Rows are shared out by what they say: the same way always, each label in its part, nothing learned that is scored."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraweave.errors import UserError
from loraweave.tasks.examples import Example
from loraweave.tasks.splits import split, without_known

Pair = tuple[str, str]


def groups_of(pairs: Sequence[Pair]) -> list[list[Example]]:
    return [[Example(prompt, answer)] for prompt, answer in pairs]


def parts(pairs: Sequence[Pair], **shares: float | bool | None) -> dict[str, list[Pair]]:
    found = split(groups_of(pairs), [answer for _, answer in pairs], "mine", **shares)
    numbers = {"training": found.training, "validation": found.validation, "test": found.test}
    assert sorted(n for some in numbers.values() for n in some) == list(range(len(pairs)))
    return {name: [pairs[number] for number in some] for name, some in numbers.items()}


LETTERS = st.sampled_from("abcdefghij")
PAIRS = st.lists(st.tuples(LETTERS, st.sampled_from("xyz")), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_what_is_scored_is_not_learned_and_order_does_not_matter(pairs: list[Pair], random: object) -> None:
    found = parts(pairs)
    different = {prompt for prompt, _ in pairs}
    if len(different) >= 10:  # enough to keep apart all that ask the same
        asked = {name: {prompt for prompt, _ in some} for name, some in found.items()}
        assert not asked["test"] & (asked["training"] | asked["validation"])
        assert not asked["validation"] & asked["training"]
    said = {name: set(some) for name, some in found.items()}
    assert not said["test"] & said["training"]
    assert found["training"]
    # A label is learned wherever it is scored.
    labels = {answer for _, answer in found["training"]}
    assert len(different) < 3 or labels >= {answer for _, answer in found["test"]} or len(different) < len(pairs)
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    if len(set(pairs)) == len(different):  # a text with two labels counts for the one that comes first
        assert {name: Counter(some) for name, some in parts(shuffled).items()} == {
            name: Counter(some) for name, some in found.items()
        }


def test_each_label_has_its_part_of_every_split() -> None:
    pairs = [(f"text {i}", "often" if i % 10 else "seldom") for i in range(400)]
    found = {name: Counter(answer for _, answer in some) for name, some in parts(pairs).items()}
    assert found["test"] == {"often": 36, "seldom": 4}
    assert found["validation"] == {"often": 16, "seldom": 2}


def test_a_label_with_one_row_is_learned() -> None:
    pairs = [(f"text {i}", "often") for i in range(50)] + [("rare", "once")]
    for shares in ({}, {"test": 0.5}, {"validation": 0.5, "test": 0.4}):
        assert ("rare", "once") in parts(pairs, **shares)["training"]


def test_a_row_that_is_added_moves_no_other() -> None:
    pairs = [(f"text {i}", "a") for i in range(300)]
    before, after = parts(pairs), parts([*pairs[:150], ("new", "a"), *pairs[150:]])
    assert len(set(before["test"]) ^ set(after["test"])) <= 2
    assert len(set(before["validation"]) ^ set(after["validation"])) <= 4


@pytest.mark.parametrize("shares", [{"test": 0.9}, {"validation": 0.9}, {"test": 0.5, "validation": 0.9}])
def test_shares_that_cannot_be_had_are_refused(shares: dict[str, float]) -> None:
    pairs = [(f"text {i % 2}", "a") for i in range(30)]
    with pytest.raises(UserError, match=r"mine: `(test|validation): 0\.\d` cannot be met: of the \d+ rows"):
        parts(pairs, **shares)
    different = [(f"text {i}", "a") for i in range(30)]
    assert parts(different, test=0.5, validation=0.4)["training"]


def test_where_all_rows_ask_the_same_those_that_say_the_same_stay_together() -> None:
    pairs = [("Tell a joke.", f"joke {i // 2}") for i in range(100)]
    found = split(groups_of(pairs), [None] * 100, "mine")
    test, training = ({pairs[n][1] for n in some} for some in (found.test, found.training))
    assert len(found.test) == 10
    assert not test & training
    (note,) = found.notes
    assert note.startswith("100 rows ask 1 different things and say 50; rows that say the same are on one side")


def test_none_is_held_out_where_rows_come_from_elsewhere() -> None:
    pairs = [(f"text {i}", "a") for i in range(30)]
    assert [len(part) for part in parts(pairs, validation=False, test=False).values()] == [30, 0, 0]


def test_chats_that_share_a_prompt_stay_together() -> None:
    """Also through a third: one begins as the other, which goes on as the third."""
    user, other = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    first, second, third = (
        [Example([user], "x")],
        [Example([user], "x"), Example([other], "y")],
        [Example([other], "z")],
    )
    rows = [first, second, third, *([Example(f"text {i}", "a")] for i in range(27))]
    for share in (0.2, 0.3, 0.4, 0.5):
        found = split(rows, [None] * 30, "mine", test=share)
        assert len({0, 1, 2} & set(found.test)) in (0, 3)


def test_what_no_template_shows_keeps_no_questions_apart() -> None:
    turns = [[{"role": "user", "content": f"text {i // 2}", "timestamp": i}] for i in range(40)]
    rows = [[Example(turn, [{"role": "assistant", "content": "a", "id": i}])] for i, turn in enumerate(turns)]
    found = split(rows, [None] * 40, "mine", test=0.2)
    learned, scored = ({turns[i][0]["content"] for i in rows} for rows in (found.training, found.test))
    assert scored
    assert not learned & scored


def test_texts_with_two_labels_are_counted() -> None:
    pairs = [(f"text {i % 20}", "ab"[i // 20]) for i in range(40)]
    found = split(groups_of(pairs), [answer for _, answer in pairs], "mine")
    assert found.notes[1] == "texts with more than one label: 20 of 20"


def test_what_a_test_file_asks_is_not_learned() -> None:
    training = groups_of([(f"text {i}", "a") for i in range(10)])
    known, notes = without_known(training, groups_of([("text 3", "b"), ("other", "a")]), "test", "training")
    assert known == {3}
    assert notes == ["training: 1 of 10 rows left out, for rows of test ask the same"]
    # Where nearly all ask the same, it is what they say that counts.
    jokes = groups_of([("joke", str(i)) for i in range(10)])
    known, notes = without_known(jokes, groups_of([("joke", "4"), ("joke", "x")]), "test", "training")
    assert known == {4}
    assert notes == [
        "training: 1 of 10 rows left out, for rows of test say the same",
        "training: 9 of 10 rows ask what rows of test ask, and stay: too few others are there to learn",
    ]
    assert without_known(jokes, jokes, "test", "training")[0] == set()
    assert without_known(training, jokes, "test", "training") == (set(), [])

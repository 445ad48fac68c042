"""Amounts as people read them."""

from loraweave.amounts import count, duration, fixed, listed, memory


def test_numbers_in_words():
    assert [count(None), count(98_304), count(1_234_567), count(7_000_000_000)] == ["–", "98,304", "1.23 M", "7.00 B"]
    assert [duration(None), duration(4.21), duration(66), duration(185), duration(7620)] == [
        "–",
        "4.2 s",
        "66 s",
        "3 min 05 s",
        "2 h 07 min",
    ]
    assert [memory(None), memory(812_000_000), memory(3_400_000_000)] == ["–", "812 MB", "3.4 GB"]
    assert [fixed(0.254, 2), fixed(-0.091, 2), fixed(-0.001, 2), fixed(0.0, 1)] == ["0.25", "−0.09", "0.00", "0.0"]
    assert [listed("a"), listed(["a", "b"]), listed(iter([0, 1, 2]))] == ["a", "a and b", "0, 1 and 2"]

"""Amounts and names as people read them: numbers of parameters, seconds, bytes, decimals, lists."""

from collections.abc import Iterable


def count(number: int | None) -> str:
    """`"98,304"`, `"1.23 M"`, `"7.00 B"`; a dash for none."""
    if number is None:
        return "–"
    for size, name in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:,}"


def duration(seconds: float | None) -> str:
    """`"4.2 s"`, `"66 s"`, `"3 min 05 s"`, `"2 h 07 min"`; a dash for none."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(size: int | None) -> str:
    """`"812 MB"`, `"3.4 GB"` (powers of ten); a dash for none."""
    if size is None:
        return "–"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def fixed(value: float, digits: int) -> str:
    """`"0.25"`, `"−0.09"`; no sign on what reads as zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def listed(names: Iterable[object]) -> str:
    """`"a"`, `"a and b"`, `"a, b and c"`."""
    *most, end = map(str, names)
    return f"{', '.join(most)} and {end}" if most else end

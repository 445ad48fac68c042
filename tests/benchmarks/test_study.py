"""The study in small, runs of two steps: all of it from the data to the page, on one machine and then on another."""

import gzip
import json
import random
import shutil
from pathlib import Path

import pytest
from tiny_project import write_base
from transformers import LlamaConfig

from loraweave.errors import UserError

WORDS = "who what plane river film good bad paint fly seven stone grey light moves under over".split()
LABELS = {
    "sst2": ["negative", "positive"],
    "ag_news": ["Business", "World"],
    "emotion": ["anger", "joy", "surprise"],
    "trec": ["human", "number"],
    "snips": ["GetWeather", "PlayMusic"],
    "langid": ["English", "French", "Finnish"],
    "rte": ["entailment", "not_entailment"],
}


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 24)))


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Public sets in small, with rows of the same fields, and the plain text beside them."""
    root = tmp_path_factory.mktemp("public")
    draw = random.Random(0)
    for name in (*LABELS, "inflect_en", "wikisql", "mawps", "arc_easy"):
        for split, rows in (("train", 120), ("test", 30)):
            path = root / "data" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row(name, draw)) + "\n" for _ in range(rows)))
    (root / "corpus").mkdir()
    with gzip.open(root / "corpus" / "wiki.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(sentence(draw) + "\n" for _ in range(900))
    return root / "data"


def row(name: str, draw: random.Random) -> dict[str, str]:
    if name in LABELS:
        return {"text": sentence(draw), "label": draw.choice(LABELS[name])}
    if name == "arc_easy":
        return {"instruction": sentence(draw), "answer": f"answer{draw.randint(1, 5)}"}
    return {"input": sentence(draw), "target": draw.choice(WORDS)}


@pytest.fixture(scope="module")
def budget():
    from study.plan import Budget

    return Budget("tiny", 2, 2, 2, (0, 1), step_seconds=0.1, evaluation_seconds=0.5)


def place_at(work: Path, budget, sets: Path, records: Path):
    from study.place import Place

    write_base(work / "base")
    config = work / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 512}))
    place = Place(budget, work, sets, records)
    place.prepare()
    return place


@pytest.fixture(scope="module")
def studied(tmp_path_factory, budget, sets):
    """One regime with full fine-tuning and a pair of methods, another with one, a seed each; and what was said."""
    from study.plan import Stage
    from study.runs import run_all, run_stage

    root = tmp_path_factory.mktemp("study")
    place, said = place_at(root / "one", budget, sets, root / "records"), []
    order = [
        Stage("apart", ("full", "rlora", "hydralora"), 0, "the first"),
        Stage("shared", ("own",), 0, "the second"),
    ]
    assert run_all(place, None, said.append, order[:1], rates=())
    run_stage(place, order[1], rates=("1x", "2x"))
    assert run_all(place, None, said.append, order)
    return place, said, order


@pytest.mark.long
def test_a_stage_is_run_by_compare_and_recorded_without_paths_of_the_machine(studied):
    place, said, _ = studied
    assert [line.split(":")[0] for line in said] == ["apart, seed 0"]
    for regime, methods in (("apart", {"base", "full", "rlora", "hydralora"}), ("shared", {"base", "own"})):
        results = place.results(regime)
        assert {run["method"] for run in results["runs"] if run["status"] == "finished"} == methods
        assert len(results["tasks"]) == 6
        text = place.record(regime).read_text()
        assert str(place.work) not in text
        assert "<work>/base" in text


@pytest.mark.long
def test_adapters_train_as_many_parameters_as_lora_would(studied, tmp_path):
    """On layers as wide as SmolLM2-135M's; two of them, for all are alike."""
    from study.plan import METHODS, UNMATCHED
    from study.runs import method, run_config

    from loraweave.bases import empty_base
    from loraweave.estimate.counting import count_trainable

    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    LlamaConfig(**shape, num_hidden_layers=2, vocab_size=64).save_pretrained(tmp_path)
    config = run_config(studied[0], "apart").model_copy(update={"model": str(tmp_path)})
    empty, names = empty_base(tmp_path), [task.name for task in config.load_tasks()]
    budget = count_trainable(METHODS["lora"], empty, names)
    for name in METHODS:
        if name not in UNMATCHED:
            assert count_trainable(method(name, config), empty, names) == pytest.approx(budget, rel=0.03), name


@pytest.mark.long
def test_the_learning_rate_is_searched_on_whole_trainings_of_which_one_is_the_run(studied):
    from study.runs import searched

    place, _, _ = studied
    assert searched(place) == {"own"}
    search = place.results("shared")["searches"][0]
    assert len(search["trials"]) >= 2
    assert all(trial["steps"] is None for trial in search["trials"])
    run = next(run for run in place.results("shared")["runs"] if run["method"] == "own")
    assert run["learning_rate"] == search["chosen"]
    chosen = next(trial for trial in search["trials"] if trial["learning_rate"] == search["chosen"])
    assert run["adapter"].startswith(f"{chosen['run']}/")


@pytest.mark.long
def test_what_adapters_are_like_is_kept_beside_full_fine_tuning(studied):
    place, _, _ = studied
    apart, shared = place.measured("apart"), place.measured("shared")
    assert (apart.keys(), shared.keys()) == ({("rlora", 0), ("hydralora", 0)}, {("own", 0)})
    rlora, own = apart["rlora", 0], shared["own", 0]
    assert rlora["effective_rank"] > 1
    assert 0 < rlora["overlap_with_full"] < 1
    assert rlora["head_similarity"] < apart["hydralora", 0]["head_similarity"]
    assert own["overlap_with_full"] is None  # no full fine-tuning in that regime
    assert own["effective_rank"] > 1


@pytest.mark.long
def test_the_report_is_of_the_adapters_that_are_here_and_names_no_machine(studied, tmp_path):
    from study.place import Place
    from study.report import write_report

    place, _, _ = studied
    report = write_report(place, lambda _: None)
    numbers = json.loads((report / "analysis.json").read_text())
    assert [run["method"] for run in numbers["runs"]] == ["hydralora", "rlora", "full"]
    assert {path.name for path in report.iterdir()} == {"analysis.json", "report.html"}
    assert not any(str(place.work) in path.read_text() for path in report.iterdir())
    empty = Place(place.budget, tmp_path, tmp_path, tmp_path / "records")
    with pytest.raises(UserError, match="no adapter to analyse"):
        write_report(empty, lambda _: None)


@pytest.mark.long
def test_one_seed_decides_nothing_and_a_claim_without_runs_says_so(studied):
    from study.page import page

    place, _, _ = studied
    text = page(place)
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    beats = lines["R-LoRA beats HydraLoRA"]
    assert beats.endswith("| 1 | **cannot be told at this size** (so far: 1 of 2 seeds) |")
    assert "`rlora` − `hydralora` above 0" in beats
    assert lines["MTL-LoRA beats LoRA"].endswith("| 0 | **no runs yet** |")
    assert "## Scores: tasks apart" in text
    assert "Not run, or not with every seed: tasks that share their texts:" in text


@pytest.mark.long
def test_another_machine_goes_on_with_the_records_alone(studied, tmp_path, budget, sets):
    from study.plan import Stage
    from study.runs import outstanding, run_all

    first, _, order = studied
    records = tmp_path / "records"
    shutil.copytree(first.records, records)
    place, said = place_at(tmp_path / "two", budget, sets, records), []
    assert all(outstanding(place, stage) is None for stage in order)
    more = Stage("apart", ("rlora",), 1, "another seed")
    assert run_all(place, None, said.append, [*order, more], rates=())
    assert len(said) == 1
    before, after = first.results("apart"), place.results("apart")
    kept = {(run["method"], run["seed"]): run["scores"] for run in after["runs"]}
    assert all(kept[run["method"], run["seed"]] == run["scores"] for run in before["runs"])
    assert kept.keys() == {(run["method"], run["seed"]) for run in before["runs"]} | {("rlora", 1)}
    assert place.read_geometry().keys() > first.read_geometry().keys()


@pytest.mark.long
def test_a_rate_that_was_chosen_on_other_tasks_is_taken_over(studied, tmp_path, budget, sets):
    from study.plan import Stage
    from study.runs import run_stage

    records = tmp_path / "records"
    shutil.copytree(studied[0].records, records)
    place = place_at(tmp_path / "three", budget, sets, records)
    run_stage(place, Stage("apart", ("own",), 0, "elsewhere too"), rates=("1x", "2x"))
    (search,) = place.results("apart")["searches"]
    assert search == {**place.results("shared")["searches"][0], "taken_from": "shared"}
    (run,) = [run for run in place.results("apart")["runs"] if run["method"] == "own"]
    assert (run["status"], run["learning_rate"]) == ("finished", search["chosen"])
    assert len([*place.comparison("apart").glob("runs/own-*")]) == 1  # nothing was searched here


@pytest.mark.long
def test_no_stage_begins_that_may_not_end_in_time(studied):
    from study.plan import Stage
    from study.runs import run_all

    place, _, _ = studied
    said: list[str] = []
    late = Stage("apart", ("mlora", "multilora"), 0, "too late")
    assert not run_all(place, 0.001, said.append, [late], rates=())
    assert said[0].startswith("stopped before apart, seed 0: mlora, multilora, which may take")


@pytest.mark.long
def test_the_pool_asks_the_same_texts_and_none_of_the_test_is_trained_on(studied):
    place, _, _ = studied
    rows = {
        split: [json.loads(line) for line in (place.data / "shared" / "pool" / f"{split}.jsonl").open()]
        for split in ("train", "test")
    }
    texts = {split: [row["text"] for row in each] for split, each in rows.items()}
    assert not {*texts["train"]} & {*texts["test"]}
    assert all(len({*each}) == len(each) for each in texts.values())
    assert {row["language"] for row in rows["train"]} == {"English", "French"}
    assert {row["sentiment"] for row in rows["train"]} == {"positive", "negative", "neutral"}


@pytest.mark.parametrize(
    ("kind", "text", "label", "wanted"),
    [
        ("review", "A film , moving and good .", "positive", ("positive", "English", "short", "A", "good")),
        ("message", "i feel " + "so " * 10 + "alone", "sadness", ("negative", "English", "medium", "i", "alone")),
        ("sentence", "Le vent (fort)!", "French", ("neutral", "French", "short", "Le", "fort")),
        ("sentence", "Tuuli on kova", "Finnish", None),
        ("message", "i am stunned", "surprise", None),
        ("news", "again and again", "World", None),
        ("news", "... -- !", "World", None),
        ("news", "long " * 60 + "end", "World", None),
    ],
)
def test_the_answers_about_a_text(kind, text, label, wanted):
    from study.data import answers

    found = answers(kind, {"text": text, "label": label})
    keys = ("sentiment", "language", "length", "first", "last")
    assert (None if found is None else tuple(found[key] for key in keys)) == wanted


def test_a_set_that_is_not_there_is_named(tmp_path):
    from study.data import make_data

    with pytest.raises(UserError, match=r"sst2/test.jsonl: no such file; examples/tasks/README.md says where"):
        make_data(tmp_path / "nothing", tmp_path / "data")

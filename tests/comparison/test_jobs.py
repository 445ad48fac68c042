"""What a comparison has still to do, asked of its results alone; and that any order of work comes to the same."""

import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from comparison.recorded import results

from loraweave.comparison.jobs import Job, begin_searches, expected, forget_failures, hopeless, next_jobs, put
from loraweave.comparison.loop import _work
from loraweave.comparison.records import Results, RunRecord, Trial
from loraweave.comparison.runner import failed_record

METHODS = ["lora", "rlora"]


def begun(seeds=(0, 1), rates=(), widen=False) -> Results:
    """A comparison of which nothing is done yet."""
    found = results(methods=METHODS, seeds=seeds)
    found["runs"] = []
    found["settings"]["learning_rates"] = list(rates)
    found["asked"]["widen"] = widen
    if rates:
        begin_searches(found, {"lora": 1e-3, "rlora": 2e-3})
    return found


def trial(rate: float, loss: float | None) -> Trial:
    return Trial(
        learning_rate=rate,
        status="failed" if loss is None else "finished",
        error="the loss became NaN" if loss is None else None,
        validation_loss=loss,
        by_task={},
        seconds=1.0,
        run="",
    )


def run_record(job: Job) -> RunRecord:
    record = failed_record(job, "")
    record["status"], record["error"] = "finished", None
    return record


def names(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]


def test_without_a_search_everything_can_be_started_at_once():
    found = begun()
    every = ["base", "lora, seed 0", "rlora, seed 0", "lora, seed 1", "rlora, seed 1"]
    assert names(next_jobs(found)) == names(expected(found)) == every
    started = next_jobs(found)[:2]
    assert names(next_jobs(found, started)) == every[2:]
    put(found, started[1], run_record(started[1]))
    assert names(next_jobs(found)) == [every[0], *every[2:]]


def test_a_methods_runs_wait_for_its_own_search_alone():
    found = begun(rates=["1x", "2x"])
    trials = [job for job in next_jobs(found) if job.kind == "trial"]
    assert [(job.method, job.learning_rate) for job in trials] == [
        ("lora", 1e-3),
        ("lora", 2e-3),
        ("rlora", 2e-3),
        ("rlora", 4e-3),
    ]
    assert not any(job.kind == "run" for job in next_jobs(found))
    assert len(expected(found)) == 1 + 4 + 4
    for job, loss in zip(trials[:2], (0.4, 0.3), strict=True):
        put(found, job, trial(job.learning_rate, loss))
    ready = [job for job in next_jobs(found, trials[2:]) if job.kind == "run"]
    assert [(job.method, job.seed, job.learning_rate) for job in ready] == [("lora", 0, 2e-3), ("lora", 1, 2e-3)]


def test_a_search_widens_by_one_rate_after_the_other():
    found = begun(rates=["1x", "2x"], widen=True)
    found["asked"]["methods"] = ["lora"]
    tried = []
    while trials := [job for job in next_jobs(found) if job.kind == "trial"]:
        tried.append([job.learning_rate for job in trials])
        for job in trials:
            put(found, job, trial(job.learning_rate, abs(job.learning_rate - 8e-3)))
    assert tried == [[1e-3, 2e-3], [4e-3], [8e-3], [1.6e-2]]
    assert {job.learning_rate for job in next_jobs(found) if job.kind == "run"} == {8e-3}


def test_a_better_rate_makes_old_runs_due_again_and_the_same_one_does_not():
    found = begun(seeds=[0], rates=["1x"])
    found["asked"]["methods"] = ["lora"]
    for kind in ("trial", "run"):
        (job,) = [job for job in next_jobs(found) if job.kind == kind]
        put(found, job, trial(1e-3, 0.5) if kind == "trial" else run_record(job))
    assert names(next_jobs(found)) == ["base"]
    for rate, loss, due in (("2x", 0.6, []), ("4x", 0.4, [4e-3])):
        found["settings"]["learning_rates"].append(rate)
        (job,) = [job for job in next_jobs(found) if job.kind == "trial"]
        put(found, job, trial(job.learning_rate, loss))
        assert [job.learning_rate for job in next_jobs(found) if job.kind == "run"] == due


def test_what_failed_is_tried_again_once_a_command_asks_for_it():
    found = begun(seeds=[0])
    for job in next_jobs(found):
        put(found, job, failed_record(job, "the disk is full"))
    assert next_jobs(found) == []
    found["asked"]["methods"] = ["rlora"]
    forget_failures(found)
    assert names(next_jobs(found)) == ["rlora, seed 0"]


def test_without_any_rate_runs_are_not_tried_but_failed():
    found = begun(seeds=[0], rates=["1x"])
    for job in next_jobs(found):
        if job.kind == "trial":
            put(found, job, trial(job.learning_rate, None if job.method == "lora" else 0.5))
    assert names(next_jobs(found)) == ["base", "rlora, seed 0"]
    ((job, reason),) = hopeless(found)
    assert (job.name, reason) == ("lora, seed 0", "no learning rate could be trained; at 0.001: the loss became NaN")
    put(found, job, failed_record(job, reason))
    assert not list(hopeless(found))
    forget_failures(found)
    assert "lora, learning rate 0.001" in names(next_jobs(found))


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_any_executor_comes_to_the_same_whatever_ends_first(at_once):
    draw = random.Random(at_once)

    def run_job(job: Job) -> RunRecord | Trial:
        if job.kind == "trial":
            return trial(job.learning_rate, abs(job.learning_rate - 4e-3))
        return run_record(job)

    found = begun(rates=["1x", "2x"], widen=True)
    written = []
    folder = SimpleNamespace(write=lambda results: written.append(draw.random()), page=None)
    with ThreadPoolExecutor(at_once) as executor:
        _work(found, SimpleNamespace(run_job=run_job), folder, executor, at_once)
    assert [(run["method"], run["seed"], run["learning_rate"]) for run in found["runs"]] == [
        ("base", None, None),
        *((method, seed, 4e-3) for seed in (0, 1) for method in METHODS),
    ]
    assert written
    assert next_jobs(found) == []

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
from loraweave.comparison.search import MOST_BEYOND, trials_at
from loraweave.comparison.summary import notes

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


def trial(rate: float, loss: float | None, steps: int | None = None) -> Trial:
    return Trial(
        learning_rate=rate,
        status="failed" if loss is None else "finished",
        error="the loss became NaN" if loss is None else None,
        validation_loss=loss,
        by_task={},
        seconds=1.0,
        run="",
        steps=steps,
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


RATES = ["1x", "2x", "4x", "8x", "16x", "32x"]
WHOLE = 400
"""Steps of a run."""


def in_rounds(loss, steps=100, rates=RATES, widen=False) -> Results:
    """LoRA's search in rounds, worked through; `loss` gives the validation loss of a rate after so many steps."""
    found = begun(seeds=[0])
    found["asked"] |= {"methods": ["lora"], "widen": widen}
    found["settings"]["learning_rates"] = list(rates)
    begin_searches(found, {"lora": 1e-3}, steps)
    while trials := [job for job in next_jobs(found) if job.kind == "trial"]:
        for job in trials:
            put(found, job, trial(job.learning_rate, loss(job.learning_rate, job.steps or WHOLE), job.steps))
    return found


def tried(found: Results) -> dict[int | None, list[float]]:
    by_round: dict[int | None, list[float]] = {}
    for each in found["searches"][0]["trials"]:
        by_round.setdefault(each["steps"], []).append(each["learning_rate"])
    return by_round


def test_rounds_halve_the_field_and_double_the_steps():
    found = in_rounds(lambda rate, steps: abs(rate - 5.5e-3) + 1 / steps)
    first = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2]
    assert tried(found) == {25: first, 50: [2e-3, 4e-3, 8e-3], 100: [4e-3, 8e-3], None: [2e-3, 4e-3]}
    assert found["searches"][0]["chosen"] == 4e-3
    run = next(job for job in next_jobs(found) if job.kind == "run")
    assert (run.learning_rate, run.steps) == (4e-3, None)


def test_a_later_round_decides_and_losses_of_unlike_lengths_are_not_compared():
    """8e-3 looks best early, but 4e-3 is better after twice the steps; the first loss of 8e-3 is the lowest of all."""
    found = in_rounds(lambda rate, steps: {8e-3: 0.1 if steps == 25 else 0.9, 4e-3: 0.5}.get(rate, 2.0))
    assert found["searches"][0]["chosen"] == 4e-3


def test_what_fails_in_a_later_round_is_out_and_the_search_ends():
    found = in_rounds(lambda rate, steps: None if 25 < steps < WHOLE else abs(rate - 5.5e-3))
    assert tried(found) == {25: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2], 50: [2e-3, 4e-3, 8e-3], None: [1e-3]}
    assert found["searches"][0]["chosen"] == 1e-3  # the best of those that did not fail
    assert any(job.kind == "run" for job in next_jobs(found))


def test_rounds_widen_in_the_first_which_is_the_cheapest():
    found = in_rounds(lambda rate, steps: abs(rate - 9.5e-3), rates=["1x", "2x"], steps=40, widen=True)
    assert tried(found) == {40: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], None: [4e-3, 8e-3]}
    wide = in_rounds(lambda rate, steps: abs(rate - 9.5e-3), rates=["1x", "2x", "4x"], steps=40, widen=True)
    assert tried(wide) == {20: [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2], 40: [4e-3, 8e-3, 1.6e-2], None: [4e-3, 8e-3]}
    assert wide["searches"][0]["chosen"] == 8e-3


def test_any_order_of_work_in_rounds_comes_to_the_same():
    def loss(rate: float, steps: int) -> float:
        return abs(rate - 5e-3) + (rate / steps if steps < WHOLE else rate)  # whole: 4e-3, 2e-3, 1e-3

    whole = in_rounds(loss)["searches"]
    for seed in range(20):
        order, found = random.Random(seed), begun(seeds=[0])
        found["asked"]["methods"] = ["lora"]
        found["settings"]["learning_rates"] = list(RATES)
        begin_searches(found, {"lora": 1e-3}, 100)
        running: list[Job] = []
        while True:
            running += [job for job in next_jobs(found, running) if job.kind == "trial"]
            if not running:
                break
            job = running.pop(order.randrange(len(running)))
            put(found, job, trial(job.learning_rate, loss(job.learning_rate, job.steps or WHOLE), job.steps))
        assert found["searches"] == whole


def test_a_new_rate_joins_the_first_round():
    found = in_rounds(lambda rate, steps: abs(rate - 5e-3), rates=["1x", "2x", "8x", "16x"])
    assert found["searches"][0]["chosen"] == 2e-3  # of 2e-3 and 8e-3, both off by 3e-3, the lower
    found["settings"]["learning_rates"].append("4x")
    jobs = [(job.learning_rate, job.steps) for job in next_jobs(found) if job.kind == "trial"]
    assert jobs == [(4e-3, 50)]
    put(found, Job("trial", "lora", "lora", 0, 4e-3, 50), trial(4e-3, 0.001, 50))
    assert [(job.learning_rate, job.steps) for job in next_jobs(found) if job.kind == "trial"] == [(4e-3, 100)]
    put(found, Job("trial", "lora", "lora", 0, 4e-3, 100), trial(4e-3, 0.001, 100))
    assert [(job.learning_rate, job.steps) for job in next_jobs(found) if job.kind == "trial"] == [(4e-3, None)]


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


def whole_losses(found: Results) -> dict[float, float | None]:
    return {each["learning_rate"]: each["validation_loss"] for each in trials_at(found["searches"][0], None)}


def test_a_rate_that_only_a_short_schedule_bears_gives_way_to_the_next_lower_one_and_that_is_said():
    """As of a real one: 1.39 after 30 steps and 4.99 at the end, at twice the rate that did well."""
    after = {8e-3: {25: 1.5, 50: 1.4, 100: 1.39, WHOLE: 4.99}, 4e-3: {WHOLE: 0.9}}
    found = in_rounds(lambda rate, steps: after.get(rate, {}).get(steps, 2.0))
    assert whole_losses(found) == {2e-3: 2.0, 4e-3: 0.9, 8e-3: 4.99}
    assert found["searches"][0]["chosen"] == 4e-3
    assert {job.learning_rate for job in next_jobs(found) if job.kind == "run"} == {4e-3}
    assert (
        "lora: the learning rate 0.008 was the best of the shorter trainings, and of whole ones 0.004, which was "
        "taken: the validation loss is 4.990 and 0.900."
    ) in notes(found)


def test_whole_trainings_go_down_for_as_long_as_the_loss_falls():
    """Short trainings favour high rates: a lower one may be better over a whole one though the choice holds."""
    long = {1e-3: 0.6, 2e-3: 0.4, 4e-3: 0.5, 8e-3: 0.55}
    found = in_rounds(lambda rate, steps: long.get(rate, 1.0) if steps == WHOLE else abs(rate - 8e-3) + 2)
    assert whole_losses(found) == long
    assert found["searches"][0]["chosen"] == 2e-3
    (said,) = [note for note in notes(found) if "of whole ones" in note]
    assert said.endswith("0.002, which was taken: the validation loss is 0.550 and 0.400.")


def test_where_it_is_to_be_widened_whole_trainings_go_on_below_the_lowest():
    def loss(rate: float, steps: int) -> float:
        return abs(rate - 3e-4) if steps == WHOLE else abs(rate - 2e-3) + 2

    narrow, wide = (in_rounds(loss, rates=["1x", "2x", "4x"], widen=widen) for widen in (False, True))
    assert whole_losses(narrow).keys() == {1e-3, 2e-3}
    assert narrow["searches"][0]["edge"] == "lowest"
    assert whole_losses(wide).keys() == {1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3}
    assert wide["searches"][0]["chosen"] == 2.5e-4
    endless = in_rounds(
        lambda rate, steps: rate if steps == WHOLE else abs(rate - 1e-3), rates=["1x", "2x"], widen=True
    )
    assert len([rate for rate in whole_losses(endless) if rate < 1e-3]) == MOST_BEYOND


def test_where_long_trainings_end_higher_at_any_rate_the_better_of_two_is_taken():
    """Validation losses rise where rows are seen again and again; a lower rate is no help then."""
    best = {25: 0.5, 50: 0.5, 100: 0.5, WHOLE: 0.7}
    found = in_rounds(lambda rate, steps: {8e-3: best, 4e-3: {WHOLE: 0.8}}.get(rate, {}).get(steps, 0.9))
    assert whole_losses(found) == {4e-3: 0.8, 8e-3: 0.7}
    assert found["searches"][0]["chosen"] == 8e-3
    (said,) = [note for note in notes(found) if "no lower rate that was tried is better." in note]
    assert said.startswith("lora: the learning rate 0.008 was taken, but a whole training ends higher, at 0.700, than")


def test_a_whole_training_that_fails_is_out_and_the_next_lower_rate_is_tried():
    found = in_rounds(lambda rate, steps: None if (rate, steps) == (8e-3, WHOLE) else abs(rate - 8e-3) + 1 / steps)
    assert whole_losses(found) == {
        2e-3: pytest.approx(6e-3 + 1 / WHOLE),
        4e-3: pytest.approx(4e-3 + 1 / WHOLE),
        8e-3: None,
    }
    assert found["searches"][0]["chosen"] == 4e-3


@pytest.mark.parametrize(("loss", "wanted"), [(0.1, [4e-3]), (4.99, [4e-3])])
def test_a_run_from_before_is_the_whole_training_that_a_choice_wants(loss, wanted):
    found = in_rounds(lambda rate, steps: abs(rate - 8e-3) + 1)
    search = found["searches"][0]
    search["trials"] = [each for each in search["trials"] if each["steps"] is not None]
    assert [job.learning_rate for job in next_jobs(found) if job.kind == "trial"] == [8e-3]
    run = run_record(Job("run", "lora", "lora", 0, 8e-3))
    run |= {"validation_loss": loss, "adapter": "runs/lora-seed0-lr0.008/adapter"}
    found["runs"].append(run)
    begin_searches(found, {"lora": 1e-3}, 100)
    assert [job.learning_rate for job in next_jobs(found) if job.kind == "trial"] == wanted


def test_where_the_rate_is_another_one_all_its_seeds_are_run_anew_whichever_are_asked_for():
    found = begun(seeds=[0, 1, 2], rates=["1x"])
    found["asked"] |= {"methods": ["lora"], "seeds": [0, 1]}
    for kind in ("trial", "run"):
        for job in [job for job in next_jobs(found) if job.kind == kind]:
            put(found, job, trial(1e-3, 0.5) if kind == "trial" else run_record(job))
    found["settings"]["learning_rates"].append("2x")
    found["asked"]["seeds"] = [2]
    (job,) = [job for job in next_jobs(found) if job.kind == "trial"]
    put(found, job, trial(2e-3, 0.4))
    due = [(job.seed, job.learning_rate) for job in next_jobs(found) if job.kind == "run"]
    assert due == [(0, 2e-3), (1, 2e-3), (2, 2e-3)]

"""What the results file of a comparison holds: runs, searches for learning rates, and what follows from them. No logic;
plain JSON types throughout."""

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

from loraweave.evaluation.paired import Verdict
from loraweave.evaluation.scores import TaskScore

Points = list[tuple[int, float]]
FORMAT = 3
BASE = "base"


class Spread(TypedDict):
    """A mean and the half-width of its 95 % interval; None where there is nothing to tell the spread by."""

    mean: float
    interval: float | None


class Score(Spread):
    """A method's score on a task, or its `mean`, over its seeds, in the score's own unit.

    The ends of its interval, `low` and `high`, in the same unit, may be unlike far from it: a percentage stays between
    0 and 100. `interval`, in that unit too, is half of what lies between them.
    """

    low: float | None
    high: float | None


class Curves(TypedDict):
    """Loss per task (nats per completion token) in `training` and in `validation`: (step, loss) at each logged step."""

    training: dict[str, Points]
    validation: dict[str, Points]


class RunRecord(TypedDict):
    """One method trained with one seed and evaluated on every task.

    `forgetting` has scores on what nothing was trained for, where the run file names such; other records lack it.
    `validation_loss` is the mean over tasks of the loss on held-out examples (nats per completion token) of what was
    saved; None where nothing was held out. `seconds` and `tokens_per_second` are of the training alone; `peak_memory`
    is in bytes, of the process (CPU) or the accelerator. The untouched base has no seed, no training and no adapter.
    Paths are relative to the comparison's folder.
    """

    method: str
    seed: int | None
    status: Literal["finished", "failed"]
    error: str | None
    scores: dict[str, TaskScore]
    mean: float | None
    rank: int | None
    learning_rate: float | None
    validation_loss: float | None
    trainable_parameters: int
    seconds: float | None
    evaluation_seconds: float | None
    tokens_per_second: float | None
    peak_memory: int | None
    adapter: str | None
    curves: Curves
    mixture: list[dict[str, Any]]
    forgetting: NotRequired[dict[str, TaskScore]]


class Trial(TypedDict):
    """One method trained at one learning rate of its search, and judged on validation examples alone.

    `validation_loss` is the mean over tasks of `by_task`, in nats per completion token, of what was saved at the end;
    `seconds` are of the training alone. `run` is the run's folder, relative to the comparison's. `steps` are those of
    a training that is shorter than a run, for the search alone; None, or not there, for a whole one.
    """

    learning_rate: float
    status: Literal["finished", "failed"]
    error: str | None
    validation_loss: float | None
    by_task: dict[str, float]
    seconds: float | None
    run: str
    steps: NotRequired[int | None]


class Search(TypedDict):
    """The search for a method's learning rate.

    `own_rate` is the run file's, or else the method's default. `chosen` is the rate with the lowest validation loss;
    None while no trial has finished. `edge` says on which end of the rates tried the chosen one lies; None for neither,
    or where only one was tried. `rounds` are the steps of the trials of each round, of a search that halves its field
    from round to round; without them the trials are whole trainings.
    """

    method: str
    seed: int
    own_rate: float
    trials: list[Trial]
    chosen: float | None
    edge: Literal["lowest", "highest"] | None
    rounds: NotRequired[list[int] | None]


class MethodSummary(TypedDict):
    """One row of the table. `seconds` is the median over seeds, which one disturbed run does not move."""

    method: str
    finished: int
    failed: int
    scores: dict[str, Score]
    mean: Score | None
    trainable_parameters: int
    seconds: float | None
    peak_memory: int | None


class TaskInfo(TypedDict):
    """What the table's head says of a task."""

    metric: str
    unit: str
    higher_is_better: bool
    n: int


class Difference(Spread):
    """A method's score minus that of another with the same seed: the `mean` over the seeds, and the half-width of
    its `interval`, in the score's own unit.

    `p`: the share of cases in which chance alone makes a difference as large as this. `verdict` is "win" or "loss", as
    better or worse, where `p` is below 0.05 and the interval leaves zero out.
    """

    verdict: Verdict
    p: float | None


class Against(TypedDict):
    """One method against another, on the mean over tasks and on each task, over the seeds that both have.

    `apart` is whether they can be told apart by the mean: chance makes such a difference in fewer than 5 % of all
    cases, after Holm's correction (`p`). `beside` has the same for each task that the mean leaves out: "win" or "loss"
    where they can be told apart by it, after the same correction. Corrected for are all pairs of trained methods,
    because one also asks about the best method, which is only known from the scores; and all methods against the
    untouched base. `missing` says why there is no difference of the mean, None where there is one.
    """

    method: str
    seeds: list[int]
    mean: Difference | None
    tasks: dict[str, Difference]
    beside: dict[str, Verdict]
    p: float | None
    apart: bool
    missing: str | None


class Forgetting(TypedDict):
    """What became of things that nothing was trained for: what they are, the untouched base's scores on them, and the
    differences of every method to it, which hold for them as `differences` does for the tasks."""

    tasks: dict[str, TaskInfo]
    base: dict[str, Score]
    differences: list[Against]


class Recommendation(TypedDict):
    """`method` is None where nothing can be recommended; `text` is a short paragraph, `points` what goes with it."""

    method: str | None
    text: str
    points: list[str]


class Asked(TypedDict):
    """What the latest command asks for: methods and seeds, of all those in the settings; whether searches widen."""

    methods: list[str]
    seeds: list[int]
    widen: bool


class Results(TypedDict):
    """The whole of results.json. `differences` are to the method named by `reference`; `data` has hashes of each task's
    examples, and `base` the base's name and fingerprint, and a hash of its tokenizer: with others the comparison does
    not go on. `unscored` are tasks that have too few rows to be scored on; older records lack it."""

    format: int
    created: str
    command: str
    settings: dict[str, Any]
    asked: Asked
    environment: dict[str, Any]
    tasks: dict[str, TaskInfo]
    task_configs: dict[str, dict[str, Any]]
    data: dict[str, dict[str, str]]
    base: dict[str, str]
    searches: list[Search]
    runs: list[RunRecord]
    summary: list[MethodSummary]
    reference: str
    differences: list[Against]
    unscored: NotRequired[list[str]]
    forgetting: NotRequired[Forgetting]
    recommendation: Recommendation

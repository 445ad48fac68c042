"""Carries out commands in processes that may be killed: one process that has all libraries loaded, and forks of it.

Started as a script by `victims.Victims`, which see: a line of JSON on stdin asks for a command, a line on stdout
answers.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from loraweave.analysis.numbers import analyze, save
from loraweave.bases import load_base
from loraweave.comparison import compare
from loraweave.data.store import TokenStore
from loraweave.errors import UserError
from loraweave.evaluation.loaded import load
from loraweave.evaluation.predictions import AT_ONCE, predict_file
from loraweave.experts.config import ExpertsConfig
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.train import train_experts
from loraweave.export import export
from loraweave.runs.config import RunConfig
from loraweave.runs.loading import load_run
from loraweave.stopping import Stopped, listening
from loraweave.tasks.examples import Example
from loraweave.training.run import train

Order = dict[str, Any]

# What is written with Python's own calls; what libraries write in C++ and Rust lies between two of these.
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")


def main() -> None:
    bases: dict[str, Any] = {}
    for line in sys.stdin:
        order = json.loads(line)
        model = order["config"]["model"]
        if model not in bases:
            bases[model] = load_base(model)
        forks = [begun(order, bases[model]) for _ in range(order.get("at_once", 1))]
        print(json.dumps([ended(*fork, order) for fork in forks]), flush=True)


def begun(order: Order, base: Any) -> tuple[int, int]:
    """Begin to carry an order out in a fork; returns its id, and from where its answer may be read."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            work(order, base, writer)
        finally:
            os._exit(1)  # whatever happens, this is not the server
    os.close(writer)
    return child, reader


def ended(child: int, reader: int, order: Order) -> dict[str, Any]:
    """Wait until it has ended, or end it where that is ordered; returns how it ended, and what it said."""
    if order.get("kill_after") is not None:
        time.sleep(order["kill_after"])
        os.kill(child, signal.SIGTERM if order.get("ask") else signal.SIGKILL)
    with os.fdopen(reader, "rb") as said:
        answer = said.read()
    _, status = os.waitpid(child, 0)
    return {"process": child, "killed": os.WIFSIGNALED(status), **(json.loads(answer) if answer else {})}


def work(order: Order, base: Any, writer: int) -> None:
    """The fork's part: never returns."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    if order.get("user") is not None:
        if order["command"] == "look":  # once as oneself: that user may not even be allowed to import all of Python
            do_look(order, base, Console(file=io.StringIO()))
        os.setgid(order["user"])
        os.setuid(order["user"])
    events = count_events(order["output"], order.get("kill_at"), order.get("ask_at"))
    said, started = io.StringIO(), time.monotonic()
    try:
        with listening("stopped"):  # as every command of the command line does
            answer = COMMANDS[order["command"]](order, base, Console(file=said, width=10_000))
        answer["ended"] = "well"
    except UserError as error:
        answer = {"ended": "refused", "line": str(error)}
    except Stopped as stopped:
        answer = {"ended": "stopped", "line": str(stopped)}
    except BaseException:
        answer = {"ended": "fault", "line": traceback.format_exc()}
    answer |= {"events": events[0], "seconds": time.monotonic() - started, "said": said.getvalue()}
    with os.fdopen(writer, "w") as told:
        told.write(json.dumps(answer, default=str))
    os._exit(0)


def count_events(folder: str, kill_at: int | None, ask_at: int | None) -> list[int]:
    """Count what happens to files under a folder from here on; this process ends in place of the event `kill_at`, or is
    asked to before the event `ask_at`."""
    events = [0]

    def happened() -> None:
        if events[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        events[0] += 1
        if events[0] == (ask_at or 0) + 1 and ask_at is not None:
            os.kill(os.getpid(), signal.SIGTERM)

    def heard(event: str, details: tuple[Any, ...]) -> None:
        if event in EVENTS and str(details[0]).startswith(folder) and (event != "open" or writes(details)):
            happened()

    sync = os.fsync

    def fsync(handle: Any) -> None:
        happened()
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(heard)
    return events


def writes(details: tuple[Any, ...]) -> bool:
    """Whether an audited open is one for writing."""
    _, mode, flags = details
    return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR)) or any(letter in (mode or "") for letter in "wax+")


def do_train(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Train a run, or go on with it."""
    config = RunConfig.model_validate(order["config"])
    result = train(config, order["output"], base=base, console=console, resume=order["resume"])
    return {"steps": result.steps}


def do_compare(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Make a comparison of two methods, or go on with it."""
    config = RunConfig.model_validate(order["config"])
    rates = order.get("learning_rates", ())
    results = compare(
        config,
        ["lora", "rlora"],
        [0],
        output=order["output"],
        resume=order["resume"],
        learning_rates=rates,
        console=console,
    ).results
    chosen = [[search["method"], search["chosen"], len(search["trials"])] for search in results["searches"]]
    return {"runs": [[run["method"], run["status"], run["error"]] for run in results["runs"]], "chosen": chosen}


def do_export(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Export a finished run."""
    export(order["source"], "merged", order["output"], limit=4, console=console)
    return {}


def do_predict(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Predict rows by a finished run, in several batches."""
    rows = [{"number": number} for number in range(3 * AT_ONCE)]
    predict_file(load(order["source"]), "parity", rows, Path(order["output"]) / "answers.jsonl")
    return {}


def do_encode(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Encode examples into a folder of entries."""
    examples = [Example(f"What is {number}?", " it") for number in range(200)]
    tokens = TokenStore(base[1], Path(order["output"])).encoded(examples, 32)
    return {"tokens": len(tokens.ids)}


def do_experts(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Train two experts into a library, or go on with that."""
    config = ExpertsConfig.model_validate({**order["config"], "mixture": {}})
    two = ["double", "notes"]
    train_experts(config, order["output"], only=two, resume=order["resume"], base=base, console=console)
    return {"wrong": ExpertLibrary(order["output"]).verify()}


def do_look(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Load a finished run; what it computes for one prompt and each task."""
    run = load_run(order["output"], base=base)
    tokens = torch.arange(3, 23)[None]
    with torch.no_grad():
        logits = [run.model(input_ids=tokens, tasks=task.name).logits.double().sum().item() for task in run.tasks]
    run.release()
    return {"logits": logits, "config": {**run.config.as_dict(), "output": None}}


def do_analyze(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Analyse a finished run."""
    report = Path(order["output"]).with_name("report")
    shutil.rmtree(report, ignore_errors=True)
    save(analyze([Path(order["output"])]), report)
    return {}


def do_resize(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Give the small disk another size, once it is empty where that is ordered."""
    disk = Path(order["output"])
    for path in disk.iterdir() if order["empty"] else ():
        shutil.rmtree(path)
    subprocess.run(["mount", "-o", f"remount,size={order['size']}", str(disk)], check=True)
    return {}


def do_copy(order: Order, base: Any, console: Console) -> dict[str, Any]:
    """Copy a folder to where others see it."""
    shutil.copytree(order["output"], order["to"])
    return {}


COMMANDS: dict[str, Callable[[Order, Any, Console], dict[str, Any]]] = {
    "train": do_train,
    "compare": do_compare,
    "export": do_export,
    "predict": do_predict,
    "encode": do_encode,
    "experts": do_experts,
    "look": do_look,
    "analyze": do_analyze,
    "resize": do_resize,
    "copy": do_copy,
}


if __name__ == "__main__":
    main()

"""Clients that ask all kinds of things for minutes, every answer checked: `cd benchmarks && python -m serving.soak`.

Greedy answers, whole and streamed, and seeded samples must be those that the server gave before, one at a time. Some
clients hang up, some ask for what cannot be had. Memory and descriptors are watched all the while.
"""

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from loraweave.runs.folder import environment

from .clients import Running, served
from .subjects import PROMPTS, made, names

RESULTS = Path(__file__).resolve().parents[1] / "results" / "serving" / "soak.json"
BAD: list[tuple[dict[str, Any], int]] = [
    ({"model": "nobody", "prompt": "x"}, 404),
    ({"model": "base", "prompt": "x" * 20_000}, 400),
    ({"model": "base", "prompt": "x", "n": 3}, 400),
    ({"model": "base", "prompt": [10**9]}, 400),
]


def soak(folder: Path, method: str, seconds: float, clients: int, tokens: int = 24) -> dict[str, Any]:
    """What came of it: counts of what was asked, wrong answers, errors, and how memory and descriptors went."""
    counts: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    lock = threading.Lock()
    with served(folder, "--batch", str(clients), "--timeout", "300") as server:
        known = _known(server, [*names(method, folder), "base"], tokens)
        watch: list[tuple[float, int, int]] = []
        began = time.monotonic()

        def client(number: int) -> None:
            drawn = random.Random(number)
            while time.monotonic() < began + seconds:
                kind, problem = _one(server, drawn, known, tokens)
                with lock:
                    counts[kind] += 1
                    if problem:
                        wrong.append({"kind": kind, **problem})

        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            watch.append((time.monotonic() - began, server.memory, server.process.num_fds()))
            time.sleep(1)
        time.sleep(1)
        idle = server.process.num_fds()
    first = [entry for entry in watch if seconds / 5 <= entry[0] < 2 * seconds / 5] or watch[:1]
    last = [entry for entry in watch if entry[0] >= 4 * seconds / 5] or watch[-1:]
    return {
        "seconds": seconds,
        "clients": clients,
        "asked": dict(sorted(counts.items())),
        "wrong": wrong,
        "memory": [int(statistics.median(one[1] for one in part)) for part in (first, last)],
        "descriptors": [int(statistics.median(one[2] for one in part)) for part in (first, last)],
        "descriptors_idle": idle,
    }


def _known(server: Running, models: list[str], tokens: int) -> list[tuple[dict[str, Any], str]]:
    """Requests and their answers, asked one at a time."""
    found = []
    for number, prompt in enumerate(PROMPTS):
        for model in models:
            for more in ({}, {"temperature": 1.0, "top_p": 0.9, "seed": number}):
                body = {"model": model, "prompt": prompt, "max_tokens": tokens, **more}
                found.append((body, server.ask(body).text))
    return found


def _one(
    server: Running, drawn: random.Random, known: list[tuple[dict[str, Any], str]], tokens: int
) -> tuple[str, dict[str, Any] | None]:
    """One request of some kind: the kind, and what was wrong, if anything was."""
    chance = drawn.random()
    try:
        if chance < 0.05:
            body, status = drawn.choice(BAD)
            answer = server.ask(body)
            return "refused", None if answer.status == status else {"status": answer.status, "wanted": status}
        body, text = drawn.choice(known)
        if chance < 0.12:
            server.ask({**body, "stream": True, "max_tokens": 8 * tokens}, hang_up_after=drawn.randrange(1, 6))
            return "hung up", None
        stream = chance < 0.5
        answer = server.ask({**body, "stream": stream})
        kind = ("sampled" if "seed" in body else "greedy") + (", streamed" if stream else "")
        right = answer.status == 200 and answer.text == text
        return kind, None if right else {"body": body, "status": answer.status, "said": answer.text, "wanted": text}
    except Exception as error:
        return "failed", {"error": repr(error)}


def main() -> None:
    """Soak a server and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--method", default="mtllora")
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(made(Path(folder))[asked.method], asked.method, asked.seconds, asked.clients)
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    written = {"environment": environment(0), "method": asked.method, **found}
    asked.output.write_text(json.dumps(written, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "wrong"}, indent=1))
    print(f"{len(found['wrong'])} wrong answers or errors")


if __name__ == "__main__":
    main()

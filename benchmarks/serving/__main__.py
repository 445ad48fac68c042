"""Throughput, time to first token and memory, written to `benchmarks/results/serving/cpu.json`: `make bench-serve`.

For each adapter, in turn on the same server: 32 clients over all its tasks; 32 clients that ask for the base; and the
same requests as of the first, one after the other.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loraweave.runs.folder import environment

from .clients import Running, Said, served
from .subjects import PROMPTS, made, names

RESULTS = Path(__file__).resolve().parents[1] / "results" / "serving"
GOALS = {"against_base": 0.90, "against_one_by_one": 4.0}
"""Tokens a second, over those of the base on the same server, and of one request after the other."""


def requests(models: Sequence[str], count: int, tokens: int, seed: int) -> list[dict[str, Any]]:
    """Greedy requests over some models; the same prompts whichever they are."""
    drawn = random.Random(seed)
    prompts = [drawn.choice(PROMPTS) for _ in range(count)]
    how = {"max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
    return [{"model": models[i % len(models)], "prompt": prompt, **how} for i, prompt in enumerate(prompts)]


def load(server: Running, bodies: Sequence[dict[str, Any]], clients: int) -> dict[str, Any]:
    """What comes of requests that so many clients ask: tokens a second, and the seconds to first tokens."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers: list[Said] = list(pool.map(server.ask, bodies))
    seconds = time.perf_counter() - began
    wrong = [answer for answer in answers if answer.status != 200]
    if wrong:
        raise RuntimeError(f"{len(wrong)} requests failed: {wrong[0]}")
    first = sorted(answer.first for answer in answers if answer.first is not None)
    return {
        "tokens_a_second": round(sum(answer.tokens for answer in answers) / seconds, 2),
        "first_token_median": round(statistics.median(first), 4),
        "first_token_95": round(first[int(0.95 * (len(first) - 1))], 4),
    }


def measure(method: str, folder: Path, clients: int, count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """One adapter's rounds, and the medians over them."""
    models = names(method, folder)
    found: dict[str, list[dict[str, Any]]] = {"mixed": [], "base": [], "one_by_one": []}
    with served(folder, "--batch", str(clients), "--timeout", "600") as server:
        load(server, requests([*models, "base"], clients, 8, 0), clients)  # warm
        for turn in range(rounds):
            asked = {
                "mixed": (requests(models, count, tokens, turn), clients),
                "base": (requests(["base"], count, tokens, turn), clients),
                "one_by_one": (requests(models, max(1, count // 8), tokens, turn), 1),
            }
            order = list(asked)[turn % 3 :] + list(asked)[: turn % 3]
            for name in order:
                found[name].append(load(server, *asked[name]))
        memory = server.memory
    return {
        "rounds": found,
        "tokens_a_second": statistics.median(each["tokens_a_second"] for each in found["mixed"]),
        "first_token_median": statistics.median(each["first_token_median"] for each in found["mixed"]),
        "first_token_95": statistics.median(each["first_token_95"] for each in found["mixed"]),
        "against_base": _ratio(found["mixed"], found["base"]),
        "against_one_by_one": _ratio(found["mixed"], found["one_by_one"]),
        "memory": memory,
    }


def _ratio(above: Sequence[dict[str, Any]], below: Sequence[dict[str, Any]]) -> float:
    each = [a["tokens_a_second"] / b["tokens_a_second"] for a, b in zip(above, below, strict=True)]
    return round(statistics.median(each), 3)


def table(results: dict[str, Any]) -> str:
    """The measurements in Markdown."""
    lines = [
        "| adapter | tokens a second | against the base | against one by one | first token, median and 95 % | memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in results["adapters"].items():
        lines.append(
            f"| `{name}` | {row['tokens_a_second']:,.0f} | {row['against_base']:.2f} | "
            f"{row['against_one_by_one']:.1f}× | {1000 * row['first_token_median']:.0f} ms, "
            f"{1000 * row['first_token_95']:.0f} ms | {row['memory'] / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every adapter, print the table, and say which goals are missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="nano", help="of all adapters")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128, help="of each round")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json")
    asked = parser.parse_args()
    how = {"clients": asked.clients, "count": asked.requests, "tokens": asked.tokens, "rounds": asked.rounds}
    results: dict[str, Any] = {"environment": environment(0), "base": asked.base, **how, "adapters": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in made(Path(folder), asked.base).items():
            results["adapters"][name] = measure(name, path, **how)
            asked.output.parent.mkdir(parents=True, exist_ok=True)
            asked.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    for name, row in results["adapters"].items():
        for goal, least in GOALS.items():
            if row[goal] < least:
                print(f"{name}: {goal} is {row[goal]}, the goal is {least}")


if __name__ == "__main__":
    main()

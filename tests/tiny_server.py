"""Small servers for tests: in this process, in a thread of their own, or as a process as people start it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny_project import byte_tokenizer, write_project
from tiny_runs import random_run
from transformers import LlamaConfig, LlamaForCausalLM

from loraweave.serving.limits import Limits
from loraweave.serving.server import Server, Serving

TASKS = ["parity", "double", "notes"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'][0] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|a>{% endif %}"
)
"""A chat template of few bytes; a turn ends with the end token."""
CONTEXT = 256


def write_served_project(folder: Path) -> Path:
    """The small project, and beside it chat/, a base of the same kind that reads longer texts and knows turns."""
    write_project(folder)
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = CONTEXT
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,  # far from uniform, so that greedy answers do not hang on the last bit
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "chat")
    tokenizer.save_pretrained(folder / "chat")
    return folder


def run_of(project: Path, method: str, folder: Path, **knobs: Any) -> Path:
    """A run of a method on the chat base, with a random adapter that says something else for each task."""
    return random_run(project, {"name": method, "r": 4, **knobs}, folder, base=project / "chat", size=0.4)


@contextmanager
def serving(folder: Path, limits: Limits | None = None, **how: Any) -> Iterator[Server]:
    """A server in this process."""
    server = Server(Serving(folder, port=0, limits=limits or Limits(batch=8, seconds=60), **how))
    thread = threading.Thread(target=server.listen, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"


class Process:
    """`loraweave serve` as a process.

    Attributes:
        address: as it says.
        printed: what it wrote on stdout.
    """

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None, log: Path) -> None:
        code = "from loraweave.cli import main; main()"
        path = str(Path(__file__).resolve().parents[1] / "src")
        known = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.log = log
        with log.open("w") as errors:
            self.started = subprocess.Popen(
                [sys.executable, "-c", code, "serve", *arguments, "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=known,
            )
        self.printed = ""
        assert self.started.stdout is not None
        for line in self.started.stdout:
            self.printed += line
            if found := re.search(r"serving\s+(http://\S+)/v1", line):
                self.address = found[1]
                break
        else:
            raise AssertionError(f"it ended with {self.started.wait()}: {log.read_text()}")
        assert ask(self.address, "/ready")[0] == 200, "when it says that it serves, it does"

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, but for what is no JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Ask it to end; returns its exit code."""
        if self.started.poll() is None:
            self.started.send_signal(number)
        return self.started.wait(seconds)


@contextmanager
def process(*arguments: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[Process]:
    """A server as a process, for the block."""
    running = Process(*arguments, log=log, environment=environment)
    try:
        yield running
    finally:
        if running.started.poll() is None:
            running.started.kill()
        running.started.wait()


def ask(
    address: str, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
) -> tuple[int, Any]:
    """Status and body of a request; a body that is no text or bytes goes as JSON, and JSON comes back read."""
    status, _, content = whole_answer(address, path, body, headers, method)
    try:
        return status, json.loads(content)
    except ValueError:
        return status, content.decode()


def whole_answer(
    address: str, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    known = dict(headers or {})
    if body is not None and not isinstance(body, (str, bytes)):
        body, known = json.dumps(body), {"content-type": "application/json", **known}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, known)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    except ConnectionRefusedError:
        return 0, {}, b""
    finally:
        connection.close()


def until(wanted: Any, seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)


def library_of(project: Path, folder: Path, names: dict[str, dict[str, Any]]) -> Any:
    """A library of random LoRAs of the chat base; by name, what is said of each, and of PEFT's settings."""
    from loraweave.experts.library import ExpertLibrary

    library = ExpertLibrary.create(folder, str(project / "chat"))
    for seed, (name, said) in enumerate(names.items()):
        add_expert(project, library, name, seed, **said)
    return library


def add_expert(
    project: Path, library: Any, name: str, seed: int, r: int = 2, replace: bool = False, **said: Any
) -> None:
    """A random LoRA of the chat base into a library."""
    torch.manual_seed(seed)
    base = LlamaForCausalLM.from_pretrained(project / "chat")
    settings = {"target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    model = get_peft_model(base, LoraConfig(r=r, lora_alpha=8 * r, **settings))
    folder = project / "loras" / f"{name}-{seed}"
    model.save_pretrained(str(folder))
    library.add(folder, name, replace=replace, base=str(project / "chat"), **said)

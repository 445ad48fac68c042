"""The server as those who run it see it: keys, health, counters, logs, and how it begins and ends."""

import json
import signal
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest
from tiny_server import ask, process, run_of, serving, until, whole_answer
from typer.testing import CliRunner

from loraweave import UserError
from loraweave.cli.app import app
from loraweave.files import write_json
from loraweave.serving.keys import VARIABLE, Keys, read_keys
from loraweave.serving.limits import Limits
from loraweave.serving.server import Server, Serving

ASKED = {"model": "mixed:parity", "prompt": "secret words", "max_tokens": 8}
KEY = "a-key-of-some-length"


def test_a_key_opens_and_another_does_not(run):
    with serving(run, keys=Keys([KEY, "another-key"])) as server:
        for path, body in (("/v1/models", None), ("/v1/completions", ASKED), ("/metrics", None), ("/nowhere", None)):
            for given in (None, f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer ", "Bearer \xff\xfe"):
                headers = {} if given is None else {"authorization": given}
                status, head, content = whole_answer(server.address, path, body, headers)
                assert status == 401
                assert head["www-authenticate"] == "Bearer"
                assert json.loads(content)["error"]["code"] == "invalid_api_key"
        for key in (KEY, "another-key"):
            assert ask(server.address, "/v1/completions", ASKED, {"authorization": f"Bearer {key}"})[0] == 200
            assert ask(server.address, "/v1/models", headers={"authorization": f"bearer {key}"})[0] == 200
        for path in ("/health", "/ready"):
            assert ask(server.address, path)[0] == 200


def test_keys_come_from_a_file_and_the_environment_and_are_not_kept(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\nsecond-key-here\n")
    monkeypatch.setenv(VARIABLE, "from-environment,also-from-there")
    keys = read_keys(file)
    for key in (KEY, "second-key-here", "from-environment", "also-from-there"):
        assert keys.allow(f"Bearer {key}".encode())
    assert not keys.allow(b"Bearer # ours")
    assert KEY not in repr(vars(keys))
    monkeypatch.setenv(VARIABLE, " ")
    with pytest.raises(UserError, match="is set and holds no key"):
        read_keys(None)
    monkeypatch.delenv(VARIABLE)
    assert not read_keys(None)
    file.write_text(f"\ufeff{KEY}\n", encoding="utf-8")
    assert read_keys(file).allow(f"Bearer {KEY}".encode()), "as some editors write it"


@pytest.mark.parametrize("content", ["", "# none\n", "short\n", "with a space in it\n", "schlüsselwort\n"])
def test_keys_that_are_none_are_refused(content, tmp_path):
    (tmp_path / "keys").write_text(content)
    with pytest.raises(UserError) as caught:
        read_keys(tmp_path / "keys")
    assert content.strip() not in str(caught.value) or not content.strip(), "a key is not shown"
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_what_is_done_is_counted_by_model(run):
    with serving(run) as server:
        for model in ("mixed:parity", "mixed:parity", "base"):
            assert ask(server.address, "/v1/completions", {**ASKED, "model": model})[0] == 200
        ask(server.address, "/v1/completions", {**ASKED, "model": "unknown"})
        status, headers, text = whole_answer(server.address, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert float(values['loraweave_requests_total{model="mixed:parity",status="200"}']) == 2
    assert float(values['loraweave_requests_total{model="",status="404"}']) == 1, (
        "no counter for each name that is tried"
    )
    assert float(values['loraweave_completion_tokens_total{model="base"}']) == 8
    assert float(values['loraweave_prompt_tokens_total{model="mixed:parity"}']) == 2 * len("secret words")
    for name in ("queue", "first_token", "request"):
        assert float(values[f'loraweave_{name}_seconds_count{{model="mixed:parity"}}']) == 2
    assert float(values["loraweave_requests_running"]) == float(values["loraweave_requests_waiting"]) == 0


def test_the_log_has_no_words_and_no_keys(run, capfd):
    with serving(run, keys=Keys([KEY])) as server:
        ask(server.address, "/v1/completions", ASKED, {"authorization": f"Bearer {KEY}"})
        ask(server.address, "/v1/completions", "{", {"authorization": "Bearer wrong-key"})
    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("model") == "mixed:parity"]
    assert line["status"] == 200
    assert line["completion_tokens"] == 8
    assert 0 <= line["queued"] <= line["first"] <= line["seconds"]
    assert any(line.get("status") == 401 for line in lines)
    for word in ("secret words", KEY, "wrong-key"):
        assert word not in text


def test_words_are_logged_where_that_is_wanted(run, capfd):
    with serving(run, log_words=True) as server:
        answer = ask(server.address, "/v1/completions", ASKED)[1]["choices"][0]["text"]
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("model") == "mixed:parity"]
    assert (line["prompt"], line["answer"]) == ("secret words", answer)


def test_asked_to_end_it_finishes_what_runs(run, tmp_path):
    with process(str(run), log=tmp_path / "log") as running:
        body = {**ASKED, "max_tokens": 200}
        alone = ask(running.address, "/v1/completions", body)[1]["choices"][0]
        connection = HTTPConnection(running.address.removeprefix("http://"), timeout=60)
        connection.request(
            "POST", "/v1/completions", json.dumps({**body, "stream": True}), {"content-type": "application/json"}
        )
        response = connection.getresponse()
        first = response.readline()
        waiting: list = []
        thread = threading.Thread(target=lambda: waiting.append(ask(running.address, "/v1/completions", body)))
        thread.start()
        until(lambda: "loraweave_requests_running 2.0" in ask(running.address, "/metrics")[1])
        running.started.send_signal(signal.SIGTERM)
        rest = response.read()
        thread.join(30)
        assert running.started.wait(30) == 0
        events = [json.loads(line[6:]) for line in (first + rest).decode().splitlines() if line.startswith("data: {")]
        assert "".join(event["choices"][0]["text"] for event in events) == alone["text"]
        assert rest.endswith(b"data: [DONE]\n\n")
        assert waiting[0][1]["choices"][0] == alone
        assert ask(running.address, "/health")[0] == 0
    assert not any(line["level"] in ("warning", "error") for line in running.lines())


@pytest.mark.parametrize(("number", "whole"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_asked_twice_it_ends_no_sooner_but_by_hand_at_once(number, whole, run):
    body = json.dumps({**ASKED, "max_tokens": 120, "stream": True})
    with serving(run) as server:
        step = server.engine._batches._generation_step
        server.engine._batches._generation_step = lambda: (time.sleep(0.005), step())
        connection = HTTPConnection(server.address.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        said = response.readline()
        server.handle_exit(number, None)
        time.sleep(0.2)
        server.handle_exit(number, None)
        with suppress(OSError, IncompleteRead):
            said += response.read()
        assert said.endswith(b"data: [DONE]\n\n") == whole
    assert not server.engine.alive


def test_what_runs_too_long_is_not_waited_for(run):
    with serving(run, Limits(batch=2, seconds=0.5)) as server:
        body = {**ASKED, "max_tokens": 230}
        threading.Thread(target=ask, args=(server.address, "/v1/completions", body)).start()
        until(lambda: server.engine.running)
        began = time.monotonic()
    assert time.monotonic() - began < 15


def test_a_batch_that_cannot_go_on_is_seen_in_health(run):
    with serving(run) as server:
        engine = server.engine
        assert ask(server.address, "/ready")[1] == ask(server.address, "/health")[1] == {"status": "ok"}

        def fails(*_):
            raise RuntimeError("no more")

        engine._batches.batch_processor.prepare_next_batch = fails
        until(lambda: not engine.alive)
        assert [ask(server.address, path)[0] for path in ("/health", "/ready")] == [503, 503]
        status, content = ask(server.address, "/v1/completions", ASKED)
        assert (status, content["error"]["type"]) == (503, "server_error")


def failed(*arguments):
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert isinstance(result.exception, UserError), result.exception
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_what_cannot_be_served_is_one_line(run, tmp_path):
    assert "holds no run, no adapter and no model" in failed(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "choose others with --host and --port" in failed(run, "--port", taken.getsockname()[1])
    assert "choose others with --host" in failed(run, "--host", "no.such.host.invalid")
    assert "is more than the base was made for" in failed(run, "--context", 10_000, "--port", 0)
    assert "choose another with --name" in failed(run, "--name", "base", "--port", 0)
    assert "has a colon or a space" in failed(run, "--name", "a:b", "--port", 0)
    assert "the keys cannot be read" in failed(run, "--api-keys", tmp_path / "none")
    assert "a smaller --context, or more --cache-gb" in failed(run, "--cache-gb", 0.0001, "--port", 0)
    for option, given in (("--timeout", "inf"), ("--cache-gb", "inf"), ("--threshold", "nan")):
        assert failed(run, option, given) == f"{option} {given}: a finite number is wanted"
    for option, given in (("--threshold", 0.5), ("--embedding", "all-minilm")):
        assert f"{option} is of a library of experts, and this is none" in failed(run, option, given, "--port", 0)


def test_an_open_door_is_told(run):
    open_door = Server(Serving(run, host="0.0.0.0", port=0))
    assert any("everybody who reaches 0.0.0.0 may ask" in note for note in open_door.notes)
    closed = Server(Serving(run, host="0.0.0.0", port=0, keys=Keys([KEY])))
    assert not any("everybody" in note for note in closed.notes)


def test_what_was_trained_on_plain_prompts_is_named(project, tmp_path):
    trained = run_of(project, "mtllora", tmp_path / "some")
    write_json(trained / "splits.json", {"notes": {"chat_template": True}})
    server = Server(Serving(trained, port=0))
    said = "trained on plain prompts: some:parity, some:double: ask them by /v1/completions; "
    assert any(note.startswith(said) for note in server.notes)
    kinds = {model["id"]: model.get("prompts") for model in server.catalog.get_gen_models()}
    assert kinds == {"some:parity": "text", "some:double": "text", "some:notes": None, "base": None}
    write_json(trained / "splits.json", {name: {"chat_template": True} for name in ("parity", "double", "notes")})
    assert not any("plain prompts" in note for note in Server(Serving(trained, port=0)).notes)


@pytest.mark.parametrize(
    ("method", "knobs", "names"),
    [
        ("rlora", {}, ["run", "run:parity", "run:double", "run:notes", "base"]),
        ("lora", {}, ["run", "base"]),
        ("own", {}, ["run:parity", "run:double", "run:notes", "base"]),
        ("dora", {}, ["run"]),
    ],
)
def test_every_kind_of_adapter_has_its_names(method, knobs, names, project, tmp_path):
    server = Server(Serving(run_of(project, method, tmp_path / "run", **knobs), port=0))
    assert [name for name in server.names if not (method in ("lora", "dora") and ":" in name)] == names
    if method == "dora":
        assert any("the base is not served beside this adapter" in note for note in server.notes)


def test_a_model_without_an_adapter_is_served_under_its_name(project, run):
    with serving(project / "chat") as alone, serving(run) as beside:
        assert alone.names == ["chat"], "it is not called a base: it may have been trained itself"
        answers = [
            ask(server.address, "/v1/completions", {**ASKED, "model": name})[1]["choices"]
            for server, name in ((alone, "chat"), (beside, "base"))
        ]
    assert answers[0] == answers[1]


def test_an_exported_lora_is_served(run, tmp_path):
    made = CliRunner().invoke(
        app, ["export", str(run), "--to", "lora", "--task", "parity", "--output", str(tmp_path / "out")]
    )
    assert made.exit_code == 0, made.output
    folder = next(path.parent for path in Path(tmp_path / "out").rglob("adapter_config.json"))
    with serving(folder, name="exported") as exported, serving(run) as whole:
        answers = [
            ask(server.address, "/v1/completions", {**ASKED, "model": name})[1]["choices"]
            for server, name in ((exported, "exported"), (whole, "mixed:parity"), (exported, "base"))
        ]
    assert answers[0] == answers[1] != answers[2]

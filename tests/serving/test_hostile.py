"""Requests that are malformed, huge, slow or cut off: each gets its answer or its end, and harms nobody else."""

import json
import shutil
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
from tiny_server import ask, serving, until, whole_answer
from transformers import AutoTokenizer

from loraweave.serving.limits import Limits

ASKED = {"model": "mixed:parity", "prompt": "3 is", "max_tokens": 8}
LONG = {"model": "mixed:parity", "prompt": "3 is", "max_tokens": 240}


def raw(address, *parts, pause=0.0, half_close=False):
    """All that comes back for bytes that are sent in parts, until the server closes."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:  # it has closed already
            pass
        back = b""
        while True:
            try:
                more = connection.recv(65536)
            except OSError:
                return back
            if not more:
                return back
            back += more


def head(length, kind="application/json", path="/v1/completions"):
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n"
        "connection: close\r\n\r\n"
    ).encode()


def idle(address):
    """Whether nothing is in the batch or waits for it."""
    text = ask(address, "/metrics")[1]
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return all(float(values[f"loraweave_requests_{name}"]) == 0 for name in ("running", "waiting"))


@pytest.fixture(autouse=True)
def _still_answers(server):
    """Before and after whatever a test does, the same question gets the same answer, and no place is taken."""
    before = ask(server.address, "/v1/completions", ASKED)[1]["choices"]
    yield
    assert ask(server.address, "/v1/completions", ASKED)[1]["choices"] == before
    until(lambda: idle(server.address))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'"text"', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"model": "mixed:parity", "prompt": "\\ud800"}', "application/json"),
        (b'{"model": "\\udfff", "prompt": "x"}', "application/json"),
        (b'{"model": "mixed:parity", "prompt": "x", "temperature": NaN}', "application/json"),
        (b'{"model": "mixed:parity", "prompt": "x", "max_tokens": 1e999}', "application/json"),
        (b'{"model": "mixed:parity", "prompt": "x", "max_tokens": ' + b"9" * 6000 + b"}", "application/json"),
        (b'{"model": "mixed:parity", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "application/json"),
        (b'{"model": "mixed:parity", "prompt": "x", "temperature": true}', "application/json"),
        (b'{"model": "mixed:parity", "prompt": [true, false]}', "application/json"),
        (b'{"model": null, "prompt": "x"}', "application/json"),
        (b'{"prompt": "x"}', "application/json"),
        (b'{"model": {"a": 1}, "prompt": "x"}', "application/json"),
        (json.dumps(ASKED).encode(), "text/plain"),
        (json.dumps(ASKED).encode(), "application/x-www-form-urlencoded"),
    ],
)
def test_a_malformed_body_is_told_in_openais_shape(server, body, kind):
    for path in ("/v1/completions", "/v1/chat/completions"):
        status, headers, back = whole_answer(server.address, path, body, {"content-type": kind})
        error = json.loads(back)["error"]
        assert status == 400
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert "\n" not in error["message"]
        assert headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nowhere", "GET", 404),
        ("/v1/completions", "GET", 405),
        ("/v1/models", "POST", 405),
        ("/reset", "POST", 404),
        ("/load_model", "POST", 404),
        ("/v1/responses", "POST", 404),
        ("/v1/audio/transcriptions", "POST", 404),
        ("/docs", "GET", 404),
        ("/openapi.json", "GET", 404),
    ],
)
def test_there_is_nothing_else(server, path, method, status):
    found, content = ask(server.address, path, {} if method == "POST" else None, method=method)
    assert (found, set(content)) == (status, {"error"})


def test_a_request_that_is_no_http_is_refused(server):
    assert raw(server.address, b"\x16\x03\x01\x02\x00nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server.address, b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 200_000).startswith(b"HTTP/1.1 400")


def test_a_huge_body_is_refused_before_it_is_there(server):
    assert b" 413 " in raw(server.address, head(10**12), b"{").split(b"\r\n")[0]
    chunked = head(0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert b" 413 " in raw(server.address, chunked, *[chunk] * 40).split(b"\r\n")[0]


def test_the_largest_body_that_may_be_is_read_while_others_are_answered(server):
    body = {"model": "mixed:parity", "prompt": "x" * 900_000}
    with ThreadPoolExecutor(9) as pool:
        huge = [pool.submit(ask, server.address, "/v1/completions", body) for _ in range(2)]
        small = [pool.submit(ask, server.address, "/v1/completions", ASKED) for _ in range(5)]
        for asked in huge:
            status, content = asked.result()
            assert (status, content["error"]["code"]) == (400, "context_length_exceeded")
        assert [asked.result()[0] for asked in small] == [200] * 5


def test_a_half_closed_request_leaves_no_place_taken(server):
    content = json.dumps({**LONG, "stream": True}).encode()
    raw(server.address, head(len(content)), content, half_close=True)
    raw(server.address, head(1000), b'{"model"', half_close=True)
    until(lambda: idle(server.address))


def test_a_client_that_goes_away_ends_its_generation(server):
    content = json.dumps({**LONG, "stream": True}).encode()
    host, _, port = server.address.removeprefix("http://").partition(":")
    for number in range(6):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(head(len(content)) + content)
        if number % 3 == 0:
            connection.recv(100)  # the stream has begun
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no end
        connection.close()
    until(lambda: idle(server.address))
    until(lambda: sum(line.get("status") == 499 for line in server.lines()) >= 6)
    written = [line["completion_tokens"] for line in server.lines() if line.get("status") == 499]
    assert min(written) < LONG["max_tokens"], "an answer that nobody hears is not written to its end"


def test_a_whole_answer_that_nobody_waits_for_is_not_written(server):
    content = json.dumps(LONG).encode()
    host, _, port = server.address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(head(len(content)) + content)
    until(lambda: not idle(server.address))
    connection.close()
    until(lambda: idle(server.address), 10)


def test_two_requests_with_the_same_id_are_two(server):
    headers = {"x-request-id": "same"}
    with ThreadPoolExecutor(2) as pool:
        asked = [{**ASKED, "model": f"mixed:{task}", "max_tokens": 40} for task in ("parity", "double")]
        both = list(pool.map(lambda body: whole_answer(server.address, "/v1/completions", body, headers), asked))
    alone = [ask(server.address, "/v1/completions", body)[1]["choices"] for body in asked]
    assert [json.loads(content)["choices"] for _, _, content in both] == alone
    assert {head["x-request-id"] for _, head, _ in both} == {"same"}
    odd = whole_answer(server.address, "/v1/completions", ASKED, {"x-request-id": "a b" * 100})[1]
    assert " " not in odd["x-request-id"]


def test_a_page_from_elsewhere_cannot_ask(server):
    status, content = ask(server.address, "/v1/completions", ASKED, {"host": "evil.example:80"})
    assert (status, content["error"]["message"][:21]) == (421, "this server answers t")
    assert ask(server.address, "/v1/models", headers={"host": "localhost:1"})[0] == 200


def test_a_client_without_a_host_is_no_page_from_elsewhere(server):
    assert b" 200 " in raw(server.address, b"GET /health HTTP/1.0\r\n\r\n").split(b"\r\n")[0]


def test_a_fault_of_the_server_is_told_in_openais_shape_and_logged(run, monkeypatch, capfd):
    with serving(run) as server:
        monkeypatch.setattr(server.engine, "answering", lambda asked: {}["lost"])
        status, _, content = whole_answer(server.address, "/v1/completions", ASKED)
    error = json.loads(content)["error"]
    assert (status, error["type"], error["code"]) == (500, "server_error", "internal_error")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [line["event"] for line in lines if line["level"] == "error"] == ["a request failed"]


def test_a_special_token_that_the_base_does_not_know_is_refused(project, tmp_path):
    base = tmp_path / "seeing"
    shutil.copytree(project / "chat", base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(base)
    with serving(base) as server:
        asked = {**ASKED, "model": "seeing"}
        status, content = ask(server.address, "/v1/completions", {**asked, "prompt": "what is <image>"})
        assert (status, content["error"]["param"]) == (400, "prompt")
        assert "'<image>', a special token" in content["error"]["message"]
        assert ask(server.address, "/v1/completions", asked)[0] == 200


def test_slow_requests_and_idle_ones_end(run):
    limits = Limits(batch=2, seconds=30, head_seconds=0.6, connections=12)
    with serving(run, limits) as server:
        began = time.monotonic()
        assert b" 408 " in raw(server.address, head(1000), b'{"mo', pause=0.2).split(b"\r\n")[0]
        assert raw(server.address, b"") == b"", "no head at all"
        assert raw(server.address, *[bytes([c]) for c in b"POST /v1/models HTTP/1.1\r\n"], pause=0.1) == b"", (
            "a slow one"
        )
        again = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        assert raw(server.address, again, b"GET /he", pause=0.3).count(b"HTTP/1.1 200") == 1, "a second one, half sent"
        assert time.monotonic() - began < 20
        assert ask(server.address, "/health")[0] == 200


def test_more_connections_than_may_be_get_503(run):
    with serving(run, Limits(batch=2, head_seconds=20, connections=5)) as server:
        host, _, port = server.address.removeprefix("http://").partition(":")
        held = [socket.create_connection((host, int(port))) for _ in range(8)]
        until(lambda: ask(server.address, "/health")[0] == 503)
        _, headers, content = whole_answer(server.address, "/v1/completions", ASKED)
        assert json.loads(content)["error"]["code"] == "too_many_connections"
        assert (headers["retry-after"], headers["connection"]) == ("5", "close")
        for connection in held:
            connection.close()
        until(lambda: ask(server.address, "/health")[0] == 200)


def test_a_full_queue_gets_429_and_the_others_their_answers(run):
    with serving(run, Limits(batch=1, queue=2, seconds=60)) as server:
        body = {**ASKED, "max_tokens": 60}
        with ThreadPoolExecutor(8) as pool:
            back = list(pool.map(lambda _: whole_answer(server.address, "/v1/completions", body), range(8)))
        assert {status for status, _, _ in back} == {200, 429}
        for status, headers, content in back:
            if status == 429:
                assert headers["retry-after"] == "5"
                assert json.loads(content)["error"]["code"] == "rate_limit_exceeded"
        answers = [json.loads(content)["choices"][0]["text"] for status, _, content in back if status == 200]
        assert len(set(answers)) == 1
        counted = f'loraweave_prompt_tokens_total{{model="mixed:parity"}} {float(len(answers) * len(ASKED["prompt"]))}'
        until(lambda: counted in ask(server.address, "/metrics")[1].splitlines(), 10)  # of no other


def test_what_takes_too_long_gets_503_or_the_end_of_its_stream(run):
    with serving(run, Limits(batch=1, seconds=0.25)) as server:
        body = {**ASKED, "max_tokens": 240}
        status, content = ask(server.address, "/v1/completions", body)
        assert (status, content["error"]["code"]) == (503, "timeout")
        _, headers, stream = whole_answer(server.address, "/v1/completions", {**body, "stream": True})
        if headers["content-type"].startswith("text/event-stream"):  # it had begun in time
            *_, last, end = stream.decode().split("\n\n")
            assert end == ""
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        until(lambda: idle(server.address))


@contextmanager
def unread(server, content):
    """A connection that sends and never reads, from when the server has something that it does not take."""
    host, _, port = server.address.removeprefix("http://").partition(":")
    server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # else the system holds megabytes on their way
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        stuck.connect((host, int(port)))
        stuck.sendall(content)
        until(lambda: any(each.flow.write_paused for each in server.server_state.connections))
        yield


def test_a_reader_that_does_not_read_holds_nobody_up(run):
    with serving(run, Limits(batch=1, seconds=20)) as server:
        content = json.dumps({**LONG, "stream": True}).encode()
        with unread(server, head(len(content)) + content):
            assert ask(server.address, "/v1/completions", ASKED)[0] == 200


def test_who_never_reads_is_cut_off(run):
    with serving(run, Limits(batch=1, seconds=1, head_seconds=1)) as server:
        with unread(server, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100):  # a page each
            until(lambda: not server.server_state.connections, 20)
        assert ask(server.address, "/v1/completions", ASKED)[0] == 200


def test_nothing_is_left_open(server):
    process = psutil.Process(server.started.pid)
    ask(server.address, "/health")

    def some():
        content = json.dumps({**LONG, "stream": True}).encode()
        raw(server.address, head(len(content)), content[:20], half_close=True)
        raw(server.address, head(len(content)), content, half_close=True)
        ask(server.address, "/v1/completions", ASKED)

    before = process.num_fds(), process.num_threads()
    threads = [threading.Thread(target=some) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: process.num_fds() <= before[0] + 1 and process.num_threads() <= before[1] + 1)

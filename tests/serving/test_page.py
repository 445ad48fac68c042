"""The page at `/`, in a real browser: a task is picked, asked, and answered beside the base."""

import pytest
from browser import WITHOUT, executable, running
from tiny_server import ask, run_of, serving, until, whole_answer

from loraweave.files import write_json
from loraweave.serving.keys import Keys
from loraweave.serving.limits import Limits
from loraweave.serving.page import Page

IN_A_BROWSER = pytest.mark.skipif(executable() is None, reason=WITHOUT)
OUTPUTS = "[...document.querySelectorAll('article:not([hidden]) output')].map(one => one.textContent)"
HEADS = "[...document.querySelectorAll('article:not([hidden]) h2')].map(one => one.textContent)"
OPTIONS = "[...document.getElementById('model').options].map(one => one.value)"
DONE = "!document.getElementById('ask').disabled && document.querySelector('small').textContent.includes('tokens')"


def fill(page, **values):
    for name, value in values.items():
        page.evaluate(f"document.getElementById({name!r}).value = {value!r}")


def click(page, name):
    page.evaluate(f"document.getElementById({name!r}).click()")


def test_the_page_needs_nothing_else(run):
    with serving(run) as server:
        status, headers, content = whole_answer(server.address, "/")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/html")
    assert "default-src 'none'" in headers["content-security-policy"]
    text = content.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "src=" not in text


def test_names_are_escaped():
    assert "<b>" not in Page("<b>", True, 8).text.split("<style>")[1].split("<form")[1]
    assert "&lt;b&gt;" in Page("<b>", True, 8).text


@IN_A_BROWSER
@pytest.mark.parametrize(("width", "dark", "chat"), [(1200, False, False), (390, True, True)])
def test_a_task_is_tried_beside_the_base_as_it_was_trained(width, dark, chat, project, tmp_path):
    trained = run_of(project, "mtllora", tmp_path / "mixed")
    write_json(trained / "splits.json", {"double": {"chat_template": chat}})
    with serving(trained, Limits(batch=4, seconds=60, answer=12)) as server, running(tmp_path / "profile") as browser:
        page = browser.open(server.address + "/", width, dark)
        until(lambda: page.evaluate(f"{OPTIONS}.length") == 4)
        assert page.evaluate(OPTIONS) == ["mixed:parity", "mixed:double", "mixed:notes", "base"]
        fill(page, model="mixed:double", prompt="Double ax:")
        click(page, "ask")
        until(lambda: page.evaluate(DONE))
        assert page.evaluate(HEADS) == ["mixed:double", "base"]
        sent = {"messages": [{"role": "user", "content": "Double ax:"}]} if chat else {"prompt": "Double ax:"}
        where = "/v1/chat/completions" if chat else "/v1/completions"
        for name, said in zip(["mixed:double", "base"], page.evaluate(OUTPUTS), strict=True):
            choice = ask(server.address, where, {"model": name, "max_tokens": 12, **sent})[1]["choices"][0]
            assert said == (choice["message"]["content"] if chat else choice["text"])
        assert {request.split("?")[0].removeprefix(server.address) for request in page.requests} == {
            "/",
            "/v1/models",
            where,
        }
        fill(page, model="base")
        click(page, "ask")
        until(lambda: page.evaluate(DONE))
        assert page.evaluate(HEADS) == ["base"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(22, 24, 27)" if dark else "rgb(253, 252, 250)")
        assert page.errors == []


@IN_A_BROWSER
def test_what_goes_wrong_is_shown_and_a_key_is_asked_for(run, tmp_path):
    with serving(run, keys=Keys(["a-key-of-ours"])) as server, running(tmp_path / "profile") as browser:
        page = browser.open(server.address + "/", 900)
        until(lambda: page.evaluate(f"{OUTPUTS}[0]").startswith("an API key is wanted"))
        assert not page.evaluate("document.getElementById('key-field').hidden")
        fill(page, key="a-key-of-ours")
        page.evaluate("document.getElementById('key').dispatchEvent(new Event('change'))")
        until(lambda: page.evaluate(f"{OPTIONS}.length") == 4)
        fill(page, prompt="x" * 400)
        click(page, "ask")
        until(lambda: "tokens" in page.evaluate(f"{OUTPUTS}[0]"))
        assert page.evaluate("document.querySelector('output').className") == "failed"
        until(lambda: page.evaluate("!document.getElementById('ask').disabled"))
        fill(page, prompt="ok")
        click(page, "ask")
        until(lambda: page.evaluate(DONE))
        assert page.evaluate("document.querySelector('output').className") == ""


@IN_A_BROWSER
def test_an_answer_can_be_stopped(run, tmp_path):
    with serving(run, Limits(batch=4, seconds=60)) as server, running(tmp_path / "profile") as browser:
        page = browser.open(server.address + "/", 900)
        until(lambda: page.evaluate(f"{OPTIONS}.length") == 4)
        fill(page, prompt="go on", longest="230")
        click(page, "ask")
        until(lambda: server.engine.running)
        click(page, "stop")
        until(lambda: not server.engine.running)
        until(lambda: not page.evaluate("document.getElementById('ask').disabled"))


@IN_A_BROWSER
def test_without_a_template_a_text_goes_on(project, tmp_path):
    from tiny_runs import random_run

    run = random_run(project, {"name": "mtllora", "r": 4}, tmp_path / "plain", size=0.4)
    with serving(run, Limits(batch=4, seconds=60, answer=8)) as server, running(tmp_path / "profile") as browser:
        page = browser.open(server.address + "/", 900)
        until(lambda: page.evaluate(f"{OPTIONS}.length") == 4)
        fill(page, prompt="3 is")
        click(page, "ask")
        until(lambda: page.evaluate(DONE))
        asked = {"model": "plain:parity", "prompt": "3 is", "max_tokens": 8}
        said = ask(server.address, "/v1/completions", asked)[1]["choices"][0]["text"]
        assert page.evaluate(OUTPUTS)[0] == said


def test_it_is_served_for_every_kind_of_adapter(project, tmp_path):
    with serving(run_of(project, "dora", tmp_path / "alone")) as server:
        assert whole_answer(server.address, "/")[0] == 200

"""A library, served: experts share a batch, are routed to, and come, change and go while requests run."""

import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import PeftModel
from tiny_server import add_expert, ask, library_of, serving, until, whole_answer
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraweave import UserError
from loraweave.bases import fingerprint, load_base
from loraweave.experts.library import ExpertLibrary
from loraweave.experts.mixed import MixedBatches
from loraweave.serving.library import ExpertSpeakers
from loraweave.serving.limits import Limits
from loraweave.serving.server import Server, Serving
from loraweave.serving.voices import BASE, Voice

SAID = {
    "sums": {"r": 2, "description": "adding numbers", "instructions": ["what is 2 + 2"], "prefixes": ["Sum:"]},
    "colours": {"r": 5, "description": "naming colours", "prefixes": ["Colour of"]},
    "cities": {"r": 3, "description": "capitals of countries", "prefixes": ["Capital:"]},
}


@pytest.fixture
def library(project, tmp_path):
    shutil.rmtree(project / "loras", ignore_errors=True)
    return library_of(project, tmp_path / "lib", SAID)


def asked(name, prompt="3 is", **more):
    return {"model": name, "prompt": prompt, "max_tokens": 12, **more}


def said(server, name, prompt="3 is", **more):
    status, content = ask(server.address, "/v1/completions", asked(name, prompt, **more))
    return content["choices"][0]["text"] if status == 200 else (status, content["error"]["message"])


def alone(project, library, name, prompt="3 is"):
    """What PEFT says with the expert's files, by itself."""
    model = AutoModelForCausalLM.from_pretrained(project / "chat")
    tokenizer = AutoTokenizer.from_pretrained(project / "chat")
    if name != "base":
        model = PeftModel.from_pretrained(model, library.expert(name).folder)
    ids = torch.tensor([tokenizer.encode(prompt)])
    with torch.no_grad():
        out = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def names(server):
    return [model["id"] for model in ask(server.address, "/v1/models")[1]["data"]]


def test_experts_share_a_batch_and_say_what_peft_says(project, library):
    expected = {name: alone(project, library, name) for name in (*SAID, "base")}
    assert len(set(expected.values())) == 4
    with serving(library.folder) as server:
        assert names(server) == ["lib:sums", "lib:colours", "lib:cities", "lib:auto", "base"]
        models = [name if name == "base" else f"lib:{name}" for name in expected] * 6
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda name: said(server, name), models))
        assert answers == list(expected.values()) * 6


def test_auto_goes_by_rule_and_prefix_and_says_who_answered(project, library):
    with serving(library.folder) as server:
        for prompt, who in (
            ("Sum: 1 2", "lib:sums"),
            ("what  is 2 + 2", "lib:sums"),
            ("Capital: Peru", "lib:cities"),
        ):
            for stream in (False, True):
                body = asked("lib:auto", prompt, stream=stream)
                content = whole_answer(server.address, "/v1/completions", body)[2].decode()
                first = json.loads(content.split("\n\n")[0].removeprefix("data: ")) if stream else json.loads(content)
                assert first["model"] == who
            assert said(server, "lib:auto", prompt) == said(server, who, prompt)
        tokens = [1, *AutoTokenizer.from_pretrained(project / "chat").encode("Sum: 1 2")]  # behind the start of a text
        assert ask(server.address, "/v1/completions", asked("lib:auto", tokens))[1]["model"] == "lib:sums"
        chat = {"model": "lib:auto", "messages": [{"role": "user", "content": "Colour of the sky"}], "max_tokens": 4}
        assert ask(server.address, "/v1/chat/completions", chat)[1]["model"] == "lib:colours"
        chat["messages"] = [{"role": "system", "content": "Colour of the sky"}]
        status, content = ask(server.address, "/v1/chat/completions", chat)
        assert (status, "nothing to route by" in content["error"]["message"]) == (400, True)
        assert content["error"]["param"] == "messages"


def test_where_nothing_is_near_the_base_answers(project, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    library = library_of(project, tmp_path / "plain", {"one": {"prefixes": ["One:"]}})
    with serving(library.folder) as server:
        (note,) = (note for note in server.notes if "by rule and prefix alone" in note)
        assert "pip install 'loraweave[routing]'" in note
        status, content = ask(server.address, "/v1/completions", asked("plain:auto", "something else"))
        assert (status, content["model"]) == (200, "base")
        assert content["choices"][0]["text"] == said(server, "base", "something else")


def test_what_changes_in_the_library_is_there_at_once(project, library):
    with serving(library.folder) as server:
        before = said(server, "lib:sums")
        add_expert(project, library, "new", 11, prefixes=["New:"])
        assert said(server, "lib:new") == alone(project, library, "new")
        assert "lib:new" in names(server)
        assert ask(server.address, "/v1/completions", asked("lib:auto", "New: x"))[1]["model"] == "lib:new"
        add_expert(project, library, "sums", 12, replace=True)
        after = said(server, "lib:sums")
        assert after == alone(project, library, "sums") != before
        library.remove("sums")
        assert said(server, "lib:sums")[0] == 404
        assert "lib:sums" not in names(server)
        assert said(server, "lib:cities") == alone(project, library, "cities")


def test_a_request_keeps_the_expert_with_which_it_began(project, library):
    long = asked("lib:sums", max_tokens=220)
    with serving(library.folder) as server:
        expected = ask(server.address, "/v1/completions", long)[1]["choices"]
        found: list = []
        thread = threading.Thread(target=lambda: found.append(ask(server.address, "/v1/completions", long)))
        thread.start()
        until(lambda: server.engine.running)
        add_expert(project, library, "sums", 21, replace=True)
        assert said(server, "lib:sums") == alone(project, library, "sums")
        library.remove("colours")
        thread.join()
        assert found[0][1]["choices"] == expected


def test_a_broken_expert_harms_no_other(project, library):
    with serving(library.folder, Limits(batch=4, seconds=60)) as server:
        good = said(server, "lib:cities")
        weights = library.expert("colours").folder / "adapter_model.safetensors"
        said(server, "lib:sums")
        add_expert(project, library, "torn", 31)
        torn = library.expert("torn").folder / "adapter_model.safetensors"
        torn.write_bytes(torn.read_bytes()[:100])
        status, message = said(server, "lib:torn")
        assert (status, message) == (503, "the expert torn cannot be read; the server's log says why")
        assert str(library.folder) not in message
        assert said(server, "lib:cities") == good
        assert weights.is_file()
        manifest = library.folder / "library.json"
        kept = manifest.read_text()
        manifest.write_text("{")
        assert said(server, "lib:cities")[0] in (503, 404) or said(server, "lib:cities") == good
        manifest.write_text(kept)
        assert said(server, "lib:cities") == good


def test_who_is_read_slowly_or_found_slowly_holds_nobody_up(project, library, monkeypatch):
    with serving(library.folder) as server, ThreadPoolExecutor(12) as pool:
        expected = {name: said(server, name) for name in ("base", "lib:sums")}
        go_on, catalog = threading.Event(), server.catalog
        read, route = catalog._pairs, catalog._manager.route
        monkeypatch.setattr(catalog, "_pairs", lambda name: (go_on.wait(60), read(name))[1])
        monkeypatch.setattr(catalog._manager, "route", lambda said: (go_on.wait(60), route(said))[1])
        slow = [pool.submit(said, server, "lib:cities") for _ in range(6)]
        slow += [pool.submit(said, server, "lib:auto", "Sum: 1") for _ in range(4)]
        for name, text in expected.items():
            assert said(server, name) == text
        assert not any(one.done() for one in slow)
        go_on.set()
        assert {one.result() for one in slow[:6]} == {alone(project, library, "cities")}
        assert {one.result() for one in slow[6:]} == {said(server, "lib:sums", "Sum: 1")}


def test_a_prefix_of_two_experts_keeps_neither_from_answering(project, library, capfd):
    with serving(library.folder) as server:
        assert ask(server.address, "/v1/completions", asked("lib:auto", "Sum: 1"))[1]["model"] == "lib:sums"
        add_expert(project, library, "more", 51, prefixes=["Sum:"])
        assert said(server, "lib:more") == alone(project, library, "more")
        for _ in range(3):
            assert ask(server.address, "/v1/completions", asked("lib:auto", "Sum: 1"))[1]["model"] == "lib:sums"
        there = server.catalog._beside.names
        library.describe("more", prefixes=["More:"])
        assert ask(server.address, "/v1/completions", asked("lib:auto", "More: 1"))[1]["model"] == "lib:more"
        assert server.catalog._beside.names == there, "it is not read again for what is said of it"
    told = [line for line in capfd.readouterr().err.splitlines() if "is the prefix of two experts" in line]
    assert len(told) == 1, "it is told once"


def test_an_expert_that_is_gone_takes_no_batch_along(project, library):
    """Who gave up its request may be in one more batch, from which its expert has just been taken."""
    model, _ = load_base(project / "chat")
    speakers = ExpertSpeakers(MixedBatches(model))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), speakers.speaking([(Voice("sums@1"), 2), (BASE, 2)]):
        found = speakers.base(input_ids=ids).logits
    with torch.no_grad(), speakers.speaking([(BASE, 4)]):
        assert torch.equal(found, speakers.base(input_ids=ids).logits)


def test_no_more_experts_are_kept_than_may_be(project, library):
    with serving(library.folder, Limits(batch=4, seconds=60, experts=1)) as server:
        expected = {name: alone(project, library, name) for name in SAID}
        for _ in range(2):
            for name, text in expected.items():
                assert said(server, f"lib:{name}") == text
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda name: said(server, f"lib:{name}"), list(SAID) * 4))
        assert answers == list(expected.values()) * 4
        said(server, "lib:sums")
        until(lambda: len(server.catalog._beside.names) <= 2)  # the base, and one
        assert not server.catalog._users


def test_a_library_whose_base_is_another_is_refused(project, tmp_path):
    model, _ = load_base(project / "chat")
    library = ExpertLibrary.create(tmp_path / "lib", str(project / "chat"), fingerprint(model))
    with pytest.raises(UserError, match="fingerprint"):
        Server(Serving(library.folder, base=str(project / "base"), port=0))


def test_experts_that_learned_plain_prompts_are_named(project, library):
    add_expert(project, library, "notes", 42, plain=True)
    server = Server(Serving(library.folder, port=0))
    assert any(note.startswith("trained on plain prompts: lib:notes: ask them by") for note in server.notes)
    kinds = {model["id"]: model.get("prompts") for model in server.catalog.get_gen_models()}
    assert {name for name, kind in kinds.items() if kind == "text"} == {"lib:notes"}
    add_expert(project, library, "notes", 42, replace=True)
    assert not any("plain prompts" in note for note in Server(Serving(library.folder, port=0)).notes)


def test_a_library_without_experts_is_served_until_it_has_some(project, tmp_path):
    library = ExpertLibrary.create(tmp_path / "empty", str(project / "chat"))
    with serving(library.folder) as server:
        assert names(server) == ["empty:auto", "base"]
        add_expert(project, library, "first", 41)
        assert said(server, "empty:first") == alone(project, library, "first")

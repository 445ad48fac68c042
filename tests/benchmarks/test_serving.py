"""The server under clients that ask all kinds of things, every answer checked; and what `make bench-serve` measures."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from loraweave import UserError, load

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    from serving.subjects import made

    return made(tmp_path_factory.mktemp("subjects"))


def check(found, clients):
    assert found["wrong"] == []
    assert {"greedy", "greedy, streamed", "sampled", "sampled, streamed", "hung up", "refused"} <= set(found["asked"])
    before, after = found["memory"]
    assert after < 1.05 * before, "memory stays as it is"
    assert found["descriptors_idle"] < found["descriptors"][0] < found["descriptors_idle"] + 3 * clients
    assert abs(found["descriptors"][1] - found["descriptors"][0]) <= clients


@pytest.mark.long
def test_a_short_soak(adapters):
    from serving.soak import soak

    check(soak(adapters["mtllora"], "mtllora", seconds=12, clients=8, tokens=8), 8)


@pytest.mark.long
@pytest.mark.parametrize("method", ["rlora", "mtllora", "own", "lora"])
def test_a_long_soak(method, adapters):
    from serving.soak import soak

    check(soak(adapters[method], method, seconds=300, clients=32), 32)


@pytest.mark.long
def test_the_measurement_measures_every_adapter(monkeypatch, tmp_path, capsys):
    import serving.__main__ as measurement

    output = tmp_path / "cpu.json"
    options = ["--clients", "4", "--requests", "8", "--tokens", "4", "--rounds", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", ["serving", *options])
    measurement.main()
    results = json.loads(output.read_text())
    assert [*results["adapters"]] == ["rlora", "mtllora", "own", "lora"]
    for row in results["adapters"].values():
        assert row["tokens_a_second"] > 0
        assert 0 < row["first_token_median"] <= row["first_token_95"]
    assert "| `own` |" in capsys.readouterr().out


def test_the_committed_soak_was_clean():
    from serving.soak import RESULTS

    found = json.loads(RESULTS.read_text())
    assert (found["seconds"], found["clients"]) == (300, 32)
    check(found, 32)


@pytest.mark.long
def test_a_pretrained_model_answers_the_official_client_as_alone(tmp_path_factory):
    """SmolLM2-135M-Instruct with an adapter by task: completions and chats of all tasks and of the base, at once."""
    openai = pytest.importorskip("openai")
    from serving.clients import served
    from serving.subjects import METHODS, PROMPTS, TASKS, made
    from study.base import make_base

    folder = tmp_path_factory.mktemp("smollm2")
    try:
        base = make_base(folder / "base")
    except UserError as error:
        pytest.skip(str(error))
    assert "mtllora" in METHODS
    adapter = made(folder, str(base))["mtllora"]
    loaded = load(adapter)
    names = [*(f"mtllora:{task}" for task in TASKS), "base"]
    asked = [(names[number % len(names)], prompt) for number, prompt in enumerate(PROMPTS[:12])]

    def alone(name, prompt):
        messages = [{"role": "user", "content": prompt}]
        task = name.partition(":")[2] or TASKS[0]
        return "".join(loaded.stream(task, messages, max_new_tokens=16, adapter=name != "base"))

    expected = [alone(*one) for one in asked]
    with served(adapter) as server, ThreadPoolExecutor(len(asked)) as pool:
        client = openai.OpenAI(base_url=f"http://{server.address}/v1", api_key="none", max_retries=0, timeout=300)

        def chat(one):
            name, prompt = one
            how = {"model": name, "messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "stream": True}
            return "".join(event.choices[0].delta.content or "" for event in client.chat.completions.create(**how))

        assert list(pool.map(chat, asked)) == expected
    assert len(set(expected)) > len(names)

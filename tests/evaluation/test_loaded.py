"""One object for an adapter: it predicts what an evaluation scores, and answers as `generate` does."""

import json
import shutil
import threading
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_project import TASKS, write_base, write_project
from tiny_runs import NAMES, SMALL, random_run, whole_run
from transformers import LlamaForCausalLM

import loraweave
from loraweave import UserError
from loraweave.bases import BaseSpec, load_base
from loraweave.errors import Notice
from loraweave.evaluation import evaluate
from loraweave.evaluation.loaded import Loaded, _answer
from loraweave.files import write_json
from loraweave.runs.origin import describe_base
from loraweave.tasks.turn import Turn

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(project, {"name": "mtllora", **SMALL}, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def loaded(run: Path) -> loraweave.Loaded:
    return loraweave.load(run)


def rows_of(project: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (project / name).read_text().splitlines()]


def test_labels_are_ranked_as_an_evaluation_ranks_them(project, loaded):
    rows = rows_of(project, "parity_test.jsonl")
    found = loaded.predict("parity", rows)
    right = [each["prediction"] == row["label"] for each, row in zip(found, rows, strict=True)]
    score = evaluate(loaded.model, loaded.tokenizer, [loaded.task("parity")])["parity"]
    assert 100 * sum(right) / len(right) == pytest.approx(score["score"])
    for each in found:
        assert set(each["scores"]) == {"even", "odd"}
        assert each["scores"][each["prediction"]] == max(each["scores"].values())
    unlabelled = [{key: value for key, value in row.items() if key != "label"} for row in rows]
    assert loaded.predict("parity", unlabelled) == found
    assert loaded.predict("parity", []) == []


def test_prompts_that_are_cut_are_said(loaded):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded.predict("double", [{"word": "ab"}])
        assert not [each for each in caught if each.category is Notice]
        loaded.predict("double", [{"word": "ab"}, {"word": "ab" * 99}])
        loaded.generate("double", "a" * 200, max_new_tokens=2)
    said = [str(each.message) for each in caught if each.category is Notice]
    assert said == ["1 requests are longer than the model reads and lost their beginning"] * 2


def test_a_stream_is_of_what_the_model_reads(loaded):
    reads = loaded.model.config.max_position_embeddings
    with pytest.warns(Notice, match="longer than the model reads and lost its beginning"):
        streamed = "".join(loaded.stream("double", "ab" * reads, max_new_tokens=9))
    assert streamed == loaded.generate("double", ("ab" * reads)[-(reads - 9) :], max_new_tokens=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert "".join(loaded.stream("double", "ab", max_new_tokens=10 * reads))
    with pytest.raises(UserError, match=f"max_new_tokens is {reads:,}, and the model reads {reads:,} tokens"):
        loaded.generate("double", "ab", max_new_tokens=reads)


def test_text_is_written_with_the_tasks_stop_rules_and_filter(project, loaded):
    rows = rows_of(project, "double_test.jsonl")
    found = [each["prediction"] for each in loaded.predict("double", rows)]
    right = [text == row["word"] * 2 for text, row in zip(found, rows, strict=True)]
    score = evaluate(loaded.model, loaded.tokenizer, [loaded.task("double")])["double"]
    assert 100 * sum(right) / len(right) == pytest.approx(score["score"])
    assert not any(" " in text or "\n" in text for text in found)


def test_how_long_an_answer_is_is_not_the_bases_generation_configuration_to_say(project, loaded, monkeypatch):
    rows = rows_of(project, "double_test.jsonl")
    written, predicted = loaded.generate("notes", "Note 1:", max_new_tokens=16), loaded.predict("double", rows)
    for most in (3, 40):
        monkeypatch.setattr(loaded.model.generation_config, "max_new_tokens", most)
        assert loaded.generate("notes", "Note 1:", max_new_tokens=16) == written
        assert loaded.predict("double", rows) == predicted


def test_a_plain_file_is_answered_from_its_prompts(loaded):
    (found,) = loaded.predict("notes", [{"prompt": "Note 1:", "completion": "never looked at"}])
    assert found["prediction"] == loaded.generate("notes", "Note 1:")


def test_each_task_speaks_for_itself(loaded):
    assert loaded.tasks == NAMES
    said = {task: loaded.generate(task, "Double abx:", max_new_tokens=12) for task in NAMES}
    assert len(set(said.values())) == 3
    assert loaded.generate("parity", ["Double abx:", "Note 1:"], max_new_tokens=12)[0] == said["parity"]
    with loraweave.task(loaded.model, "double"):
        ids = loaded.tokenizer("Double abx:", return_tensors="pt").input_ids
        plain = loaded.model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert loaded.tokenizer.decode(plain, skip_special_tokens=True) == said["double"]


def test_streamed_pieces_are_the_same_text(loaded):
    whole = loaded.generate("notes", "Note 1:", max_new_tokens=16)
    assert "".join(loaded.stream("notes", "Note 1:", max_new_tokens=16)) == whole
    base = "".join(loaded.stream("notes", "Note 1:", max_new_tokens=16, adapter=False))
    assert base != whole
    assert "answer" not in [thread.name for thread in threading.enumerate()]


def said_by(model, tokenizer, prompt: str, count: int) -> str:
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    written = model.generate(input_ids=ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


def test_the_base_of_a_model_that_was_trained_whole_is_the_one_before(project, tmp_path):
    run = whole_run(project, tmp_path / "run")
    loaded = loraweave.load(run)
    before, after = (load_base(folder) for folder in (project / "base", run / "model"))
    said = "".join(loaded.stream(None, "Note 1:", max_new_tokens=12, adapter=False))
    assert said == said_by(*before, "Note 1:", 12) != said_by(*after, "Note 1:", 12)
    assert "".join(loaded.stream(None, "Note 1:", max_new_tokens=12)) == said_by(*after, "Note 1:", 12)
    write_base(tmp_path / "other", seed=1)  # named, it is what the trained model is shown beside
    named = loraweave.load(run, base=str(tmp_path / "other"))
    assert named.generate(None, "Note 1:", max_new_tokens=12) == said_by(*after, "Note 1:", 12)
    other = "".join(named.stream(None, "Note 1:", max_new_tokens=12, adapter=False))
    assert other == said_by(*load_base(tmp_path / "other"), "Note 1:", 12)
    alone = loraweave.load(run / "model")
    with pytest.raises(UserError, match="nothing here says which base it was made from"):
        list(alone.stream(None, "Note 1:", adapter=False))


def test_other_weights_under_an_adapter_are_said(project, run, tmp_path):
    write_base(tmp_path / "same")
    write_base(tmp_path / "other", seed=1)
    for folder in (run, run / "adapter"):
        with pytest.warns(Notice, match=rf"{folder}: .*other has other weights \(fingerprint \w+\) than the base"):
            loraweave.load(folder, base=str(tmp_path / "other"))
        with warnings.catch_warnings():
            warnings.simplefilter("error", Notice)
            loraweave.load(folder, base=str(tmp_path / "same"))


def test_another_chat_template_than_the_trained_one_is_said(project, tmp_path):
    write_base(tmp_path / "base")
    run = random_run(project, {"name": "moelora", **SMALL}, tmp_path / "run", base=tmp_path / "base")
    described = describe_base(BaseSpec.of(str(tmp_path / "base")), *load_base(tmp_path / "base"))
    for folder in (run, run / "adapter"):
        write_json(folder / "base.json", described)

    def loads():
        return loraweave.load(run), loraweave.load(run / "adapter"), loraweave.load_run(run)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        loads()
    (tmp_path / "base" / "chat_template.jinja").write_text(CHAT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        loads()
    said = [str(each.message).split(": ") for each in caught if each.category is Notice]
    assert [folder for folder, _ in said] == [str(run), str(run / "adapter"), str(run)]
    assert {what for _, what in said} == {
        f"the tokenizer of {tmp_path / 'base'} or its chat template is another one than when this was trained"
    }


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_template_that_lies_beside_an_adapter_of_another_tool_is_said(file, run, tmp_path):
    alone = Path(shutil.copytree(run / "adapter", tmp_path / "alone"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        loraweave.load(alone)
    (alone / file).write_text(CHAT if file.endswith("jinja") else json.dumps({"chat_template": CHAT}))
    with pytest.warns(Notice, match=f"alone: the tokenizer in {alone} has another chat template than that of .*base"):
        loraweave.load(alone)


@pytest.mark.parametrize(
    "settings", [{"bias": "all"}, {"init_lora_weights": "pissa"}, {"layer_replication": [[0, 2], [0, 2]]}]
)
def test_the_base_is_shown_as_it_was_where_more_than_the_adapter_was_trained(project, settings):
    base, tokenizer = load_base(project / "base")
    base.config.attention_bias = True
    torch.manual_seed(1)
    base = LlamaForCausalLM(base.config).eval()
    before = LlamaForCausalLM(base.config).eval()
    before.load_state_dict(base.state_dict())
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    loaded = Loaded(model, tokenizer, [], None, lambda: before, Path("nowhere"), None)
    said = "".join(loaded.stream(None, "Note 1:", max_new_tokens=12, adapter=False))
    assert said == said_by(before, tokenizer, "Note 1:", 12)
    with torch.no_grad(), model.disable_adapter():
        ids = torch.arange(5, 12)[None]
        assert not torch.allclose(model(ids).logits, before(ids).logits, atol=1e-4)


def test_what_goes_wrong_while_an_answer_is_written_is_raised(loaded, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("memory is full")

    monkeypatch.setattr(loaded.model.get_base_model().model.layers[1], "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="memory is full"):
        list(loaded.stream("notes", "Note 1:"))
    assert "answer" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, got 0"):
        loaded.stream("notes", "Note 1:", max_new_tokens=0)
    with pytest.raises(UserError, match="max_new_tokens must be at least 1, got -1"):
        loaded.generate("notes", "Note 1:", max_new_tokens=-1)


def test_an_answer_that_nobody_reads_on_is_not_written_on(loaded):
    steps = []
    hook = loaded.model.get_base_model().lm_head.register_forward_hook(lambda *_: steps.append(1))
    try:
        pieces = loaded.stream("notes", "Note 1:", max_new_tokens=10_000)
        next(pieces)
        pieces.close()
        stopped = len(steps)
        assert 0 < stopped < 5_000
        loaded.generate("notes", "Note 1:", max_new_tokens=1)
        assert len(steps) == stopped + 1
    finally:
        hook.remove()


def test_a_stream_ends_where_the_models_own_configuration_says(run):
    loaded = loraweave.load(run)
    whole = loaded.generate("notes", "Note 1:", max_new_tokens=8)
    end = loaded.tokenizer.convert_tokens_to_ids(whole[0])
    loaded.model.generation_config.eos_token_id = [2, end]
    text = loaded.generate("notes", "Note 1:", max_new_tokens=8)
    assert "".join(loaded.stream("notes", "Note 1:", max_new_tokens=8)) == text == whole[0] != whole


def test_chats_go_through_the_template(run):
    loaded = loraweave.load(run)
    with pytest.raises(UserError, match="template"):
        loaded.generate("notes", [{"role": "user", "content": "Hello"}])
    loaded.tokenizer.chat_template = CHAT
    messages = [{"role": "user", "content": "Hello"}]
    text = loaded.generate("notes", messages, max_new_tokens=8)
    assert text == loaded.generate("notes", "<user>Hello</s><assistant>", max_new_tokens=8)
    assert "".join(loaded.stream("notes", messages, max_new_tokens=8)) == text
    with pytest.raises(UserError, match="one kind"):
        loaded.generate("notes", [messages, "text"])


@pytest.mark.parametrize(
    ("pieces", "text"),
    [(["abc"], "abc"), (["ab<", "/", "end>cd"], "ab"), (["a<", "b"], "a<b"), (["a</end", ">"], "a"), (["a</"], "a</")],
)
def test_a_turns_end_in_pieces_is_found(pieces, text):
    assert "".join(_answer(iter(pieces), Turn("", "", None, "</end>"))) == text


def test_what_a_template_opens_an_answer_with_is_no_part_of_it():
    turn = Turn("<think></think> ", " ", None, "</end>")
    for text in ("<think></think> so <b </end>", "so <b </end>", "<thin", "<think></think> a  ", "a </en"):
        for size in (1, 3, 100):
            pieces = (text[i : i + size] for i in range(0, len(text), size))
            assert "".join(_answer(pieces, turn)) == turn.answer(text), (text, size)


def test_what_is_wrong_is_said(project, loaded, run, tmp_path):
    with pytest.raises(UserError, match="did you mean 'double'"):
        loaded.generate("duoble", "x")
    with pytest.raises(UserError, match="say which, one of parity, double, notes"):
        loaded.generate(None, "x")
    with pytest.raises(UserError, match=r"row 2: the templates of the task 'parity' fail.*number"):
        loaded.predict("parity", [{"number": 1}, {"nmber": 1}])
    with pytest.raises(UserError, match="row 1: lacks the field 'prompt'"):
        loaded.predict("notes", [{"completion": "x"}])
    with pytest.raises(UserError, match="holds no run, no adapter and no model"):
        loraweave.load(tmp_path)


def test_an_adapter_alone_answers_and_predicts_with_its_tasks_named(project, run, loaded, tmp_path, monkeypatch):
    alone = loraweave.load(run / "adapter")
    assert alone.generate("notes", "Note 1:") == loaded.generate("notes", "Note 1:")
    with pytest.raises(UserError, match="nothing says what the task"):
        alone.predict("parity", [{"number": 1}])
    monkeypatch.chdir(project)
    named = loraweave.load(run / "adapter", tasks=TASKS[:1])
    assert named.predict("parity", [{"number": 1}]) == loaded.predict("parity", [{"number": 1}])


def test_tasks_that_are_named_go_through_the_template_as_the_adapter_was_trained(project, run, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    for chat in (False, True):
        assert loraweave.load(run / "adapter", tasks=TASKS[:1], chat_template=chat).task("parity").chat_template == chat
    with pytest.raises(UserError, match="a run, whose run file says it"):
        loraweave.load(run, tasks=TASKS[:1], chat_template=True)
    with pytest.raises(UserError, match="no tasks are named"):
        loraweave.load(run / "adapter", chat_template=True)
    shutil.copytree(run, tmp_path / "run")
    written = tmp_path / "run" / "run.yaml"
    written.write_text(written.read_text().replace("chat_template: false", "chat_template: true"))
    assert loraweave.load(tmp_path / "run", base="base", tasks=TASKS[:1]).task("parity").chat_template


def test_exports_load_too(project, run, loaded, tmp_path):
    from loraweave.export import export

    said = loaded.generate("double", "Double abx:", max_new_tokens=8)
    for to in ("lora", "merged"):
        export(run, to, tmp_path / to, tasks=["double"])
        assert loraweave.load(tmp_path / to / "double").generate(None, "Double abx:", max_new_tokens=8) == said

"""WeaveConfig: presets follow their papers, bad values and knobs that do not go together are named."""

import pytest
from peft import PeftConfig

import loraweave
from loraweave import UserError, WeaveConfig
from loraweave.config import PRESETS

TASKS = {"task_names": ["a", "b"]}


def preset(name: str, **knobs) -> WeaveConfig:
    config = PRESETS[name]
    return config(**(TASKS if name in ("mtllora", "moelora", "own", "lori") else {}), **knobs)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_saving(name: str, tmp_path):
    config = preset(name, r=3, target_modules=["q_proj", "v_proj"])
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, WeaveConfig)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.peft_type, loaded.method) == ("LORAWEAVE", name)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("multilora", {"num_heads": 3, "down": "per_head", "gate": "channel", "start": "zero_gate"}),
        ("hydralora", {"r": 4, "lora_alpha": 32, "gate": "token", "start": "zero_up", "head_dropout": False}),
        (
            "rlora",
            {"num_heads": 5, "gate": "token", "head_dropout": True, "start": "random_anchored", "lora_dropout": 0.2},
        ),
        ("mlora", {"gate": "uniform", "head_dropout": True, "start": "random_anchored"}),
        ("mtllora", {"r": 8, "num_heads": 3, "gate": "task", "task_transform": True, "temperature": 0.1}),
        ("moelora", {"down": "per_head", "gate": "task_embedding"}),
    ],
)
def test_presets_are_their_papers_choices(name: str, knobs: dict):
    config = preset(name)
    assert {key: getattr(config, key) for key in knobs} == knobs


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"r": 0}, "r must be a whole number of at least 1, got 0"),
        ({"num_heads": 0}, "num_heads must be"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"lora_dropout": 1.0}, "lora_dropout must be at least 0 and below 1, got 1.0"),
        ({"heads_by_depth": []}, "heads_by_depth must be a list"),
        ({"heads_by_depth": [2, 0]}, r"heads_by_depth\[1\] must be"),
        ({"gate": "token", "num_heads": 4, "heads_by_depth": [1, 4], "top_k": 2}, "heads_by_depth has 1"),
        ({"block_size": [4]}, r"block_size must be \[d_in, d_out\]"),
        ({"up_density": 0.0}, "up_density must be above 0"),
        ({"up_density": 0.5, "start": "random_anchored"}, "needs start='zero_up'"),
        ({"up": "shared", "down": "per_head"}, "needs down='shared'"),
        ({"up": "shared", "gate": "own", "task_names": ["a", "b"]}, "does not go with gate='own'"),
        ({"gate": "own", "task_names": ["a"], "heads_by_depth": [1]}, "leave out heads_by_depth"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"gate": "tokens"}, "did you mean 'token'"),
        ({"start": "zero_gate"}, "needs gate='channel'"),
        ({"start": "random_anchored", "down": "per_head"}, "needs down='shared'"),
        ({"gate": "task"}, "needs task_names"),
        ({"task_transform": True}, "needs task_names"),
        ({"gate": "task", "task_names": ["a", "a"]}, "must differ"),
        ({"layers_pattern": "layers"}, "layers_to_transform"),
        ({"top_k": 0, "gate": "token"}, "top_k must be a whole number of at least 1, got 0"),
        ({"top_k": 2, "num_heads": 3}, "top_k needs one of the gates token, task, task_embedding: gate='uniform'"),
        ({"top_k": 4, "num_heads": 3, "gate": "token"}, "top_k=4 is more than there are heads: num_heads has 3"),
        ({"top_k": 2, "num_heads": 3, "gate": "token", "num_heads_pattern": {"q": 1}}, "num_heads_pattern has 1"),
        ({"top_k": 2, "num_heads": 3, "gate": "token", "start": "random_anchored"}, "does not go with top_k"),
        ({"gate_groups": 2}, "gate_groups=2 needs gate='token'"),
        ({"router_input": "rank"}, "router_input='rank' needs gate='token'"),
        ({"gate": "token", "temperature": 0.5}, "temperature=0.5 needs gate='task', not 'token': leave it out, or 1.0"),
        ({"gate": "task", "task_names": ["a"], "task_embedding_dim": 8}, "task_embedding_dim=8 needs gate='task_emb"),
        ({"router_input": "ranks"}, "did you mean 'rank'"),
        ({"num_heads_pattern": {"q_proj": 0}}, "num_heads_pattern"),
        ({"gate": "own"}, "needs task_names"),
        ({"gate": "own", "task_names": ["a", "b"], "num_heads": 3}, "one head for each of its 2 tasks"),
        ({"gate": "own", "task_names": ["a", "b"], "num_heads_pattern": {"q": 2}}, "leave out num_heads_pattern"),
        ({"gate": "own", "task_names": ["a"], "start": "random_anchored"}, "does not go with gate='own'"),
        ({"task_transform": "diag"}, "task_transform='diag' is not one of False, True, full, diagonal"),
    ],
)
def test_bad_knobs_are_named_in_one_line(knobs: dict, message: str):
    with pytest.raises(UserError, match=message) as error:
        WeaveConfig(**knobs)
    assert "\n" not in str(error.value)


def test_heads_of_their_own_are_as_many_as_tasks():
    assert WeaveConfig(gate="own", task_names=["a", "b", "c"]).num_heads == 3


def test_the_default_is_a_plain_lora_on_all_linear_layers():
    config = loraweave.WeaveConfig()
    assert (config.num_heads, config.gate, config.start, config.target_modules) == (
        1,
        "uniform",
        "zero_up",
        "all-linear",
    )

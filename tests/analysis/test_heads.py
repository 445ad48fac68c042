"""How alike heads are, since when, and where they lie."""

import io

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from loraweave import UserError
from loraweave.analysis.heads import describe, head_map, layer_heads, random_starts, similarity
from loraweave.analysis.numbers import analyze
from loraweave.analysis.subjects import open_runs
from loraweave.commands import Analysis
from loraweave.runs.config import RunConfig
from loraweave.training.run import train


def test_equal_heads_are_alike_and_opposite_ones_are_not():
    one = torch.randn(6, 2)
    cosines = similarity(torch.stack([one, 3 * one, -one, torch.zeros(6, 2)]))
    torch.testing.assert_close(cosines[0], torch.tensor([1.0, 1.0, -1.0, 0.0]))
    found = describe(torch.stack([one, 3 * one]))
    assert found["mean_similarity"] == pytest.approx(1)
    assert found["norms"] == pytest.approx([float(one.norm()), 3 * float(one.norm())])


def test_the_mean_leaves_the_diagonal_out():
    heads = torch.eye(3)[:, :, None]
    assert describe(heads)["mean_similarity"] == 0
    assert describe(heads)["similarity"] == torch.eye(3).tolist()


def test_A_is_described_where_every_head_has_its_own(saved):
    for name, matrices in (("multilora", ["B", "A"]), ("mtllora", ["B"])):
        run = open_runs([saved(name)[1]])[0]
        assert [entry["matrix"] for entry in layer_heads(run.adapter.tensors("model.layers.0.mlp.up_proj"), None)] == (
            matrices
        )


def test_heads_that_share_one_B_are_it_times_their_own_matrices(saved):
    _, folder = saved("comol")
    found = analyze([folder])
    tensors = open_runs([folder])[0].adapter.tensors("model.layers.0.mlp.up_proj")
    own = torch.stack([tensors["B"][0] @ core for core in tensors["core"]])
    (entry,) = [entry for entry in found["heads"] if entry["layer"] == "model.layers.0.mlp.up_proj"]
    assert entry["similarity"] == [pytest.approx(row, abs=1e-5) for row in similarity(own).tolist()]
    assert abs(Analysis(folder, found).overview[0].head_similarity) < 1
    points = [point for one in found["head_map"] for point in one["points"] if point["layer"] == entry["layer"]]
    assert [point["head"] for point in points] == list(range(len(own)))


@pytest.fixture(scope="module")
def untrained(runs):
    """R-LoRA runs whose learning rate is zero: their adapters are their starts. The second drew from another seed."""
    config = RunConfig.load(runs["base"].parent / "run.yaml", ["method=rlora", "seed=5", "train.learning_rate=0"])
    folders = [runs["base"].parent / f"untrained{i}" for i in range(2)]
    for folder in folders:
        train(config, folder, console=Console(file=io.StringIO()))
    text = (folders[1] / "run.yaml").read_text()
    (folders[1] / "run.yaml").write_text(text.replace("seed: 5", "seed: 6"))
    return folders


def test_a_random_start_is_drawn_again_from_the_seed(untrained):
    run = open_runs([untrained[0]])[0]
    tensors = load_file(untrained[0] / "adapter" / "adapter_model.safetensors")
    state = torch.get_rng_state()
    starts = dict(random_starts(run))
    assert torch.equal(torch.get_rng_state(), state)
    assert starts.keys() == run.adapter.sizes.keys()
    for layer, start in starts.items():
        assert torch.equal(start.float(), tensors[f"base_model.model.{layer}.weave_B"])


def test_a_start_that_does_not_fit_the_anchor_is_not_taken_for_one(untrained, saved):
    with pytest.raises(UserError, match=r"cannot be drawn again from the seed \(model.layers.0"):
        list(random_starts(open_runs([untrained[1]])[0]))
    with pytest.raises(UserError, match="seed of its random start is not known"):
        list(random_starts(open_runs([saved("rlora")[1]])[0]))
    assert list(random_starts(open_runs([saved("hydralora")[1]])[0])) == []


def test_the_map_keeps_the_distances_of_heads_in_a_plane(saved):
    model, folder = saved("hydralora", target_modules=["up_proj"])
    plane = torch.randn(2, 48 * 4, dtype=torch.float64)
    heads = []
    for i in range(2):
        heads.append(torch.nn.functional.normalize(torch.randn(4, 2, dtype=torch.float64) @ plane, dim=1))
        layer = model.base_model.model.model.layers[i].mlp.up_proj
        layer.weave_B["default"].data = 5 * heads[i].view(4, 48, 4)  # lengths do not count
    model.save_pretrained(folder)
    run = open_runs([folder])[0]
    (found,) = head_map(run, dict.fromkeys(run.adapter.sizes, "up_proj"))
    points = torch.tensor([[point["x"], point["y"]] for point in found["points"]]).double()
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(*[torch.cat(heads)] * 2), atol=1e-3, rtol=0)
    assert sum(found["explained"]) == pytest.approx(1, abs=1e-4)
    assert [(point["layer"].split(".")[2], point["head"]) for point in found["points"]] == [
        (str(i), head) for i in range(2) for head in range(4)
    ]

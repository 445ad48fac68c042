"""Behaviours of an adapter as PEFT's users know them: saving, loading, several on one model, targeting."""

import copy
from functools import cache
from pathlib import Path

import peft
import torch
from accelerate import cpu_offload, dispatch_model
from compatibility.cases import TASKS, Case, assert_close, behaviour, disturb, layers_of
from compatibility.models import ARCHITECTURES
from peft import PeftModel, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter

GROUP = "Adapters"
TARGETS = "What is adapted"

AUTO = {
    "CAUSAL_LM": peft.AutoPeftModelForCausalLM,
    "SEQ_CLS": peft.AutoPeftModelForSequenceClassification,
    "TOKEN_CLS": peft.AutoPeftModelForTokenClassification,
    "SEQ_2_SEQ_LM": peft.AutoPeftModelForSeq2SeqLM,
}


def trains_a_head(case: Case) -> bool:
    return case.architecture.task_type in ("SEQ_CLS", "TOKEN_CLS")


def no_auto_class(case: Case) -> str | None:
    return None if case.architecture.task_type in AUTO else "PEFT has no AutoPeftModel class for it"


def not_transformers(case: Case) -> str | None:
    return None if case.architecture.is_transformers else "a function of transformers' models"


def not_tied(case: Case) -> str | None:
    return None if "tied" in case.architecture.traits else "its embeddings are not tied"


def one_layer_index(case: Case) -> str | None:
    return None if case.architecture.is_transformers else "no numbered layers"


@behaviour(GROUP)
def save_and_load(case: Case, folder: Path) -> None:
    """Saved and loaded onto a fresh base, a trained adapter gives the same bits."""
    model = case.adapted()
    case.train(model, steps=1)
    expected = case.output(model)
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(case.architecture.build(), folder).eval()
    assert torch.equal(case.output(loaded), expected)


@behaviour(GROUP, everywhere=False)
def low_memory_loading(case: Case, folder: Path) -> None:
    """The same with `low_cpu_mem_usage=True`: the same weights, outputs within rounding."""
    model = case.changed()
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(case.architecture.build(), folder, low_cpu_mem_usage=True).eval()
    weights = get_peft_model_state_dict(model)
    assert all(torch.equal(v, weights[k]) for k, v in get_peft_model_state_dict(loaded).items())
    assert_close(case.output(loaded), case.output(model))  # products round by where in memory a weight starts


@behaviour(GROUP, pointless=no_auto_class, everywhere=False)
def auto_class(case: Case, folder: Path) -> None:
    """`AutoPeftModelFor…` loads base and adapter from the adapter's folder."""
    case.architecture.build().save_pretrained(folder / "base")
    auto = AUTO[case.architecture.task_type]
    base = auto._target_class.from_pretrained(folder / "base")
    model = case.changed(base)
    model.save_pretrained(folder / "adapter")
    loaded = auto.from_pretrained(folder / "adapter").eval()
    assert torch.equal(case.output(loaded), case.output(model))


@behaviour(GROUP)
def disabled(case: Case, folder: Path) -> None:
    """A trained adapter disabled gives the base's bits, and enabled again its own."""
    base = case.architecture.build()
    before = case.output(base, tasks=())
    model = case.adapted(base)
    case.train(model, steps=1)
    after = case.output(model)
    assert not torch.equal(after, before)
    with model.disable_adapter():
        assert torch.equal(case.output(model), before)
    assert torch.equal(case.output(model), after)


@behaviour(GROUP, everywhere=False)
def several(case: Case, folder: Path) -> None:
    """Several adapters: add, set, delete, load; each gives its own bits."""
    model = case.changed()
    one = case.output(model)
    model.add_adapter("two", case.config())
    disturb(model, "two")
    assert torch.equal(case.output(model), one)
    model.set_adapter("two")
    two = case.output(model)
    assert not torch.equal(one, two)
    model.save_pretrained(folder)
    model.set_adapter("default")
    model.delete_adapter("two")
    assert torch.equal(case.output(model), one)
    model.load_adapter(folder / "two", adapter_name="again")
    model.set_adapter("again")
    assert torch.equal(case.output(model), two)


def head_of_its_own(case: Case) -> str | None:
    return "PEFT trains the head whole, and lets one adapter alone set it" if trains_a_head(case) else None


@behaviour(GROUP, impossible=head_of_its_own, everywhere=False)
def both_active(case: Case, folder: Path) -> None:
    """Two adapters active at once add up."""
    model = case.changed()
    model.add_adapter("two", case.config())
    disturb(model, "two")
    model.base_model.set_adapter(["default", "two"])
    layer, call = case.first_call(model)
    with layer.call_context.use(TASKS), torch.no_grad():
        base, both = call(layer.base_layer), call(layer)
        each = []
        for name in ("default", "two"):
            layer.set_adapter(name)
            each.append(call(layer) - base)
    assert_close(both, base + each[0] + each[1])


@behaviour(GROUP, pointless=not_transformers)
def transformers_functions(case: Case, folder: Path) -> None:
    """transformers' own `add_adapter` and `load_adapter`, with `tasks` in the call."""
    wrapped = case.changed()
    expected = case.output(wrapped)
    wrapped.save_pretrained(folder)
    model = case.architecture.build()
    model.load_adapter(str(folder))
    assert_close(case.output(model.eval()), expected)
    fresh = case.architecture.build()
    fresh.add_adapter(case.config())
    assert len(layers_of(fresh)) == len(layers_of(wrapped))
    assert torch.isfinite(case.output(fresh)).all()


@behaviour(GROUP, everywhere=False)
def injected(case: Case, folder: Path) -> None:
    """`inject_adapter_in_model`, and `set_peft_model_state_dict` with and without low memory use."""
    expected = case.changed()
    state = get_peft_model_state_dict(expected)
    for low in (False, True):
        model = inject_adapter_in_model(case.config(), case.architecture.build(), low_cpu_mem_usage=low)
        names = {k.removeprefix("base_model.model."): v for k, v in state.items()}
        loaded = set_peft_model_state_dict(model, names, low_cpu_mem_usage=low)
        assert not loaded.unexpected_keys
        assert_close(case.output(model.eval()), case.output(expected))


@behaviour(GROUP, everywhere=False)
def copied(case: Case, folder: Path) -> None:
    """A deep copy gives the same bits and has tasks and weights of its own."""
    model = case.changed()
    twin = copy.deepcopy(model)
    expected = case.output(model)
    assert torch.equal(case.output(twin), expected)
    layers_of(twin)[0].weave_B["default"].data.zero_()
    assert not torch.equal(case.output(twin), expected)
    assert torch.equal(case.output(model), expected)
    assert layers_of(twin)[0].call_context is not layers_of(model)[0].call_context


@behaviour(GROUP)
def device_map(case: Case, folder: Path) -> None:
    """On a base spread by accelerate (`device_map`, here with its hooks on one device)."""
    expected = case.output(case.changed())
    base = dispatch_model(case.architecture.build(), {"": "cpu"}, force_hooks=True)
    assert_close(case.output(case.changed(base)), expected)


@behaviour(GROUP)
def offloaded(case: Case, folder: Path) -> None:
    """On a base whose weights accelerate keeps elsewhere between calls (`cpu_offload`)."""
    expected = case.output(case.changed())
    base = cpu_offload(case.architecture.build(), torch.device("cpu"))
    assert next(base.parameters()).is_meta
    assert_close(case.output(case.changed(base)), expected)


@behaviour(GROUP)
def pickled(case: Case, folder: Path) -> None:
    """`torch.save` and `torch.load` of the whole adapted model."""
    model = case.changed()
    torch.save(model, folder / "model.pt")
    assert_close(case.output(torch.load(folder / "model.pt", weights_only=False)), case.output(model))


@behaviour(GROUP, refused=lambda case: True)
def adapters_by_row(case: Case, folder: Path) -> None:
    """`adapter_names`: another adapter for each row of a batch."""
    model = case.changed()
    model.add_adapter("two", case.config())
    case.output(model, adapter_names=["default", "two", "default"])


@behaviour(GROUP, pointless=not_tied)
def tied_embeddings(case: Case, folder: Path) -> None:
    """Tied embeddings stay tied, and the adapter's file does not hold them."""
    model = case.changed()
    assert not [k for k in get_peft_model_state_dict(model) if "weave_" not in k]
    base = model.unload()
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight


@behaviour(GROUP, refused=trains_a_head)
def hotswapped(case: Case, folder: Path) -> None:
    """PEFT's `hotswap_adapter` puts another adapter's values into the same tensors."""
    model = case.changed()
    model.add_adapter("two", case.config())
    disturb(model, "two")
    model.save_pretrained(folder)
    model.set_adapter("two")
    expected = case.output(model)
    model.set_adapter("default")
    places = [p.data_ptr() for p in model.parameters()]
    hotswap_adapter(model, str(folder / "two"), adapter_name="default")
    assert_close(case.output(model), expected)
    assert [p.data_ptr() for p in model.parameters()] == places


@behaviour(TARGETS, everywhere=False)
def patterns(case: Case, folder: Path) -> None:
    """`rank_pattern` and `alpha_pattern` change single layers, and survive saving."""
    names = [layer.layer_name for layer in layers_of(case.adapted())]
    first, last = names[0], names[-1]
    knobs = {"rank_pattern": {first: 3}, "alpha_pattern": {last: 7}, "use_rslora": False}
    model = case.changed(**knobs)
    layers = layers_of(model)
    assert layers[0].weave_A["default"].shape[1] == 3
    assert all(layer.weave_A["default"].shape[1] == 2 for layer in layers[1:])
    assert layers[-1].knobs["default"].scaling == 7 / 2
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(case.architecture.build(), folder).eval()
    assert torch.equal(case.output(loaded), case.output(model))


@behaviour(TARGETS, pointless=one_layer_index, everywhere=False)
def layer_indices(case: Case, folder: Path) -> None:
    """`layers_to_transform` adapts the layers of these indices alone."""
    names = {layer.layer_name.rpartition(".")[2] for layer in layers_of(case.adapted())}
    layers = layers_of(case.adapted(target_modules=sorted(names), layers_to_transform=[1]))
    assert layers
    assert all(".1." in layer.layer_name for layer in layers)


@behaviour(TARGETS, everywhere=False)
def excluded(case: Case, folder: Path) -> None:
    """`exclude_modules` leaves layers out."""
    names = [layer.layer_name for layer in layers_of(case.adapted())]
    left = [layer.layer_name for layer in layers_of(case.adapted(exclude_modules=[names[0]]))]
    assert left == names[1:]


def output_name(case: Case) -> str:
    base = case.architecture.build()
    head = base.get_output_embeddings()
    return next(name for name, module in base.named_modules() if module is head)


@behaviour(TARGETS)
def trained_whole(case: Case, folder: Path) -> None:
    """`modules_to_save` trains a module whole, without an adapter, and saves it."""
    name = case.architecture.head or output_name(case)
    model = case.adapted(modules_to_save=[name])
    assert not [layer for layer in layers_of(model) if layer.layer_name.endswith(name)]
    case.train(model, steps=1)
    expected = case.output(model)
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(case.architecture.build(), folder).eval()
    assert torch.equal(case.output(loaded), expected)
    moved = [m for m in model.modules() if type(m).__name__ == "ModulesToSaveWrapper"]
    assert moved
    assert not torch.equal(moved[0].modules_to_save["default"].weight, moved[0].original_module.weight)


@cache
def has_biases(architecture: str) -> bool:
    layers = layers_of(Case(ARCHITECTURES[architecture], "weave").adapted())
    return any(getattr(layer.base_layer, "bias", None) is not None for layer in layers)


def no_biases(case: Case) -> str | None:
    return None if has_biases(case.architecture.name) else "no adapted layer has a bias"


@behaviour(TARGETS, pointless=no_biases, everywhere=False)
def biases(case: Case, folder: Path) -> None:
    """`bias="weave_only"` and `"all"` train biases, save them and load them."""
    for which in ("weave_only", "all"):
        model = case.adapted(bias=which)
        before = {n: p.clone() for n, p in model.named_parameters() if n.endswith("base_layer.bias")}
        case.train(model)
        assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
        expected = case.output(model)
        model.save_pretrained(folder / which)
        loaded = PeftModel.from_pretrained(case.architecture.build(), folder / which).eval()
        assert torch.equal(case.output(loaded), expected)

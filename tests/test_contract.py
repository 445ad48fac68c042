"""The private names of other libraries that this package uses: all are listed, all are there, and every library that
has one is bounded above in pyproject.toml. A new version of a library that breaks this contract fails here, by name."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loraweave import UserError
from loraweave.foreign import private

ROOT = Path(__file__).resolve().parents[1]

# By where it is, module or module:class, the names used. A class also "has" what its methods set on themselves.
CONTRACT: dict[str, str] = {
    # torch
    "torch._C": "_current_graph_task_id _are_functorch_transforms_active",
    "torch.cpu": "_is_avx512_bf16_supported _is_amx_tile_supported",
    "torch._subclasses.fake_tensor": "FakeTensorMode",
    "torch.utils._python_dispatch": "TorchDispatchMode",
    "torch.utils._pytree": "tree_leaves",
    "torch.nn.modules.conv": "_ConvNd",
    "torch.nn:Module": "_parameters _buffers _modules _forward_hooks _forward_pre_hooks _backward_hooks "
    "_backward_pre_hooks _replicate_for_data_parallel _load_from_state_dict",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper": "_CHECKPOINT_WRAPPED_MODULE",
    # peft
    "peft.tuners.tuners_utils": "_get_in_out_features",
    "peft.tuners.tuners_utils:BaseTunerLayer": "_cast_input_dtype _freeze_non_trainable_peft_weights "
    "_move_adapter_to_device_of_base_layer _disable_adapters "
    "_get_base_layer_device_and_dtype",
    "peft.tuners.tuners_utils:BaseTuner": "_check_target_module_exists _replace_module _create_and_replace "
    "_unload_and_optionally_merge _get_adapter_state_dict _remap_adapter_state_dict_for_load",
    "peft.tuners.lora.conversion": "_convert_module_to_lora",
    "peft.utils.hotswap": "hotswap_adapter_from_state_dict CONFIG_KEYS_TO_CHECK",
    "peft:PeftModel": "_upload_modified_files _enable_peft_forward_hooks "
    "_checkpoint_conversion_mapping",  # of a base, where it has one: read as PEFT reads it
    "peft.utils:PeftType": "_member_names_ _member_map_ _value2member_map_",
    # transformers
    "transformers:Trainer": "_run_epoch _save_checkpoint _get_output_dir _init_training_state _get_train_sampler "
    "_get_eval_sampler _prepare_inputs _signature_columns _set_signature_columns_if_needed _get_dataloader _evaluate "
    "_determine_best_metric _load_from_checkpoint _load_optimizer_and_scheduler _load_rng_state _load_best_model",
    "transformers:TrainingArguments": "_n_gpu",
    "transformers:PreTrainedModel": "_no_split_modules",
    "transformers.utils.chat_template_utils": "_compile_jinja_template ImmutableSandboxedEnvironment",
    "transformers.modeling_layers:GradientCheckpointingLayer": "_gradient_checkpointing_func",
    "transformers:GenerationMixin": "_supports_logits_to_keep _prepare_special_tokens _get_logits_processor",
    # of its continuous batching, which has no promise of its own: also names without an underscore
    "transformers.generation.continuous_batching.continuous_api:ContinuousBatchingManager": "_generation_step "
    "_run_generation_loop batch_processor logit_processor output_router background_thread_status distributed_helper "
    "warmup join pause",
    "transformers.generation.continuous_batching.continuous_api:ContinuousBatchProcessor": "inputs_and_outputs "
    "handle_batch_error",
    "transformers.generation.continuous_batching.input_outputs:ContinuousBatchingIOs": "requests_in_batch",
    "transformers.generation.continuous_batching.continuous_api:OutputRouter": "deliver deliver_batch",
    "transformers.generation.continuous_batching.continuous_api:BackgroundThreadStatus": "request_stop fatal_error "
    "can_accept_new_requests",
    "transformers.generation.continuous_batching.cb_logits_processors:ContinuousBatchingLogitsProcessorList": ""
    "tensors_required check_kwargs prepare_tensor_args",
    "transformers.generation.continuous_batching.requests:FutureRequestState": "state query_length",
    "transformers.generation.continuous_batching.requests:RequestState": "logit_processor_kwargs position_offset "
    "generated_tokens",
    "transformers.generation.continuous_batching.requests:GenerationOutput": "generated_tokens error is_finished",
    "transformers.generation.continuous_batching.utils": "find_head_dim find_num_key_value_heads",
    "transformers.cli.serving.server": "build_server",
    "transformers.cli.serving.utils:GenerationState": "is_cb_alive",
    "transformers.cli.serving.model_manager:ModelManager": "get_gen_models load_model_and_processor shutdown",
    # uvicorn
    "uvicorn.protocols.http.h11_impl:H11Protocol": "connection_made data_received connection_lost "
    "pause_writing resume_writing cycle transport loop",
    "uvicorn.protocols.http.h11_impl:RequestResponseCycle": "response_complete",
    "uvicorn:Server": "handle_exit should_exit force_exit server_state startup started",
    "uvicorn.server:ServerState": "connections",
    # gguf
    "gguf:GGUFReader": "_get _get_field_parts",
    # trl
    "trl:SFTTrainer": "_signature_columns",
    "trl.trainer.base_trainer:_BaseTrainer": "_send_telemetry",
    "trl:DPOTrainer": "_precompute_ref_logps compute_ref_log_probs",
    "trl:GRPOTrainer": "_generate_and_score_completions _get_per_token_logps_and_entropies",
    "trl.kernels.chunked_logprob": "_forward_tile _backward_tile _addmm_fp32",
    "trl.trainer.utils": "add_fused_lm_head",
    # accelerate
    "accelerate.hooks": "_hf_hook",
    # lm-eval
    "lm_eval.tasks._yaml_loader": "_import_func_in_yml",
    "lm_eval.api.task:Task": "_filters",
    "lm_eval.api.task:ConfigurableTask": "_metric_fn_list _aggregation_list _higher_is_better",
    "lm_eval.models.huggingface:HFLM": "_loglikelihood_tokens _model_generate",
    # jinja2
    "jinja2:Undefined": "_undefined_name",
    "jinja2:Environment": "_generate",
    "jinja2.utils:Namespace": "_Namespace__attrs",
}
USED_ELSEWHERE = {  # not of a library: of Python, or of a value's own
    "_replace",  # of a named tuple
    "_asdict",
    "_initializing",  # of an import under way
    "_name_",  # of an enum's member
    "_value_",
    "_C",  # the module in which the names above are
}


def owner_of(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name) if name else importlib.import_module(module)


def has(owner: Any, name: str) -> bool:
    if hasattr(owner, name) or name in getattr(owner, "__slots__", ()):
        return True
    parts = owner.__mro__[:-1] if isinstance(owner, type) else [owner]
    return any(re.search(rf"\b{name}\b", inspect.getsource(part)) for part in parts)


@pytest.mark.parametrize(("where", "name"), [(w, n) for w, names in CONTRACT.items() for n in names.split()])
def test_the_name_is_there(where: str, name: str) -> None:
    assert has(owner_of(where), name), f"{where} has no {name} any more: find what took its place"


def test_every_library_with_a_private_name_is_bounded_above() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for library in {where.split(".")[0].split(":")[0] for where in CONTRACT}:
        (asked,) = re.findall(rf'"({library.replace("_", "-")}[<>=][^"]*)"', text)
        assert re.search(r",<\d", asked), f"{asked}: an upper bound is missing"


def private_names() -> dict[str, str]:
    """Every name that starts with one underscore and that no file of this package gives to something, and where it is
    used; and those called on `super()`."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")}
    own, used = set(), {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
                own.add(node.id if isinstance(node, ast.Name) else node.attr)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names, certain = [], False
            if isinstance(node, ast.Attribute):
                certain = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("loraweave"):
                private_module = any(part[:1] == "_" and part[:2] != "__" for part in (node.module or "").split("."))
                certain, names = private_module, [alias.name for alias in node.names]
            for name in names:
                hidden = name.startswith("_") and not name.startswith("__")
                if (certain and (hidden or isinstance(node, ast.ImportFrom))) or (hidden and name not in own):
                    used[name] = f"{path.relative_to(ROOT)}:{node.lineno}"
    return used


def test_every_private_name_is_listed() -> None:
    listed = {name for names in CONTRACT.values() for name in names.split()} | USED_ELSEWHERE
    missing = {name: place for name, place in private_names().items() if name not in listed}
    assert not missing, "private names of other libraries belong into this file's list"


def test_a_name_that_is_gone_is_told_with_what_to_do() -> None:
    import peft

    with pytest.raises(
        UserError,
        match=r"^peft \S+ has no peft\.peft_model\.PeftModel\._gone, which loraweave needs for "
        r"the hub: pip install 'peft.*', or upgrade loraweave$",
    ):
        private(peft.PeftModel, "_gone", "the hub")
    with pytest.raises(UserError, match=r"^peft \S+ has no peft\.utils\.hotswap\._gone, "):
        private(importlib.import_module("peft.utils.hotswap"), "_gone", "x")


@pytest.mark.parametrize(
    ("owner", "name", "purpose"),
    [
        ("peft.utils.hotswap", "hotswap_adapter_from_state_dict", "swapping adapters"),
        *(
            pytest.param(*one, marks=pytest.mark.long)
            for one in [
                ("peft.tuners.lora.conversion", "_convert_module_to_lora", "converted to LoRA"),
                ("transformers.utils.hub.PushToHubMixin", "_upload_modified_files", "cards of adapters"),
            ]
        ),
    ],
)
def test_the_method_works_without_a_convenience_and_says_so(owner: str, name: str, purpose: str) -> None:
    code = f"""
import warnings, peft, peft.utils.hotswap, torch, transformers.utils.hub
from operator import attrgetter
module, _, rest = {owner!r}.partition(".")
delattr(attrgetter(rest)(globals()[module]), {name!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import loraweave.tuner
told = [str(w.message) for w in caught if {name!r} in str(w.message)]
assert len(told) == 1 and {purpose!r} in told[0], [str(w.message) for w in caught]
model = torch.nn.Sequential(torch.nn.Linear(4, 4))
peft.get_peft_model(model, loraweave.WeaveConfig(r=2, target_modules=["0"]))(torch.zeros(1, 4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

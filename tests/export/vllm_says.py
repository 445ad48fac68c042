"""What vLLM says with exported LoRAs; run by a Python that has vLLM and neither this package nor these tests.

Arguments: a JSON file {base, rank, prompts: [[ids]], adapters: {name: folder}, tokens}, and the file to write:
{name: [{tokens: written greedily, logprobs: of each of them}]}. Log-probabilities of prompts are not asked for: with a
LoRA they end vLLM 0.32 on a CPU.
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def main() -> None:
    asked, answer = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    model = LLM(
        model=asked["base"],
        dtype="float32",
        enable_lora=True,
        max_lora_rank=asked["rank"],
        max_model_len=128,
        max_num_seqs=4,
        enforce_eager=True,
        gpu_memory_utilization=0.2,
    )
    how = SamplingParams(temperature=0.0, max_tokens=asked["tokens"], logprobs=1, ignore_eos=True)
    found = {}
    for number, (name, folder) in enumerate(asked["adapters"].items(), start=1):
        lora = LoRARequest(name, number, folder) if folder else None
        outputs = model.generate([{"prompt_token_ids": ids} for ids in asked["prompts"]], how, lora_request=lora)
        found[name] = [
            {
                "tokens": list(output.outputs[0].token_ids),
                "logprobs": [
                    each[token].logprob
                    for token, each in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
                ],
            }
            for output in outputs
        ]
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

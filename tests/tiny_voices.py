"""What voices say, alone and in a batch: for the tests of the server."""

import asyncio
import random

import torch
from peft import LoraConfig, get_peft_model
from tiny_adapters import adapted

from loraweave.serving.engine import Engine
from loraweave.serving.limits import Limits
from loraweave.serving.sampling import Asked
from loraweave.serving.voices import Speakers

LONGEST = 4
LIMITS = Limits(batch=5, context=40)


def adapter(base, name, **knobs):
    if name != "lora":
        return adapted(base, name, **knobs)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **knobs)).eval()
    draw(model)
    return model


def draw(model, adapter="default", seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name and adapter in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def prompts(count, seed=0):
    drawn = random.Random(seed)
    return [tuple(drawn.randrange(3, 64) for _ in range(drawn.randrange(1, 20))) for _ in range(count)]


def said_alone(model, voice, prompt):
    ids, task = list(prompt), {} if voice.task is None else {"tasks": voice.task}
    for _ in range(LONGEST):
        with torch.no_grad():
            if voice.adapter is None:
                with model.disable_adapter():
                    scores = model(input_ids=torch.tensor([ids])).logits
            else:
                model.set_adapter(voice.adapter)
                scores = model(input_ids=torch.tensor([ids]), **task).logits
        ids.append(int(scores[0, -1].argmax()))
    return ids[len(prompt) :]


def said_together(model, requests, told=Speakers):
    async def all_of_them():
        engine = Engine(told(model), LIMITS)
        engine.start()

        async def one(number, voice, prompt):
            await asyncio.sleep(0.01 * (number % 4))  # some come while others are answered
            async with engine.answering(Asked(prompt, voice, LONGEST, ())) as answer:
                async for _ in answer.tokens():
                    pass
                return answer.written

        try:
            return await asyncio.gather(*(one(i, *request) for i, request in enumerate(requests)))
        finally:
            await engine.stop()

    return asyncio.run(all_of_them())

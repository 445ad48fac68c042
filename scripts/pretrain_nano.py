"""Make the embedded base model, nano: tokenizer, pretraining, checkpoint.

    python scripts/pretrain_nano.py --corpus TEXTS --out FOLDER --compile     writes the model to FOLDER/model
    python scripts/pretrain_nano.py --corpus TEXTS --out FOLDER --score OTHER  bits per byte of another model, same text

TEXTS holds `*.txt.gz`, plain text. One part in ten of what the model reads is generated here: short lists of
`input -> output` lines that follow one hidden rule (copy, reverse, look up, add ...), so that a model of this size
learns to copy and to look back, which prose alone teaches slowly. The schedule is warm-up, constant, linear decay; a
checkpoint is kept on the way and the same command goes on from it.
"""

import argparse
import gzip
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT = 256  # tokens per training window; the model itself takes 1,024
BATCH = 32  # windows per step
SPECIAL = ["<pad>", "<s>", "</s>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


# --- text -----------------------------------------------------------------------------------------------------------


def read_corpus(folder: Path) -> list[str]:
    """Paragraph-aligned pieces of about 4,000 characters; one in seven of them in lower case."""
    rng, pieces = random.Random(0), []
    for path in sorted(folder.glob("*.txt.gz")):
        text = gzip.decompress(path.read_bytes()).decode().replace("\ufeff", "").replace("\r", "")
        piece: list[str] = []
        size = 0
        for line in text.split("\n"):
            piece.append(line)
            size += len(line) + 1
            if size > 4000:
                pieces.append("\n".join(piece))
                piece, size = [], 0
        pieces.append("\n".join(piece))
    rng.shuffle(pieces)
    return [p.lower() if rng.random() < 0.15 else p for p in pieces]


def pattern_document(rng: random.Random, words: list[str]) -> str:
    """One list of `input -> output` lines, all by the same rule."""
    some = lambda low, high: [rng.choice(words) for _ in range(rng.randint(low, high))]  # noqa: E731
    table = {word: rng.choice(words) for word in some(4, 8)}
    rules = {
        "copy": lambda: (lambda w: (" ".join(w), " ".join(w)))(some(1, 6)),
        "reverse": lambda: (lambda w: (" ".join(w), " ".join(reversed(w))))(some(2, 4)),
        "first": lambda: (lambda w: (" ".join(w), w[0]))(some(2, 5)),
        "last": lambda: (lambda w: (" ".join(w), w[-1]))(some(2, 5)),
        "upper": lambda: (lambda w: (" ".join(w), " ".join(w).upper()))(some(1, 3)),
        "spell": lambda: (lambda w: (w, " ".join(w)))(rng.choice(words)),
        "table": lambda: rng.choice(list(table.items())),
        "between": lambda: (lambda w: (f'{w[0]} "{w[1]} {w[2]}" {w[3]}', f"{w[1]} {w[2]}"))(some(4, 4)),
        "add": lambda: (lambda a, b: (f"{a} + {b}", str(a + b)))(rng.randint(0, 50), rng.randint(0, 49)),
        "next": lambda: (lambda a: (f"{a} {a + 1} {a + 2}", str(a + 3)))(rng.randint(0, 300)),
    }
    rule = rules[rng.choice(list(rules))]
    arrow = rng.choice([" -> ", " = ", ": ", "\n", " | "])
    return "\n".join(arrow.join(rule()) for _ in range(rng.randint(6, 14)))


def train_tokenizer(pieces: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; digits one by one, so that numbers have parts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(pieces, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=1024
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """One stream of token ids, `<s> text </s>` after `<s> text </s>`."""
    rows = tokenizer.backend_tokenizer.encode_batch(texts)
    return np.concatenate([np.array([1, *row.ids, 2], dtype=np.uint16) for row in rows])


def prepare(corpus: Path, out: Path) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """Tokenizer and training windows (n, CONTEXT + 1); the held-out text goes to `out`."""
    pieces = read_corpus(corpus)
    held_out, pieces = pieces[:60], pieces[60:]
    tokenizer = train_tokenizer(pieces)
    (out / "held_out.json").write_text(json.dumps(held_out))
    rng = random.Random(1)
    vocabulary = sorted({w for p in pieces[:400] for w in p.split() if w.isalpha() and 2 < len(w) < 9})
    stream = encode(tokenizer, pieces)
    generated: list[np.ndarray] = []
    while sum(map(len, generated)) < len(stream) / 9:
        generated.append(encode(tokenizer, [pattern_document(rng, vocabulary) for _ in range(2000)]))

    def windows(ids: np.ndarray) -> np.ndarray:
        count = (len(ids) - 1) // CONTEXT
        return np.stack([ids[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(count)])

    return tokenizer, np.concatenate([windows(stream), windows(np.concatenate(generated))])


# --- model and training ---------------------------------------------------------------------------------------------


def build_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def schedule(done: float) -> float:
    """Learning-rate factor at `done`, the share of all steps: warm-up 2 %, constant, linear decay from 70 % on."""
    return min(1.0, done / 0.02, (1.0 - done) / 0.3)


def loss_of(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(batch[:, :-1])
    return torch.nn.functional.cross_entropy(hidden.float().flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def bits_per_byte(folder: Path, out: Path) -> float:
    """How well a model predicts the held-out text, in a unit that does not depend on its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = json.loads((out / "held_out.json").read_text())
    ids = [i for text in texts for i in [1, *tokenizer(text, add_special_tokens=False).input_ids, 2]]
    rows = torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)
    size = sum(len(text.encode()) for text in texts) * rows.numel() / len(ids)
    nats = sum(model(input_ids=part, labels=part).loss.item() * len(part) for part in rows.split(BATCH))
    return nats * (CONTEXT - 1) / math.log(2) / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=16e6)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--compile", action="store_true", help="faster steps after a slow first one")
    parser.add_argument("--score", type=Path, help="only score the causal model in this folder on the held-out text")
    args = parser.parse_args()
    if args.score:
        print(json.dumps({"model": args.score.name, "bits_per_byte": bits_per_byte(args.score, args.out)}))
        return
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer, train = prepare(args.corpus, args.out)
    print(f"{len(train) * CONTEXT / 1e6:.1f}M tokens to read from", flush=True)
    model = build_model()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps = int(args.tokens / (BATCH * CONTEXT))
    first, checkpoint = 0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]

    backbone, head = model.model, model.lm_head

    def logits(ids: torch.Tensor) -> torch.Tensor:
        return head(backbone(input_ids=ids, use_cache=False).last_hidden_state)

    step_loss = torch.compile(loss_of) if args.compile else loss_of
    started, log = time.time(), (args.out / "log.jsonl").open("a")
    for step in range(first, steps):
        epoch, at = divmod(step * BATCH, len(train) - BATCH)
        order = np.random.default_rng(epoch).permutation(len(train))
        batch = torch.from_numpy(train[order[at : at + BATCH]].astype(np.int64))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * schedule((step + 1) / steps)
        loss = step_loss(logits, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            rate = (step - first + 1) * BATCH * CONTEXT / (time.time() - started)
            row = {"step": step, "of": steps, "loss": round(loss.item(), 4), "tokens_per_second": round(rate)}
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
        if step % 200 == 199:
            saved = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step + 1}
            torch.save(saved, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)

    model.to(torch.bfloat16).save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")
    result = {
        "bits_per_byte": bits_per_byte(args.out / "model", args.out),
        "tokens": steps * BATCH * CONTEXT,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    print(json.dumps(result), flush=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

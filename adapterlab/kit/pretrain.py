"""Make the embedded base model again: `python -m adapterlab.kit.pretrain --texts / --out FOLDER`.

Trains the tokenizer, then a causal LM of 0.92 M parameters on the generated skills of `tasks.py` and
on public-domain text, by steps and seed: about 15 minutes on one CPU thread. Needs the full texts
(`text.py` says where they are from), which do not ship with the package.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..provenance import provenance
from . import batches, tasks, text

VOCABULARY = 1024
END, PAD = "<|end|>", "<|pad|>"

# Rows per step and the skills they are drawn from; the losses are summed over all tokens.
MIX = (
    (64, ("add", "sub")),
    (32, ("sort", "reverse")),
    (48, ("write_sum", "first_or_second", "read", "read", "more_or_fewer")),  # read is the slowest to learn
)
TEXT_ROWS, TEXT_WIDTH = 8, 65


def train_tokenizer(paragraphs: list[str], seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token of its own: sums are then position by position."""
    rng = random.Random(seed)

    def corpus():
        yield from paragraphs
        for _ in range(4000):
            for task in tasks.SKILLS.values():
                yield "".join(task.draw(rng, False))

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, bpe.token_to_id(END))])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=PAD)


def new_model(tokenizer) -> LlamaForCausalLM:
    """Biases on q, k, v and o; k and v are 64 x 128, so that no chapter can get away with square layers."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=True,
        mlp_bias=False,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def rate_at(step: int, steps: int, peak: float) -> float:
    """Warm-up over 100 steps, flat to 60 %, linear to 1 %."""
    done = step / steps
    decay = 1.0 if done < 0.6 else 0.01 + 0.99 * (1 - (done - 0.6) / 0.4)
    return peak * min(1.0, (step + 1) / 100) * decay


@torch.no_grad()
def measure(model, tokenizer, held_out_text) -> dict[str, float]:
    """Exact match on 256 held-out examples of each skill, and nats per token on held-out text."""
    model.eval()
    scores = {}
    for name, task in tasks.SKILLS.items():
        batch = batches.encode(tokenizer, task.examples(256, seed=0, held_out=True))
        logits = model(input_ids=batch["input_ids"]).logits
        scores[name] = round(batches.exactly_right(logits, batch["labels"]).float().mean().item(), 4)
    rows = batches.text_rows(held_out_text, 64, TEXT_WIDTH, torch.Generator().manual_seed(0))
    loss = batches.answer_loss(model(input_ids=rows["input_ids"]).logits, rows["labels"])
    model.train()
    return scores | {"text_nats": round(loss.item(), 4)}


def pretrain(texts: Path, steps: int, seed: int, peak: float = 3e-3):
    """-> (model, tokenizer, log): the log has one row per 200 steps."""
    paragraphs = text.read_jargon(texts) + text.read_devil(texts)
    read = [p for p in paragraphs if not text.is_held_out(p)]
    held_out = [p for p in paragraphs if text.is_held_out(p)]

    torch.manual_seed(seed)
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rng.shuffle(read)
    tokenizer = train_tokenizer(read, seed)
    model = new_model(tokenizer)
    read, held_out = batches.token_stream(tokenizer, read), batches.token_stream(tokenizer, held_out)

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], peak, betas=(0.9, 0.98)
    )
    log, start = [], time.perf_counter()
    for step in (bar := tqdm(range(steps), unit="step")):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, peak)
        parts = [
            batches.encode(tokenizer, [tasks.SKILLS[rng.choice(names)].draw(rng, False) for _ in range(rows)])
            for rows, names in MIX
        ]
        parts.append(batches.text_rows(read, TEXT_ROWS, TEXT_WIDTH, generator))
        tokens = sum((part["labels"][:, 1:] != batches.IGNORE).sum() for part in parts)
        total = 0.0
        for part in parts:  # right-padded under a causal mask: no row sees its padding
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(input_ids=part["input_ids"]).logits
            total = total + batches.answer_loss(logits, part["labels"], reduction="sum")
        loss = total / tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            row = {"step": step + 1, "loss": round(loss.item(), 4), **measure(model, tokenizer, held_out)}
            log.append(row | {"seconds": round(time.perf_counter() - start)})
            bar.set_postfix(loss=row["loss"], add=row["add"], text=row["text_nats"])
    return model.eval(), tokenizer, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, default=Path("/"), help="folder with the Debian packages' files")
    parser.add_argument("--out", type=Path, default=Path("base"), help="where model, tokenizer and log go")
    parser.add_argument("--steps", type=int, default=3700)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # two threads on contended cores make a step seven times slower

    origin = provenance(f"python -m adapterlab.kit.pretrain --steps {args.steps} --seed {args.seed}", seed=args.seed)
    model, tokenizer, log = pretrain(args.texts, args.steps, args.seed)
    model.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "pretraining.json").write_text(json.dumps(origin | {"rows": log}, indent=1) + "\n")
    text.write_excerpts(args.texts, args.out / "text")


if __name__ == "__main__":
    main()

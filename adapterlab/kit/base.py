"""The base model that every chapter adapts, and how it is asked and scored."""

import os
from importlib import resources
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from . import batches, tasks
from .notebook import quiet

HELD_OUT_SEED = 99  # scores are always taken on the same examples
LOGITS_AT_ONCE = 2**26  # 256 MiB in float32; with a vocabulary of 150,000 all questions at once would be 6 GiB


def load_base(name: str | os.PathLike | None = None, dtype: torch.dtype = torch.float32, quantize: str | None = None):
    """A causal LM in eval mode and its tokenizer: the embedded one, or a hub model or folder by name.

    The embedded model (0.92 M parameters, in the package) needs no network. It adds, subtracts, sorts and
    reverses letters, and reads small stories: see `tasks.SKILLS`.

    Args:
        dtype: of the weights, or of the arithmetic on them where they are quantised.
        quantize: "nf4", "fp4" or "int8" stores the linear layers of the blocks so, through bitsandbytes.

    Returns:
        (model, tokenizer)

    Raises:
        ValueError: `quantize` is none of the above.
        FileNotFoundError: `name` is written as a path and no folder is there.
        ConnectionError: the hub cannot be reached, or has no such model.
    """
    folder = Path(str(resources.files("adapterlab.kit") / "data" / "base")) if name is None else _folder(name)
    quiet()
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # its rate would make every notebook's output differ
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **_quantized(quantize, dtype))
    finally:
        if was_on:
            logging.enable_progress_bar()
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def _quantized(kind: str | None, dtype: torch.dtype) -> dict:
    if kind is None:
        return {}
    if kind not in ("nf4", "fp4", "int8"):
        raise ValueError(f"quantize = {kind!r}: choose 'nf4', 'fp4' or 'int8', or None for dense weights")
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config}


def _folder(name: str | os.PathLike) -> Path:
    """A local folder as it is; a hub name as the folder it is downloaded to."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if isinstance(name, os.PathLike) or str(name).startswith((".", "/", "~")) or str(name).count("/") != 1:
        raise FileNotFoundError(f"there is no folder {name}: pass one, or a hub name such as 'owner/model', or nothing")
    from huggingface_hub import snapshot_download  # fails at once without a network; from_pretrained retries for 47 s

    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"{name} could not be fetched from the model hub ({type(error).__name__}): check the network and the name, "
            "or use the embedded base model, load_base(), which needs neither"
        ) from error


def answer(model, tokenizer: PreTrainedTokenizerFast, prompt: str, max_new_tokens: int = 24) -> str:
    """What the model answers, decoded greedily up to the end mark."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@torch.no_grad()
def evaluate(model, tokenizer, task: str | tasks.Task | tasks.Text, n: int = 256) -> dict[str, float | None]:
    """Score a skill, task or prose on n held-out examples, in eval mode.

    Args:
        task: its name, or one of your own.

    Returns:
        {"loss": nats per labelled token, "exact_match": share of answers right to the last token, None for prose}
    """
    found = tasks.get(task)
    batch = batches.held_out(found, tokenizer, n, HELD_OUT_SEED)
    rows = max(1, LOGITS_AT_ONCE // (batch["labels"].shape[1] * model.config.vocab_size))
    training = model.training
    model.eval()
    loss, labelled, right = 0.0, 0, 0.0
    for ids, mask, labels in zip(*(batch[name].split(rows) for name in ("input_ids", "attention_mask", "labels"))):
        ids, mask, labels = (tensor.to(model.device) for tensor in (ids, mask, labels))
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss += batches.answer_loss(logits, labels, reduction="sum").item()
        labelled += (labels[:, 1:] != batches.IGNORE).sum().item()
        right += batches.exactly_right(logits, labels).sum().item()
    model.train(training)
    return {"loss": loss / labelled, "exact_match": right / n if isinstance(found, tasks.Task) else None}

"""The path of lab 8: records, scores in pieces, and models of both hub architectures, small and untrained."""

import json
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

import adapterlab as al
from adapterlab import kit
from adapterlab.bench.costs import saved
from adapterlab.kit import base, batches, real_model, tasks
from adapterlab.kit.grade.lab8_real_model.planned import planned
from adapterlab.kit.records import FEW, RECORDS

VOCABULARY = 3000  # more than the tokenizer has: the logits shall weigh something
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
    "pad_token_id": None,
}
CONFIGS = {"qwen3": Qwen3Config(head_dim=32, **SMALL), "llama": LlamaConfig(**SMALL)}
each_architecture = pytest.mark.parametrize("name", CONFIGS)
each_variant = pytest.mark.parametrize("variant", [al.HRA(r=4), al.DoRA(r=4, alpha=8)], ids=lambda v: v.name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """As a hub model arrives: a folder, bfloat16, and here without a pad token."""
    found = {}
    _, tokenizer = kit.load_base()
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))
        found[name] = folder
    return found


def loaded(folders, name, dtype=torch.float32):
    model, tokenizer = kit.load_base(folders[name], dtype=dtype)
    assert tokenizer.pad_token_id is None
    return model, real_model.ready(tokenizer)


def one_batch(tokenizer, n=4):
    return next(batches.training(RECORDS, tokenizer, steps=1, n=n, seed=0))


# ---- records --------------------------------------------------------------------------------------


def test_records_are_what_the_stories_say():
    for prompt, answer in RECORDS.examples(100, 0, False) + RECORDS.examples(100, 0, True):
        name, _, had, item, again, verb, change, what = prompt.removesuffix(" Record:").replace(".", "").split()
        record = json.loads(answer)
        assert name == again and item == what == record["item"]
        assert record["change"] == (int(change) if verb in tasks.GAIN else -int(change)) and 10 <= int(had) < 100


def test_they_are_few_and_come_again_in_another_order():
    twice = RECORDS.examples(2 * FEW, 0, False)
    assert Counter(twice[:FEW]) == Counter(twice[FEW:]) == Counter(RECORDS.examples(FEW, 1, False))
    assert twice[:FEW] != twice[FEW:] and twice[:FEW] != RECORDS.examples(FEW, 1, False)
    assert len(RECORDS.examples(10, 0, False)) == 10 and len(set(twice)) > 0.95 * FEW


def test_no_record_shows_a_held_out_pair():
    def pairs(examples):
        return [(int(words[2]), int(words[6])) for words in (prompt.split() for prompt, _ in examples)]

    assert not any(tasks.pair_is_held_out(*pair) for pair in pairs(RECORDS.examples(FEW, 0, False)))
    assert all(tasks.pair_is_held_out(*pair) for pair in pairs(RECORDS.examples(200, 0, True)))


# ---- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["add_rev", "kjv", RECORDS], ids=lambda task: getattr(task, "name", task))
def test_a_score_in_pieces_is_the_score(task, monkeypatch):
    model, tokenizer = kit.load_base()
    whole = kit.evaluate(model, tokenizer, task, n=50)
    rows = []
    model.register_forward_pre_hook(lambda m, args, kw: rows.append(len(kw["input_ids"])), with_kwargs=True)
    monkeypatch.setattr(base, "LOGITS_AT_ONCE", 100_000)
    pieces = kit.evaluate(model, tokenizer, task, n=50)
    assert sum(rows) == 50 and len(rows) > 2
    assert pieces["exact_match"] == whole["exact_match"] and pieces["loss"] == pytest.approx(whole["loss"], rel=1e-5)


# ---- loading --------------------------------------------------------------------------------------


def test_without_a_name_or_a_gpu_it_is_the_embedded_base_and_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, why in ((None, "MODEL is None"), ("Qwen/Qwen3-0.6B", "no GPU here for Qwen/Qwen3-0.6B")):
        model, _, said = real_model.load(name)
        assert model.num_parameters() == 920_192 and why in said and "embedded base" in said


def test_without_a_network_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    for name, why in (("nobody/nothing", "could not be fetched"), ("./not/here", "no folder")):
        model, _, said = real_model.load(name)
        assert model.num_parameters() == 920_192 and why in said and "embedded base" in said


@pytest.mark.gpu
@each_architecture
def test_on_a_gpu(name, folders):
    model, tokenizer, said = real_model.load(str(folders[name]))
    assert model.device.type == "cuda" and tokenizer.pad_token_id is not None and "on " in said
    al.attach(model, al.HRA(r=4), targets=real_model.TARGETS)
    run = kit.train(model, tokenizer, RECORDS, steps=20, lr=5e-3, batch_size=8, live=False)
    assert run.evaluations[-1][2] < run.evaluations[0][2]


# ---- both architectures ---------------------------------------------------------------------------


@each_architecture
@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_lab_runs_on_it(name, variant, dtype, folders):
    model, tokenizer = loaded(folders, name, dtype)
    batch = one_batch(tokenizer)
    start = model(**batch).logits
    torch.manual_seed(0)
    adapter = al.attach(model, variant, targets=real_model.TARGETS)
    assert len(adapter.targets) == 3 * 7
    run = kit.train(model, tokenizer, RECORDS, steps=6, lr=1e-2, batch_size=8, evaluate_every=6, live=False)
    assert run.evaluations[-1][2] < run.evaluations[0][2]
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert isinstance(kit.answer(model, tokenizer, "Ann buys 12 plums. Record:", 8), str)
    with adapter.disabled():
        assert torch.equal(model(**batch).logits, start)


@each_architecture
@each_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_checkpointing_keeps_less_and_gives_the_same_gradients(name, variant, dtype, folders):
    gradients, kept = [], []
    for checkpointed in (False, True):
        model, tokenizer = loaded(folders, name, dtype)
        torch.manual_seed(0)
        adapter = al.attach(model, variant, targets=real_model.TARGETS)
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(0.1 * torch.randn_like(p))
        if checkpointed:
            real_model.checkpoint(model)
        model.train()
        batch = one_batch(tokenizer)
        batches.answer_loss(model(**batch).logits, batch["labels"]).backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
        kept.append(real_model.of(model, adapter).kept)
    assert all(torch.equal(a, b) for a, b in zip(*gradients))
    assert kept[1] < kept[0] / 4


# ---- the plan -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, parameters", [("Qwen/Qwen3-0.6B", 596_049_920), ("HuggingFaceTB/SmolLM2-135M", 134_515_008)]
)
def test_sizes_of_hub_models_are_theirs(name, parameters):
    found = real_model.sizes(name, al.LoRA(r=8))
    config = real_model.shapes()[name]()
    assert (found.parameters, found.vocabulary) == (parameters, config.vocab_size)
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    d, mlp = config.hidden_size, config.intermediate_size
    assert found.trained == config.num_hidden_layers * 8 * (2 * (d + q) + 2 * (d + kv) + 3 * (d + mlp))
    less = real_model.sizes(name, al.LoRA(r=8), checkpointing=True)
    assert 4 * d * config.num_hidden_layers < less.kept < found.kept / 5


@each_architecture
@each_variant
def test_what_a_token_keeps_is_the_same_with_and_without_numbers(name, variant, folders, monkeypatch):
    config = CONFIGS[name].to_dict()

    def shape(layers=5):
        return type(CONFIGS[name])(**{**config, "num_hidden_layers": layers, "layer_types": None})

    monkeypatch.setattr(real_model, "shapes", lambda: {name: shape})
    on_shapes = real_model.sizes(name, variant)
    model = AutoModelForCausalLM.from_config(shape())
    adapter = al.attach(model, variant, targets=real_model.TARGETS)
    assert real_model.of(model, adapter) == on_shapes

    def by_address(rows):  # as the bench counts, on real tensors
        class Embedded(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, x):
                ids = torch.zeros(rows, real_model.TOKENS, dtype=torch.long)
                return x + self.model(input_ids=ids, attention_mask=real_model.padded(ids), use_cache=False).logits

        model.train()
        return sum(t.untyped_storage().nbytes() for t in saved(Embedded(), torch.zeros(())))

    assert (by_address(2) - by_address(1)) // real_model.TOKENS == on_shapes.kept


@each_architecture
@each_variant
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_the_plan_foretells_what_a_step_needs(name, variant, checkpointed, folders):
    model, tokenizer = loaded(folders, name)
    adapter = al.attach(model, variant, targets=real_model.TARGETS)
    plain = real_model.of(model, adapter)
    here = plain
    if checkpointed:
        real_model.checkpoint(model)
        block = plain.kept / 3  # the one that is computed again
        less = real_model.of(model, adapter)
        here = real_model.Sizes(less.parameters, less.trained, round(less.kept + block), less.vocabulary)
    model.train()
    batch = one_batch(tokenizer, n=16)
    foretold = planned(here, batch["input_ids"].numel()) - planned(here, 0) + 4 * here.trained
    # Checkpointed, the block and the logits need not be there at once: then the plan is a bound from above.
    assert (0.7 if checkpointed else 0.85) * foretold < real_model.peak(model, batch) < 1.15 * foretold

"""The embedded base model, its tasks, and how it is scored."""

import json
import re
from importlib import resources

import pytest
import torch

from adapterlab import kit
from adapterlab.kit import batches, pretrain, tasks, text

DATA = resources.files("adapterlab.kit") / "data"


@pytest.fixture(scope="module")
def base():
    return kit.load_base()


def test_the_base_model_is_small_and_whole(base):
    model, _ = base
    assert sum(p.numel() for p in model.parameters()) == 920_192
    assert next(model.parameters()).dtype == torch.float32 and not model.training
    assert sum(file.stat().st_size for file in (DATA / "base").iterdir()) < 4_000_000


def test_the_recorded_scores_are_those_of_the_shipped_weights(base):
    """The last row of the pretraining log, computed again."""
    log = json.loads((DATA / "base" / "pretraining.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{40}", log["commit"]) and log["versions"]["torch"] and log["machine"]
    model, tokenizer = base
    stream = batches.token_stream(tokenizer, text.excerpt("jargon", held_out=True))
    again, recorded = pretrain.measure(model, tokenizer, stream), log["rows"][-1]
    model.eval()
    for skill in tasks.SKILLS:
        assert again[skill] == pytest.approx(recorded[skill], abs=0.02), skill  # fp16 storage, other processors
    assert again["text_nats"] == pytest.approx(recorded["text_nats"], abs=0.25)  # an excerpt of the same text


def test_it_answers_held_out_sums(base):
    assert kit.answer(*base, "57+28=") == "85"
    assert kit.evaluate(*base, "add")["exact_match"] > 0.98


def test_the_tasks_for_adapters_are_not_solved_yet(base):
    assert kit.evaluate(*base, "add_rev")["exact_match"] < 0.2
    assert kit.evaluate(*base, "sub_neg")["exact_match"] < 0.05
    assert kit.evaluate(*base, "sort_desc")["exact_match"] < 0.05


def test_prose_is_scored_by_loss_alone(base):
    jargon, kjv = kit.evaluate(*base, "jargon"), kit.evaluate(*base, "kjv")
    assert jargon["exact_match"] is kjv["exact_match"] is None
    assert jargon["loss"] + 0.3 < kjv["loss"] < 7


@pytest.mark.parametrize("task", ["add", "sub_neg", "sort"])
def test_teacher_forced_exact_match_is_that_of_greedy_decoding(base, task):
    model, tokenizer = base
    examples = tasks.get(task).examples(24, seed=1, held_out=True)
    batch = batches.encode(tokenizer, examples)
    forced = batches.exactly_right(model(input_ids=batch["input_ids"]).logits, batch["labels"])
    greedy = [kit.answer(model, tokenizer, prompt) == answer.strip() for prompt, answer in examples]
    assert forced.tolist() == greedy


def test_padding_changes_no_score(base):
    model, tokenizer = base
    short = [("57+28=", "85")]
    alone = batches.encode(tokenizer, short)
    beside = batches.encode(tokenizer, [*short, ("sort a b c d e f =", " a b c d e f")])
    a, b = (model(input_ids=x["input_ids"], attention_mask=x["attention_mask"]).logits[0] for x in (alone, beside))
    torch.testing.assert_close(a, b[: len(a)], atol=1e-4, rtol=1e-4)


def test_only_answers_are_labelled(base):
    _, tokenizer = base
    batch = batches.encode(tokenizer, [("57+28=", "85")])
    labels = batch["labels"][0]
    assert tokenizer.decode(labels[labels != batches.IGNORE]) == "85<|end|>"
    assert tokenizer.decode(batch["input_ids"][0]) == "<|end|>57+28=85<|end|>"


def test_every_digit_is_a_token(base):
    _, tokenizer = base
    assert tokenizer.convert_ids_to_tokens(tokenizer("1234").input_ids) == ["<|end|>", "1", "2", "3", "4"]


# ---- held out -------------------------------------------------------------------------------------


def numbers(prompt: str) -> tuple[int, int]:
    a, b = map(int, re.findall(r"\d+", prompt)[:2])
    return a, b


@pytest.mark.parametrize("name", ["add", "sub", "read", "write_sum", "first_or_second", "add_rev", "sub_neg"])
def test_no_training_example_shows_a_held_out_pair(name):
    task = tasks.get(name)
    assert not any(tasks.pair_is_held_out(*numbers(p)) for p, _ in task.examples(2000, seed=0, held_out=False))
    assert all(tasks.pair_is_held_out(*numbers(p)) for p, _ in task.examples(200, seed=0, held_out=True))


@pytest.mark.parametrize("name", ["sort", "reverse", "sort_desc", "more_or_fewer"])
def test_no_training_prompt_is_a_held_out_prompt(name):
    task = tasks.get(name)
    train = {p for p, _ in task.examples(3000, seed=0, held_out=False)}
    assert not train & {p for p, _ in task.examples(3000, seed=0, held_out=True)}


def test_the_running_examples_are_held_out():
    assert tasks.pair_is_held_out(57, 28) and tasks.pair_is_held_out(28, 57)
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    assert 0.09 < sum(tasks.pair_is_held_out(a, b) for a, b in pairs) / len(pairs) < 0.11


def test_answers_are_right():
    for prompt, answer in tasks.get("add").examples(50, 0, True):
        assert eval(prompt[:-1]) == int(answer)
    for prompt, answer in tasks.get("add_rev").examples(50, 0, True):
        assert str(eval(prompt[:-1])) == answer[::-1]
    for prompt, answer in tasks.get("sub_neg").examples(50, 0, True):
        assert eval(prompt[:-1]) == int(answer) <= 0
    for prompt, answer in tasks.get("sort_desc").examples(50, 0, True):
        assert answer.split() == sorted(prompt[5:-2].split(), reverse=True)


def test_a_seed_fixes_the_examples():
    task = tasks.get("read")
    assert task.examples(5, 7, True) == task.examples(5, 7, True) != task.examples(5, 8, True)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="'addd'.*add_rev"):
        tasks.get("addd")


@pytest.mark.parametrize("name", text.EXCERPTS)
def test_excerpts_are_small_and_their_parts_are_apart(name):
    train, held_out = text.excerpt(name, held_out=False), text.excerpt(name, held_out=True)
    assert all(map(text.is_held_out, held_out)) and not any(map(text.is_held_out, train))
    size = sum((DATA / "text" / f"{name}-{part}.txt").stat().st_size for part in ("train", "heldout"))
    assert 100_000 < size < 150_000


# ---- other models ---------------------------------------------------------------------------------


def test_a_hub_model_without_a_network_fails_with_a_sentence():
    with pytest.raises(ConnectionError, match="nobody/nothing could not be fetched.*load_base"):
        kit.load_base("nobody/nothing")


@pytest.mark.parametrize("name", ["./not/here", "/not/here", "a/b/c", "plain"])
def test_a_missing_folder_is_not_taken_for_a_hub_name(name):
    with pytest.raises(FileNotFoundError, match=re.escape(f"no folder {name}")):
        kit.load_base(name)


def test_a_folder_loads(base, tmp_path):
    model, tokenizer = base
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = kit.load_base(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


# ---- pretraining ----------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    """A folder like Debian's, with the shipped excerpts as its texts."""
    import gzip

    for path, paragraphs in {
        "usr/share/doc/jargon-text/jargon.txt.gz": text.excerpt("jargon", False) + text.excerpt("jargon", True),
        "usr/share/dictd/devil.dict.dz": text.excerpt("jargon", False)[:20],
    }.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(gzip.compress("\n\n".join(paragraphs).encode()))
    return tmp_path


def test_pretraining_is_fixed_by_steps_and_seed(texts):
    runs = [pretrain.pretrain(texts, steps=2, seed=0) for _ in range(2)]
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model, _, _ in runs]
    assert torch.equal(*weights)
    assert runs[0][1].get_vocab() == runs[1][1].get_vocab() and len(runs[0][1]) == pretrain.VOCABULARY
    assert runs[0][2][-1]["step"] == 2 and set(tasks.SKILLS) < set(runs[0][2][-1])


def test_pretraining_says_how_to_get_its_texts(tmp_path):
    with pytest.raises(SystemExit, match="apt-get install jargon-text"):
        pretrain.pretrain(tmp_path, steps=1, seed=0)

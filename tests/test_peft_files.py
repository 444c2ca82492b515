"""to_peft and from_peft: both ways with trained-like weights on the base model, as own form and as an ordinary LoRA."""

import copy
import json
import math
import random
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import adapterlab as al
from adapterlab import kit
from adapterlab.peft import CONFIG, TENSORS, from_peft, to_peft
from anatomy import bits, unchanged
from helpers import attach, far_from_start, linear, randn, relative, small_model, tiny_llama

TOKENS = torch.arange(3, 27).view(4, 6)
OWN_FORM = {
    "lora": al.LoRA(r=4, alpha=6),
    "rslora": al.LoRA(r=4, alpha=6, rslora=True),
    "pissa": al.PiSSA(r=4, alpha=6),
    "dora": al.DoRA(r=4, alpha=6),
    "delora": al.DeLoRA(r=4, lambda0=3.0),
    "ia3": al.IA3(),
    "ia3_ff": al.IA3FF(),
    "hra": al.HRA(r=4),
    "eva": al.EVA(r=4, alpha=6),
}
LOW_RANK = {
    **{name: OWN_FORM[name] for name in ("lora", "rslora", "pissa", "delora", "hra", "eva")},
    "delora-copy": al.DeLoRA(r=4, lambda0=3.0, start="copy", norm="scalar"),
    "antipasto": al.AntiPaSTO(r=8),
}


def each(variants):
    return pytest.mark.parametrize("variant", variants.values(), ids=variants)


@pytest.fixture(scope="module")
def base():
    return kit.load_base()[0]


def adapted(base, variant, dtype=torch.float32, **options):
    """A copy of the base model in dtype with the variant far from its start, but not so far that nothing is left."""
    model = copy.deepcopy(base).to(dtype)
    adapter = attach(model, variant, **options)
    start = [p.detach().clone() for p in adapter.parameters()]
    far_from_start(adapter)
    with torch.no_grad():
        for p, p0 in zip(adapter.parameters(), start, strict=True):
            p.lerp_(p0, 0.7)
    return model, adapter


def served(base, folder, dtype=torch.float32):
    return peft.PeftModel.from_pretrained(copy.deepcopy(base).to(dtype), str(folder)).eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


# ---- there ----------------------------------------------------------------------------------------


@each(OWN_FORM)
def test_peft_serves_what_we_trained(variant, base, tmp_path):
    model, _ = adapted(base, variant)
    to_peft(model, tmp_path)
    assert relative(logits(served(base, tmp_path)), logits(model)) < 1e-5
    assert relative(logits(model), logits(base)) > 1e-2


@each(LOW_RANK)
def test_an_ordinary_lora_serves_what_we_trained(variant, base, tmp_path):
    model, _ = adapted(base, variant)
    to_peft(model, tmp_path, as_lora=True)
    theirs = served(base, tmp_path)
    assert theirs.peft_config["default"].peft_type == "LORA" and not theirs.peft_config["default"].use_dora
    assert relative(logits(theirs), logits(model)) < 1e-5
    assert relative(logits(model), logits(base)) > 1e-2


@each(LOW_RANK)
def test_the_exported_difference_is_the_effective_weights(variant, tmp_path):
    model = small_model(torch.float64)
    adapter = far_from_start(attach(model, variant, dtype=torch.float64))
    to_peft(model, tmp_path, as_lora=True)
    tensors = load_file(tmp_path / TENSORS)
    for path in adapter.targets:
        layer = model.get_submodule(path)
        A, B = (tensors[f"base_model.model.{path}.lora_{factor}.weight"] for factor in "AB")
        assert A.dtype == torch.float64
        assert relative(layer.weight + B @ A, al.effective_weight(layer)[0]) < 1e-12


@each(OWN_FORM | LOW_RANK)
@pytest.mark.parametrize("as_lora", [False, True], ids=["own form", "as LoRA"])
def test_a_bf16_base_is_served_as_closely_as_ours_is(variant, as_lora, base, tmp_path):
    """Against float64 on the same bf16 weights: PEFT's error may be its own, but the file adds none to speak of."""
    model, adapter = adapted(base, variant, torch.bfloat16)
    if as_lora and variant not in LOW_RANK.values() or not as_lora and variant not in OWN_FORM.values():
        with pytest.raises(ValueError):
            to_peft(model, tmp_path, as_lora=as_lora)
        return
    to_peft(model, tmp_path, as_lora=as_lora)
    theirs = served(base, tmp_path, torch.bfloat16)
    for path in adapter.targets[:7]:
        x = randn(16, model.get_submodule(path).in_features, seed=1, dtype=torch.bfloat16)
        layer = model.get_submodule(path)
        W, b = al.effective_weight(layer)
        expected = nn.functional.linear(x.double(), W.double(), None if b is None else b.double())
        found = theirs.get_submodule(f"base_model.model.{path}")(x)
        assert relative(layer(x), expected) <= 1.5 * relative(found, expected) + 1e-7, path
        assert relative(found, expected) < 2e-2, path


@pytest.mark.parametrize("variant", [al.DoRA(r=4), al.IA3(), al.IA3FF()], ids=lambda v: v.name)
def test_what_has_full_rank_is_refused_as_lora(variant, tmp_path):
    model = small_model()
    attach(model, variant)
    with unchanged(model), pytest.raises(ValueError, match=f"{variant.name} on '0' is no LoRA.*full rank"):
        to_peft(model, tmp_path, as_lora=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variant, why",
    [
        (al.AntiPaSTO(r=4), "PEFT has no antipasto .*as_lora"),
        (al.DeLoRA(r=4, start="copy"), "start='copy'.*as_lora"),
        (al.DeLoRA(r=4, norm="scalar"), "norm='scalar'.*as_lora"),
    ],
    ids=["antipasto", "start", "norm"],
)
def test_what_peft_cannot_hold_is_refused(variant, why, tmp_path):
    model = small_model()
    attach(model, variant)
    with unchanged(model), pytest.raises(ValueError, match=why):
        to_peft(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_methods_do_not_go_into_one_folder_but_as_lora_they_do(tmp_path):
    model = small_model()
    for variant, targets in ((al.LoRA(r=4), "0"), (al.HRA(r=2), "2")):
        far_from_start(al.attach(model, variant, targets=targets))
    with pytest.raises(ValueError, match="hra and lora together"):
        to_peft(model, tmp_path)
    to_peft(model, tmp_path, as_lora=True)
    theirs, x = peft.PeftModel.from_pretrained(small_model(), str(tmp_path)), randn(5, 12, seed=1, dtype=torch.float32)
    assert relative(theirs(x), model(x)) < 5e-6


def test_a_model_without_an_adapter_and_a_bare_layer_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no adapter to export"):
        to_peft(small_model(), tmp_path)
    layer = linear(12, 20)
    al.attach(layer, al.LoRA(r=2))
    with pytest.raises(ValueError, match="bare layer"):
        to_peft(layer, tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    model = small_model()
    al.attach(model, al.LoRA(r=2))
    with unchanged(model), pytest.raises(al.AdapterFileError, match="file/folder"):
        to_peft(model, tmp_path / "file" / "folder")


# ---- which modules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, written",
    [
        ({"targets": r"(q|v)_proj$"}, ["q_proj", "v_proj"]),
        ({"targets": r"q_proj$", "layers": [1]}, ["model.layers.1.self_attn.q_proj"]),
    ],
    ids=["short names", "paths"],
)
def test_targets_are_written_by_the_names_that_runtimes_know(options, written, tmp_path):
    model = tiny_llama()
    al.attach(model, al.LoRA(r=2), **options)
    to_peft(model, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert sorted(config["target_modules"]) == written
    assert config["task_type"] == "CAUSAL_LM" and config["inference_mode"] is True


class Twice(nn.Module):
    """A path that is the end of another one: by names alone PEFT would adapt both."""

    def __init__(self):
        super().__init__()
        self.fc, self.inner = linear(12, 12, dtype=torch.float32), nn.Module()
        self.inner.fc = linear(12, 12, dtype=torch.float32, seed=5)

    def forward(self, x):
        return self.inner.fc(torch.tanh(self.fc(x)))


@pytest.mark.parametrize("variant", [al.LoRA(r=2), al.IA3(), al.IA3FF()], ids=lambda v: v.name)
@pytest.mark.parametrize("target", ["^fc$", r"^inner\.fc$"])
def test_a_path_that_ends_another_one(variant, target, tmp_path):
    model, x = Twice(), randn(5, 12, seed=1, dtype=torch.float32)
    far_from_start(al.attach(model, variant, targets=target))
    to_peft(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(Twice(), str(tmp_path))
    assert relative(theirs(x), model(x)) < 5e-6
    ours = Twice()
    from_peft(ours, tmp_path)
    assert torch.equal(ours(x), model(x))


def test_ia3_and_ia3_ff_share_a_configuration(base, tmp_path):
    model = copy.deepcopy(base)
    for variant, targets in ((al.IA3(), r"[kv]_proj$"), (al.IA3FF(), r"down_proj$")):
        far_from_start(al.attach(model, variant, targets=targets))
    to_peft(model, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert sorted(config["target_modules"]) == ["down_proj", "k_proj", "v_proj"]
    assert config["feedforward_modules"] == ["down_proj"]
    assert relative(logits(served(base, tmp_path)), logits(model)) < 1e-5
    ours = copy.deepcopy(base)
    adapter = from_peft(ours, tmp_path)
    assert torch.equal(logits(ours), logits(model)) and len(adapter.targets) == 12


@pytest.mark.parametrize("kind", [al.LoRA, al.DoRA, al.DeLoRA], ids=lambda kind: kind.name)
def test_ranks_and_alphas_that_differ_become_patterns_and_passes(kind, base, tmp_path):
    model = copy.deepcopy(base)
    fields = [{"r": 4, "alpha": 6}, {"r": 2, "alpha": 10}, {"r": 4, "alpha": 12}]
    for i, options in enumerate(fields):
        if kind is al.DeLoRA:
            options["lambda0"] = options.pop("alpha")
        far_from_start(al.attach(model, kind(**options), targets="proj", layers=[i]), seed=i)
    to_peft(model, tmp_path)
    assert relative(logits(served(base, tmp_path)), logits(model)) < 1e-5
    ours = copy.deepcopy(base)
    from_peft(ours, tmp_path)
    assert relative(logits(ours), logits(model)) < 1e-6
    al.save(ours, tmp_path / "both.safetensors")  # passes by rank and alpha are passes like any other
    again = copy.deepcopy(base)
    al.load(again, tmp_path / "both.safetensors")
    assert torch.equal(logits(again), logits(ours))


def test_eva_with_ranks_of_its_own_goes_there_and_back(base, tmp_path):
    model, adapter = adapted(base, al.EVA(r=4, alpha=6, rho=2.0))
    assert len({len(layer.adapter.lora_A) for layer in map(model.get_submodule, adapter.targets)}) > 1
    to_peft(model, tmp_path)
    assert relative(logits(served(base, tmp_path)), logits(model)) < 1e-5
    ours = copy.deepcopy(base)
    from_peft(ours, tmp_path)
    assert relative(logits(ours), logits(model)) < 1e-6


# ---- and back -------------------------------------------------------------------------------------


@each({name: variant for name, variant in OWN_FORM.items() if name not in ("pissa", "eva")})
def test_there_and_back_is_bit_for_bit(variant, base, tmp_path):
    model, adapter = adapted(base, variant)
    to_peft(model, tmp_path)
    ours = copy.deepcopy(base)
    back = from_peft(ours, tmp_path)
    assert back.targets == adapter.targets
    assert torch.equal(logits(ours), logits(model))
    for (name, p), (same, q) in zip(adapter.named_parameters(), back.named_parameters(), strict=True):
        assert name == same and torch.equal(p, q)
    assert {layer.adapter.variant for layer in map(ours.get_submodule, back.targets)} == {variant}


def pefts(base, config, dtype=torch.float32, seed=0):
    """A PEFT model with random weights in what it trains."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(base).to(dtype), config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return model


CONFIGS = {
    "lora": peft.LoraConfig(r=4, lora_alpha=6),
    "rslora": peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True),
    "patterns": peft.LoraConfig(
        r=4, lora_alpha=6, rank_pattern={"q_proj": 2, "1.mlp.up_proj": 8}, alpha_pattern={"v_proj": 3}
    ),
    "dora": peft.LoraConfig(r=4, lora_alpha=6, use_dora=True),
    "pissa": peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights="pissa"),
    "delora": peft.DeloraConfig(r=4, delora_lambda=3),
    "ia3": peft.IA3Config(feedforward_modules=["down_proj"]),
    "hra": peft.HRAConfig(r=4),
}


@pytest.mark.parametrize("variant", [*OWN_FORM.values(), al.AntiPaSTO(r=8)], ids=[*OWN_FORM, "antipasto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_trained_here_served_there_and_back(variant, dtype, base, tmp_path):
    """By real steps from the real start, on the base model."""
    model = copy.deepcopy(base).to(dtype)
    adapter = attach(model, variant)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=2e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    assert relative(logits(model), logits(copy.deepcopy(base).to(dtype))) > 0.05
    tolerance = 5e-6 if dtype == torch.float32 else 1.2e-2  # as far as both may be from the exact logits
    for as_lora in (False, True):
        if variant.name == "antipasto" and not as_lora or as_lora and variant not in [*LOW_RANK.values()]:
            continue
        to_peft(model, tmp_path / str(as_lora), as_lora=as_lora)
        assert relative(logits(served(base, tmp_path / str(as_lora), dtype)), logits(model)) < tolerance
        ours = copy.deepcopy(base).to(dtype)
        from_peft(ours, tmp_path / str(as_lora))
        assert relative(logits(ours), logits(model)) < tolerance


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_we_run_what_peft_trained(name, dtype, base, tmp_path):
    config = copy.deepcopy(CONFIGS[name])
    config.target_modules = {"q_proj", "v_proj", "up_proj", "down_proj"}
    theirs = pefts(base, config, dtype)
    theirs.save_pretrained(tmp_path)
    ours = copy.deepcopy(base).to(dtype)
    adapter = from_peft(ours, tmp_path)
    assert len(adapter.targets) == 16
    assert relative(logits(ours), logits(theirs)) < (2e-5 if dtype == torch.float32 else 5e-2)
    assert relative(logits(ours), logits(base)) > 1e-2
    adapter.detach()
    assert torch.equal(logits(ours), logits(copy.deepcopy(base).to(dtype)))


def test_peft_eva_comes_as_eva_with_its_ranks(base, tmp_path):
    options = {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=2.0)}
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], **options)
    theirs = pefts(base, config)
    theirs.save_pretrained(tmp_path)
    ours = copy.deepcopy(base)
    adapter = from_peft(ours, tmp_path)
    variants = {layer.adapter.variant for layer in map(ours.get_submodule, adapter.targets)}
    assert variants == {al.EVA(r=4, alpha=6, center=True, rho=2.0)}
    assert relative(logits(ours), logits(theirs)) < 1e-5


# ---- refused --------------------------------------------------------------------------------------


def written(folder, config=None, model=None):
    model = model or small_model()
    theirs = peft.get_peft_model(model, config or peft.LoraConfig(r=2, target_modules=["0", "2"]))
    theirs.save_pretrained(folder)
    return folder


def refused(folder, why, make=small_model):
    model = make()
    with unchanged(model), pytest.raises(al.AdapterFileError, match=why):
        from_peft(model, folder)


@pytest.mark.parametrize(
    "fields, why",
    [
        ({"lora_dropout": 0.1}, "lora_dropout = 0.1 .*set it to 0"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"lora_bias": True}, "lora_bias = True"),
        ({"modules_to_save": ["2"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_alpha": math.nan}, "alpha = nan"),
        ({"peft_type": "VERA"}, "PEFT's VERA: there is a variant for LORA"),
        ({"peft_type": "NONSENSE"}, "NONSENSE"),
    ],
    ids=str,
)
def test_options_that_change_the_equation_are_refused_by_name(fields, why, tmp_path):
    config = json.loads((written(tmp_path) / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | fields))
    refused(tmp_path, why)


def test_hra_with_gram_schmidt_or_an_odd_rank_is_refused(tmp_path):
    refused(written(tmp_path, peft.HRAConfig(r=2, apply_GS=True, target_modules=["0"])), "apply_GS = True")
    with pytest.warns(UserWarning, match="odd"):
        written(tmp_path, peft.HRAConfig(r=3, target_modules=["0"]))
    refused(tmp_path, "r = 3 is odd")


def test_embeddings_are_refused_by_name(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"])
    refused(written(tmp_path, config, tiny_llama()), "embed", tiny_llama)


def test_another_method_is_refused_by_name(tmp_path):
    refused(written(tmp_path, peft.VeraConfig(r=2, target_modules=["2"])), "VERA")


def test_another_model_is_refused(tmp_path):
    refused(written(tmp_path), "adapts '0'|adapts '2'", tiny_llama)
    wider = nn.Sequential(linear(14, 22, dtype=torch.float32), nn.Tanh(), linear(22, 8, dtype=torch.float32))
    refused(tmp_path, "'0' is .* this model needs", lambda: wider)


def test_missing_and_damaged_files(tmp_path):
    refused(tmp_path / "nowhere", "no file .*adapter_config.json")
    written(tmp_path)
    content = (tmp_path / TENSORS).read_bytes()
    (tmp_path / TENSORS).write_bytes(content[:-7])
    refused(tmp_path, "cannot be read as a safetensors file")
    (tmp_path / TENSORS).unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    refused(tmp_path, "no file .*adapter_model.safetensors .*pickle")
    for text in ("{", "[]", "{}", '{"peft_type": "LORA", "r": "many"}'):
        (tmp_path / CONFIG).write_text(text)
        (tmp_path / TENSORS).write_bytes(content)
        refused(tmp_path, ".")


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda t: t.pop("base_model.model.0.lora_B.weight"), "'0' has no lora_B"),
        (lambda t: t.update({"base_model.model.0.weight": torch.zeros(2)}), "no tensor of PEFT's LORA"),
        (lambda t: t.update({"base_model.model.1.lora_A.weight": torch.zeros(2, 2)}), "adapts '1'"),
        (lambda t: t["base_model.model.2.lora_A.weight"].fill_(math.nan), "not finite"),
        (lambda t: t.update({"base_model.model.0.lora_A.weight": torch.zeros(2)}), r"matrix of shape \(2,\)"),
        (lambda t: t.update({"base_model.model.0.lora_B.weight": torch.zeros(20, 3)}), r"\(20, 3\) in the file"),
        (lambda t: t.update({"base_model.model.0.lora_magnitude_vector": torch.ones(20)}), "use_dora is false"),
        (lambda t: t.clear(), "holds no tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, why, tmp_path):
    written(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    change(tensors)
    save_file(tensors, tmp_path / TENSORS)
    refused(tmp_path, why)


@pytest.mark.parametrize("name", ["lora", "dora", "pissa", "delora", "hra"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_tensor_in_another_dtype_takes_no_precision_from_the_others(name, dtype, tmp_path):
    config = copy.deepcopy(CONFIGS[name])
    config.target_modules = ["0", "2"]
    theirs = pefts(small_model(), config)
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    for path in ("0", "2"):
        first = next(key for key in sorted(tensors) if f".{path}." in key)
        tensors[first] = tensors[first].to(dtype)
    save_file(tensors, tmp_path / TENSORS)
    ours, x = small_model(), randn(6, 12, seed=1, dtype=torch.float32)
    from_peft(ours, tmp_path)
    assert relative(ours(x), peft.PeftModel.from_pretrained(small_model(), str(tmp_path))(x)) < 2e-5


WRONG = [
    None, True, 0, -1, 10**9, 2**63, 0.5, 1e308, math.nan, math.inf, "", "x", "(", "\ud800", "pissa", "LORA", [], [1],
    {}, {"0": 3}, {"0": "x"}, {"0": None}, {"0": {}}, {"(": 2}, {"0": 10**400},
]  # fmt: skip


@pytest.mark.parametrize("name", ["patterns", "dora", "pissa", "delora", "ia3", "hra"])
def test_doctored_folders_are_refused_or_served(name, tmp_path):
    """Any field of another kind, any tensor of another form: a sentence, or an adapter; nothing else, and no trace."""
    config = copy.deepcopy(CONFIGS[name])
    config.target_modules, loaded, refusals = ["0", "2"], 0, 0
    pefts(small_model(), config).save_pretrained(tmp_path)
    fields, tensors = json.loads((tmp_path / CONFIG).read_text()), load_file(tmp_path / TENSORS)
    folders = [(fields | {key: wrong}, tensors) for key in fields for wrong in WRONG if key != "auto_mapping"]
    forms = [torch.Tensor.int, torch.Tensor.half, torch.Tensor.flatten, lambda t: t[None], lambda t: t[:0].clone()]
    forms += [lambda t: torch.cat([t, t]), lambda t: t.t().contiguous(), lambda t: t.to(torch.float8_e5m2)]
    folders += [(fields, tensors | {key: form(t)}) for key, t in tensors.items() for form in forms if t.dim() < 3]
    folders += [(fields, {other: t for other, t in tensors.items() if other != key}) for key in tensors]
    model = small_model()
    before = bits(model)
    for fields, tensors in random.Random(0).sample(folders, 250):
        (tmp_path / CONFIG).write_text(json.dumps(fields))
        save_file(tensors, tmp_path / TENSORS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from_peft(model, tmp_path)
        except al.AdapterFileError as error:
            refusals += 1
            assert 4 <= len(str(error).split()) and len(str(error)) < 2000
        else:
            loaded += 1
            al.detach(model)
        assert bits(model) == before
    assert loaded > 20 and refusals > 20


def test_a_model_that_has_adapters_is_refused(tmp_path):
    written(tmp_path)
    model = small_model()
    al.attach(model, al.LoRA(r=2))
    with unchanged(model), pytest.raises(ValueError, match="adapters already"):
        from_peft(model, tmp_path)

"""attach, detach, disabled(), frozen(): what they change on a model, and that nothing of it stays."""

import importlib

import pytest
import torch
from torch import nn

import adapterlab as al
from anatomy import anatomy, bits, unchanged
from helpers import EXPECTED, FLOATS, IDS, VARIANTS, attach, far_from_start, randn, relative, small_model, tiny_llama

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


class Deep(nn.Module):
    """Three blocks of one layer, the last one too small for rank 4, and a head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 2), nn.Linear(2, 12)])
        self.lm_head = nn.Linear(12, 7)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.lm_head(x)


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


# ---- attach ---------------------------------------------------------------------------------------


@each_variant
def test_attach_adds_one_child_and_one_hook_to_each_target_and_nothing_else(variant):
    model = small_model()
    before = anatomy(model)
    attach(model, variant, targets="0")
    after = anatomy(model)
    assert set(after) - set(before) == {"0.adapter"}
    assert sum(after["0"].pop("hooks").values()) == 2  # the hook itself, and that it takes kwargs
    assert before["0"].pop("hooks") == {}
    assert after["0"].pop("children") == before["0"].pop("children") + ["adapter"]
    for path in before:  # flags apart, which freezing changes
        for kind in ("parameters", "buffers"):
            then = {name: (i, t and t[:3] + t[4:]) for name, (i, t) in before[path].pop(kind).items()}
            now = {name: (i, t and t[:3] + t[4:]) for name, (i, t) in after[path].pop(kind).items()}
            assert now == then
        assert after[path] == before[path]


@each_variant
def test_the_keys_of_the_base_stay_and_the_adapters_come_under_adapter(variant):
    model = small_model()
    before = list(model.state_dict())
    adapter = attach(model, variant)
    after = list(model.state_dict())
    assert [key for key in after if ".adapter." not in key] == before
    assert {key for key in after if ".adapter." in key} >= {name for name, _ in adapter.named_parameters()}


@each_variant
def test_only_the_adapter_is_trainable(variant):
    model = small_model()
    adapter = attach(model, variant, targets="2")
    assert {name for name, flag in flags(model).items() if flag} == {name for name, _ in adapter.named_parameters()}
    assert all(name.startswith("2.adapter.lora_") for name, _ in adapter.named_parameters())
    listed = list(adapter.parameters())
    assert [id(p) for p in listed] == [id(p) for _, p in adapter.named_parameters()]
    assert adapter.num_parameters == sum(p.numel() for p in listed) > 0
    assert isinstance(adapter.num_parameters, int)


@each_variant
def test_names_are_those_of_the_model(variant):
    model = small_model()
    adapter = attach(model, variant)
    named = dict(model.named_parameters())
    assert all(named[name] is p for name, p in adapter.named_parameters())


def test_a_parameter_that_the_user_freezes_is_no_longer_listed():
    model = small_model()
    adapter = attach(model, al.LoRA(r=2))
    model[0].adapter.lora_A.requires_grad_(False)
    assert "0.adapter.lora_A" not in dict(adapter.named_parameters())
    assert adapter.num_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)


@each_variant
def test_a_bare_layer_is_a_model(variant):
    layer = nn.Linear(6, 5)
    with unchanged(layer):
        adapter = attach(layer, variant)
        assert adapter.targets == ("",)
        assert all(name.startswith("adapter.lora_") for name, _ in adapter.named_parameters())
        adapter.detach()


def test_targets_are_in_model_order_whatever_the_order_of_the_patterns():
    adapter = attach(tiny_llama(), al.LoRA(r=2), targets=["v_proj$", "q_proj$"])
    paths = [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qv"]
    assert adapter.targets == tuple(paths)


def test_targets_none_takes_every_layer_but_the_excluded():
    model = Deep()
    assert attach(model, al.LoRA(r=1)).targets == ("blocks.0", "blocks.1", "blocks.2")
    al.detach(model)
    assert attach(model, al.LoRA(r=1), exclude="blocks").targets == ("lm_head",)
    al.detach(model)
    assert attach(model, al.LoRA(r=1), exclude=()).targets == ("blocks.0", "blocks.1", "blocks.2", "lm_head")
    al.detach(model)
    assert attach(model, al.LoRA(r=1), targets="head").targets == ("lm_head",)  # exclude applies to None only


def test_layers_chooses_blocks():
    assert attach(Deep(), al.LoRA(r=1), layers=[0, 2]).targets == ("blocks.0", "blocks.2")
    assert attach(tiny_llama(), al.LoRA(r=2), targets="q_proj", layers=range(1, 9)).targets == (
        "model.layers.1.self_attn.q_proj",
    )


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compile", "DataParallel"])
def test_prefixes_of_wrappers_are_left_out(wrap):
    model = small_model()
    adapter = attach(wrap(model), al.LoRA(r=2))
    assert adapter.targets == ("0", "2")
    assert [name for name, _ in adapter.named_parameters()] == [
        name for name, p in model.named_parameters() if p.requires_grad
    ]
    with pytest.raises(ValueError, match="adapter already"):
        attach(model, al.LoRA(r=2))
    al.detach(model)  # the same model, seen from inside the wrapper
    assert not any(hasattr(module, "adapter") for module in model.modules())


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtype_is_that_of_the_parameters(variant, dtype):
    adapter = attach(small_model(), variant, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    for name, p in adapter.named_parameters():
        full = name.rsplit(".", 1)[1] in EXPECTED[variant.name].full_precision
        assert p.dtype == (wide if full else dtype), name


@each_variant
def test_parameters_are_float32_on_a_bf16_base(variant):
    adapter = attach(small_model(torch.bfloat16), variant)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}


@each_variant
@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, "float32", None])
def test_another_dtype_is_refused(variant, dtype):
    model = small_model()
    with unchanged(model), pytest.raises(ValueError, match="dtype = .*float16"):
        attach(model, variant, dtype=dtype)


@pytest.mark.parametrize("thing", [al.LoRA, "lora", None, {"r": 8}])
def test_what_is_no_variant_is_refused(thing):
    model = small_model()
    with unchanged(model), pytest.raises(TypeError, match="no variant"):
        attach(model, thing)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.data == "none"], ids=lambda v: v.name)
def test_calibration_data_that_nobody_reads_is_refused(variant):
    model = small_model()
    with unchanged(model), pytest.raises(ValueError, match=f"{variant.name} takes no calibration data"):
        attach(model, variant, calibration_data=[torch.zeros(1, 12)])


@each_variant
def test_a_layer_takes_one_adapter(variant):
    model = small_model()
    attach(model, variant, targets="2")
    with unchanged(model), pytest.raises(ValueError, match="'2'.*adapter already"):
        attach(model, al.LoRA(r=1))


@pytest.mark.parametrize("variant", [al.LoRA(r=4), al.DoRA(r=4), al.HRA(r=4)], ids=lambda v: v.name)
def test_a_failing_attach_changes_nothing(variant):
    model = Deep()
    model.blocks[0].bias.requires_grad_(False)
    with unchanged(model), pytest.raises(ValueError, match=r"'blocks.1'.*r = 4.*min\(d_in, d_out\) = 2"):
        attach(model, variant)


def test_an_interrupt_while_hooks_are_put_on_changes_nothing(monkeypatch):
    model = small_model()
    attach(model, al.LoRA(r=2), targets="0")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(model[2], "register_forward_hook", interrupted)
    with unchanged(model), pytest.raises(KeyboardInterrupt):
        attach(model, al.LoRA(r=2), targets="2")


def test_the_children_of_multihead_attention_that_are_never_called_are_left_out():
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    assert attach(model, al.LoRA(r=2)).targets == ("linear1", "linear2")
    al.detach(model)
    # Named, it is refused with the reason, among other matches too; in blocks that were not asked for it is not meant.
    for targets in ("out_proj", "linear|proj", ["linear1", r"attn\.out_proj$"], "."):
        with unchanged(model), pytest.raises(ValueError, match="names 'self_attn.out_proj', .*never calls the layer"):
            attach(model, al.LoRA(r=2), targets=targets)
    stack = nn.TransformerEncoder(model, 2)
    with pytest.raises(ValueError, match=r"names 'layers.1.self_attn.out_proj', where"):
        attach(stack, al.LoRA(r=2), targets="linear1|out_proj", layers=[1])
    with pytest.raises(ValueError, match="names 'out_proj', .*never calls"):
        attach(model.self_attn, al.LoRA(r=2), targets="out_proj")
    assert attach(stack, al.LoRA(r=2), targets="linear1", layers=[1]).targets == ("layers.1.linear1",)


def test_an_out_proj_that_another_library_put_into_multihead_attention_is_not_called_either():
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model.self_attn.out_proj = nn.Linear(8, 8)
    assert attach(model, al.LoRA(r=2)).targets == ("linear1", "linear2")
    al.detach(model)
    with pytest.raises(ValueError, match="'self_attn.out_proj'.*never calls"):
        attach(model, al.LoRA(r=2), targets="out_proj")


def test_attention_that_calls_its_out_proj_is_adapted():
    class Calls(nn.MultiheadAttention):
        def __init__(self):
            super().__init__(8, 2)
            self.out_proj = nn.Linear(8, 8)

        def forward(self, x):
            return self.out_proj(x)

    model, x = Calls(), randn(3, 8, seed=1, dtype=torch.float32)
    base = model(x)
    assert far_from_start(attach(model, al.LoRA(r=2), targets="out_proj")).targets == ("out_proj",)
    assert relative(model(x), base) > 0.05


@each_variant
def test_the_fused_path_of_a_transformer_layer_does_not_go_past_the_adapter(variant):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    far_from_start(attach(model, variant))
    with torch.no_grad():
        adapted = model(x)  # in eval mode without gradients torch reads the weights itself, unless there are hooks
    al.merge(model)
    assert relative(adapted, model(x)) < 5e-6


@each_variant
def test_a_padded_batch_in_a_transformer_encoder(variant):
    """Without gradients torch packs it into a nested tensor on its way, which every layer is then given."""
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2).eval()
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    options = {"calibration_data": [torch.randn(4, 5, 8)]} if variant.data == "required" else {}
    with torch.no_grad():
        base = model(x, src_key_padding_mask=padding)
        adapter = far_from_start(attach(model, variant, **options))
        adapted = model(x, src_key_padding_mask=padding)
        with adapter.frozen():
            assert torch.equal(model(x, src_key_padding_mask=padding), adapted)
        model.use_nested_tensor = False
        plain = model(x, src_key_padding_mask=padding).masked_fill(padding[..., None], 0)
        assert relative(adapted, plain) < 5e-6 and relative(adapted, base) > 0.05
        model.use_nested_tensor = True
        al.detach(model)
        assert torch.equal(model(x, src_key_padding_mask=padding), base)


# ---- detach ---------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_detach_gives_back_the_base_to_the_bit(variant, dtype):
    model, x = small_model(dtype), randn(5, 12, seed=1, dtype=dtype)
    base = model(x)
    with unchanged(model):
        adapter = far_from_start(attach(model, variant))
        model(x).float().sum().backward()
        assert relative(model(x), base) > 0.05
        al.detach(model)
    assert torch.equal(model(x), base)
    assert adapter.num_parameters == 0 and "detached" in repr(adapter)


@each_variant
def test_flags_come_back_as_they_were(variant):
    model = small_model()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    before = flags(model)
    attach(model, variant)
    model[0].weight.requires_grad_(True)  # toggled in between: detach knows what was before attach
    al.detach(model)
    assert flags(model) == before


@each_variant
@pytest.mark.parametrize("first", [0, 1])
def test_two_passes_leave_in_either_order(variant, first):
    model = small_model()
    model[0].bias.requires_grad_(False)
    x = randn(3, 12, seed=2, dtype=torch.float32)
    with unchanged(model):
        passes = [attach(model, variant, targets="0"), attach(model, al.LoRA(r=2), targets="2")]
        for i, adapter in enumerate(passes):
            far_from_start(adapter, seed=i)
        assert passes[1].targets == ("2",) and {n.split(".")[0] for n, _ in passes[0].named_parameters()} == {"0"}
        passes[first].detach()
        assert not hasattr(model[2 * first], "adapter") and hasattr(model[2 - 2 * first], "adapter")
        assert [name for name, flag in flags(model).items() if flag] == [
            name for name, _ in passes[1 - first].named_parameters()
        ]
        with passes[1 - first].disabled():
            alone = model(x)
        passes[1 - first].detach()
        assert torch.equal(model(x), alone)


def test_passes_are_numbered_as_they_come():
    model = Deep()
    for path in ("blocks.2", "blocks.0", "blocks.1"):
        attach(model, al.LoRA(r=1), targets=path)
    assert [block.adapter.order for block in model.blocks] == [1, 2, 0]


@each_variant
def test_detach_model_takes_every_pass(variant):
    model = small_model()
    with unchanged(model):
        attach(model, variant, targets="0")
        attach(model, variant, targets="2")
        al.detach(model)


@each_variant
def test_attach_again_after_detach(variant):
    model = small_model()
    with unchanged(model):
        for _ in range(2):
            attach(model, variant).detach()


def test_detach_without_an_adapter_is_harmless():
    model = small_model()
    with unchanged(model):
        al.detach(model)


@each_variant
def test_with_detaches_on_exit(variant):
    model = small_model()
    with unchanged(model):
        with attach(model, variant) as adapter:
            assert adapter.targets == ("0", "2")
            assert hasattr(model[0], "adapter")
    with unchanged(model), pytest.raises(KeyError):
        with attach(model, variant):
            raise KeyError


@each_variant
def test_with_takes_its_own_pass_only(variant):
    model = small_model()
    attach(model, variant, targets="0")
    with unchanged(model), attach(model, variant, targets="2"):
        pass
    assert hasattr(model[0], "adapter")


@each_variant
def test_with_after_a_manual_detach_is_harmless(variant):
    model = small_model()
    with unchanged(model), attach(model, variant) as adapter:
        adapter.detach()
    with unchanged(model), attach(model, variant):
        al.detach(model)


def test_another_root_is_refused_before_anything_changes(tmp_path):
    model = nn.Sequential(small_model(), nn.Linear(8, 6))
    adapter = attach(model, al.LoRA(r=2), targets=["^0.0", "^1"])
    part = model[0]
    for act in (
        lambda: al.detach(part),
        lambda: al.merge(part),
        lambda: al.save(part, tmp_path / "x.safetensors"),
        lambda: attach(part, al.LoRA(r=2), targets="2"),
    ):
        with unchanged(model), pytest.raises(ValueError, match="'0'.*adapted as '0.0'"):
            act()
    adapter.detach()
    attach(part, al.LoRA(r=2), targets="0")
    with unchanged(model), pytest.raises(ValueError, match="'0.0'.*adapted as '0'"):
        al.detach(model)


def test_what_was_compiled_is_forgotten_when_hooks_come_and_when_they_go(monkeypatch):
    """torch.compile does not guard hooks. What that leads to, test_compile.py shows."""
    importlib.import_module("torch._dynamo")  # as if something had been compiled
    resets = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(True))
    model = small_model()
    for act in (lambda: attach(model, al.LoRA(r=2)), lambda: al.detach(model)) * 2:
        resets.clear()
        act()
        assert resets == [True]


# ---- disabled() -----------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_disabled_is_the_base_to_the_bit(variant, dtype):
    model, x = small_model(dtype), randn(5, 12, seed=1, dtype=dtype)
    base = model(x)
    adapter = far_from_start(attach(model, variant))
    adapted = model(x)
    with adapter.disabled() as inside:
        assert inside is adapter
        assert torch.equal(model(x), base)
        with adapter.disabled():
            assert torch.equal(model(x), base)
        assert torch.equal(model(x), base)  # the inner exit did not switch it on
    assert torch.equal(model(x), adapted)


@each_variant
def test_disabled_ends_with_an_exception(variant):
    model, x = small_model(), randn(5, 12, seed=1, dtype=torch.float32)
    adapter = far_from_start(attach(model, variant))
    adapted = model(x)
    with pytest.raises(KeyError), adapter.disabled():
        raise KeyError
    assert torch.equal(model(x), adapted)


@each_variant
def test_disabled_switches_its_own_pass_only(variant):
    model, x = small_model(), randn(5, 12, seed=1, dtype=torch.float32)
    first = far_from_start(attach(model, variant, targets="0"))
    only_first = model(x)
    second = far_from_start(attach(model, variant, targets="2"))
    with second.disabled():
        assert torch.equal(model(x), only_first)
        with first.disabled():
            inside = model(x)
    al.detach(model)
    assert torch.equal(model(x), inside)


# ---- frozen() -------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_frozen_gives_the_same_bits(variant, dtype):
    model, x = small_model(dtype), randn(5, 12, seed=1, dtype=dtype)
    adapter = far_from_start(attach(model, variant))
    with torch.no_grad():
        outside = model(x)
        with adapter.frozen() as inside:
            assert inside is adapter
            assert torch.equal(model(x), outside)
    with torch.inference_mode(), adapter.frozen():
        assert torch.equal(model(x), outside)


@each_variant
def test_frozen_refuses_gradients(variant):
    model, x = small_model(), randn(5, 12, seed=1, dtype=torch.float32)
    adapter = attach(model, variant)
    with adapter.frozen():
        with pytest.raises(RuntimeError, match="frozen"):
            model(x)
        with adapter.disabled():
            model(x)  # nothing of the adapter runs
    model(x).sum().backward()


@each_variant
def test_what_is_edited_inside_frozen_is_seen_after_it(variant):
    model, x = small_model(), randn(5, 12, seed=1, dtype=torch.float32)
    adapter = far_from_start(attach(model, variant))
    for _, p in adapter.named_parameters():
        with torch.no_grad():
            before = model(x)
            with adapter.frozen():
                p.mul_(1.5).add_(0.1)
                assert torch.equal(model(x), before)
            assert relative(model(x), before) > 1e-4


@each_variant
def test_frozen_nests_and_drops_what_it_prepared_also_after_an_exception(variant):
    model, x = small_model(), randn(5, 12, seed=1, dtype=torch.float32)
    adapter = far_from_start(attach(model, variant))
    with unchanged(model), torch.no_grad():
        outside = model(x)
        with pytest.raises(KeyError), adapter.frozen():
            with adapter.frozen():
                assert torch.equal(model(x), outside)
            assert torch.equal(model(x), outside)
            assert all(model[i].adapter.prepared is not None for i in (0, 2))
            raise KeyError
    assert all(model[i].adapter.prepared is None for i in (0, 2))


@each_variant
def test_frozen_inside_autocast_prepares_in_float32(variant):
    model, x = small_model(), randn(5, 12, seed=1, dtype=torch.float32)
    adapter = far_from_start(attach(model, variant))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outside = model(x)
        with adapter.frozen():
            assert torch.equal(model(x), outside)


# ---- no cache -------------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_parameter_edited_in_place_in_eval_mode_is_seen_at_once(variant, dtype):
    model, x = small_model(dtype), randn(5, 12, seed=1, dtype=dtype)
    adapter = far_from_start(attach(model, variant, dtype=dtype))
    with torch.no_grad():
        for seed, (name, p) in enumerate(adapter.named_parameters()):
            before = model(x)
            p.copy_(p * 1.5 + 0.2 * randn(*p.shape, seed=50 + seed, dtype=dtype))
            after = model(x)
            assert relative(after, before) > 1e-3, name
            (W0, b0), (W2, b2) = al.effective_weight(model[0]), al.effective_weight(model[2])
            dense = torch.tanh(x @ W0.T + b0) @ W2.T + b2
            assert relative(after, dense) < (1e-9 if dtype == torch.float64 else 5e-6), name


# ---- effective_weight, coefficient, repr ----------------------------------------------------------


@each_variant
def test_effective_weight_wants_an_adapted_layer(variant):
    model = small_model()
    with pytest.raises(ValueError, match="this Linear has no adapter"):
        al.effective_weight(model[0])
    attach(model, variant, targets="2")
    with pytest.raises(ValueError, match="this Linear has no adapter"):
        al.effective_weight(model[0])
    W, b = al.effective_weight(model[2])
    assert W.shape == (8, 20) and b.shape == (8,)


@each_variant
def test_effective_weight_drops_to_no_autocast(variant):
    layer = small_model()[0]
    far_from_start(attach(layer, variant))
    expected = al.effective_weight(layer)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(al.effective_weight(layer)[0], expected)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.steerable], ids=lambda v: v.name)
def test_coefficient_names_the_variant_that_has_none(variant):
    adapter = attach(small_model(), variant)
    with pytest.raises(AttributeError, match=f"coefficient.*{variant.name}"):
        _ = adapter.coefficient
    with pytest.raises(AttributeError, match=f"coefficient.*{variant.name}"):
        adapter.coefficient = -1.0
    assert not hasattr(adapter, "coefficient")


@each_variant
def test_repr_says_what_is_attached(variant):
    adapter = attach(small_model(), variant)
    assert repr(variant) in repr(adapter) and "2 layers" in repr(adapter)
    assert f"{adapter.num_parameters:,}" in repr(adapter)


# Calibration runs the model as the caller would, in autocast if there is one: EVA may then start elsewhere.
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.data != "required"], ids=lambda v: v.name)
def test_attach_inside_autocast_starts_as_it_does_outside(variant):
    model = small_model()
    torch.manual_seed(3)
    attach(model, variant)
    expected = bits(model)
    al.detach(model)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        attach(model, variant)
    assert bits(model) == expected

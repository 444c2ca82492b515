"""accelerate keeps the weights elsewhere: all is as on a model that is not offloaded, or is refused in a sentence."""

import copy

import pytest
import torch
from torch import nn

import adapterlab as al
from adapterlab import peft
from adapterlab.checkpoint import restore
from adapterlab.layer import adapted_layers
from anatomy import bits
from helpers import IDS, VARIANTS, attach, calibration, expected, far_from_start, linear, randn, relative, small_model

accelerate = pytest.importorskip("accelerate")
remove_hooks = accelerate.hooks.remove_hook_from_submodules

X = randn(6, 12, seed=1, dtype=torch.float32)
TOKENS = torch.tensor([[3, 14, 15, 9], [2, 6, 5, 35]])

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
each_kind = pytest.mark.parametrize("kind", ["cpu", "disk", "mixed"])
each_order = pytest.mark.parametrize("order", ["before", "after"])


def offloaded(model, kind, folder, **options):
    """To the CPU's memory, to files, or the last layer to a file while the first stays."""
    if kind == "cpu":
        return accelerate.cpu_offload(model, **options)
    if kind == "disk":
        return accelerate.disk_offload(model, folder, **options)
    where = {"0": "cpu", "1": "cpu", "2": "disk"}
    return accelerate.dispatch_model(model, where, main_device="cpu", offload_dir=folder, **options)


def whole(variant):
    """A model that is not offloaded, adapted far from its start."""
    model = small_model()
    far_from_start(attach(model, variant))
    return model


def adapted(variant, kind, order, folder, **options):
    """The same model, offloaded after or before the adapter came."""
    model = small_model()
    if order == "after":
        offloaded(model, kind, folder, **options)
    adapter = far_from_start(attach(model, variant))
    if order == "before":
        offloaded(model, kind, folder, **options)
    return model, adapter


def absent(model):
    return [name for name, tensor in model.state_dict(keep_vars=True).items() if tensor.is_meta]


def kept(model):
    """What accelerate holds of the base layers that it has offloaded."""
    return {
        f"{path}.{name}": model.get_submodule(path)._hf_hook.weights_map[name].clone()
        for path in ("0", "2")
        for name, parameter in model.get_submodule(path)._parameters.items()
        if parameter.is_meta
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- forward, backward ----------------------------------------------------------------------------


@each_variant
@each_kind
@each_order
@pytest.mark.parametrize("buffers", [False, True], ids=["", "buffers too"])
def test_outputs_are_those_of_the_model_that_is_not_offloaded(variant, kind, order, buffers, tmp_path):
    model, adapter = adapted(variant, kind, order, tmp_path, offload_buffers=buffers)
    base, twin = small_model(), whole(variant)
    missing = absent(model)
    assert {"2.weight", "2.bias"} <= set(missing) and ("0.weight" in missing) == (kind != "mixed")
    assert any("adapter" in name for name in missing) == (order == "before")
    with torch.no_grad():
        assert torch.equal(model(X), twin(X))
        assert torch.equal(model(X), twin(X))  # nothing is left over from the first
        with adapter.disabled():
            assert torch.equal(model(X), base(X))
        with adapter.frozen():
            assert torch.equal(model(X), twin(X))
        assert torch.equal(model(X), twin(X))
    assert absent(model) == missing


@each_variant
@each_kind
def test_what_is_attached_to_an_offloaded_model_starts_as_on_any_other(variant, kind, tmp_path):
    model, twin = offloaded(small_model(), kind, tmp_path), small_model()
    base = model(X)
    for one in (model, twin):
        torch.manual_seed(0)
        attach(one, variant)
    assert relative(model(X), base) <= expected(variant).identity
    ours = {name: tensor for name, tensor in bits(twin).items() if "adapter" in name}
    assert bits_of_adapters(model) == ours


def bits_of_adapters(model):
    return {
        f"{layer.adapter.path}.adapter.{name}": t
        for layer in adapted_layers(model)
        for name, t in bits(layer.adapter).items()
    }


@pytest.mark.parametrize(
    "variant",
    [
        al.EVA(r=4, alpha=6, rho=2.0, center=True),
        al.AntiPaSTO(r=4, block_size=2),
        al.DeLoRA(r=4, start="copy", norm="scalar"),
    ],
    ids=["eva", "antipasto", "delora"],
)
@each_kind
def test_starts_from_data_and_copies_of_the_start(variant, kind, tmp_path):
    model, twin = offloaded(small_model(), kind, tmp_path), small_model()
    for one in (model, twin):
        torch.manual_seed(0)
        al.attach(one, variant, calibration_data=calibration(twin) if variant.data != "none" else None)
    assert bits_of_adapters(model) == bits_of_adapters(twin)
    assert torch.equal(model(X), twin(X))


@each_variant
@each_kind
def test_an_adapter_that_comes_after_is_trained_as_any_other(variant, kind, tmp_path):
    model, adapter = adapted(variant, kind, "after", tmp_path)
    twin = whole(variant)
    held = kept(model)
    for one in (model, twin):
        optimiser = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.01)
        for _ in range(2):
            one(X).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        one(X).square().sum().backward()
    theirs = [p.grad for p in twin.parameters() if p.requires_grad]
    assert all(torch.equal(p.grad, grad) for p, grad in zip(adapter.parameters(), theirs, strict=True))
    assert torch.equal(model(X), twin(X)) and same(kept(model), held)
    assert relative(model(X), whole(variant)(X)) > 1e-3


@each_variant
@each_kind
def test_a_gradient_of_an_adapter_that_is_offloaded_is_refused(variant, kind, tmp_path):
    model, adapter = adapted(variant, kind, "before", tmp_path)
    twin = whole(variant)
    x = X.clone().requires_grad_()
    y = model(x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(twin(x).sum(), x)[0])
    with pytest.raises(RuntimeError, match=r"the gradient of lora_\w+ would be lost, for accelerate has offloaded it"):
        model(X).sum().backward()
    with pytest.raises(RuntimeError, match="would be lost"):
        al.effective_weight(model[2])[0].sum().backward()
    remove_hooks(model)  # as the message says
    model(X).sum().backward()
    twin(X).sum().backward()
    theirs = [p.grad for p in twin.parameters() if p.requires_grad]
    assert all(torch.equal(p.grad, grad) for p, grad in zip(adapter.parameters(), theirs, strict=True))


# ---- reading --------------------------------------------------------------------------------------


@each_variant
@each_kind
@each_order
def test_effective_weights_and_the_file_are_the_same(variant, kind, order, tmp_path):
    model, _ = adapted(variant, kind, order, tmp_path / "offload")
    twin, missing = whole(variant), absent(model)
    for path in ("0", "2"):
        found, wanted = (al.effective_weight(one.get_submodule(path)) for one in (model, twin))
        assert all(map(torch.equal, found, wanted))
    for one, name in ((model, "ours"), (twin, "theirs")):
        al.save(one, tmp_path / name)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert absent(model) == missing


@each_variant
@each_kind
@pytest.mark.parametrize("buffers", [False, True], ids=["", "buffers too"])
def test_loading_onto_an_offloaded_model(variant, kind, buffers, tmp_path):
    twin = whole(variant)
    al.save(twin, tmp_path / "file")
    model = offloaded(small_model(), kind, tmp_path / "offload", offload_buffers=buffers)
    adapter = al.load(model, tmp_path / "file")
    assert not any(p.is_meta for p in adapter.parameters())
    assert torch.equal(model(X), twin(X))
    with torch.no_grad():
        for p in adapter.parameters():
            p.mul_(0.5)
    restore(model, tmp_path / "file")
    assert torch.equal(model(X), twin(X))


@each_kind
def test_another_base_is_recognised(kind, tmp_path):
    al.save(whole(al.LoRA(r=4)), tmp_path / "file")
    model = offloaded(small_model(seed=7), kind, tmp_path / "offload")
    with pytest.raises(al.BaseMismatchError):
        al.load(model, tmp_path / "file")
    assert not adapted_layers(model)


@each_kind
@each_order
def test_the_coefficient(kind, order, tmp_path):
    variant = al.AntiPaSTO(r=4, block_size=2)
    model, adapter = adapted(variant, kind, order, tmp_path, offload_buffers=True)
    twin = small_model()
    steered = far_from_start(attach(twin, variant))
    for value in (-1.5, 0.0, 1.0):
        adapter.coefficient = steered.coefficient = value
        with torch.no_grad(), adapter.frozen():
            assert adapter.coefficient == value and torch.equal(model(X), twin(X))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if peft.knows(v)], ids=lambda v: v.name)
@each_order
def test_to_and_from_a_peft_folder(variant, order, tmp_path):
    pytest.importorskip("peft")
    model, _ = adapted(variant, "disk", order, tmp_path / "offload")
    twin = whole(variant)
    for one, name in ((model, "ours"), (twin, "theirs")):
        peft.to_peft(one, tmp_path / name)
        if variant.low_rank(twin[0].adapter, twin[0]) is not None:
            peft.to_peft(one, tmp_path / name / "as_lora", as_lora=True)
    files = [path.relative_to(tmp_path / "theirs") for path in (tmp_path / "theirs").rglob("*") if path.is_file()]
    assert files and all((tmp_path / "ours" / f).read_bytes() == (tmp_path / "theirs" / f).read_bytes() for f in files)
    other = offloaded(small_model(), "cpu", None)
    peft.from_peft(other, tmp_path / "ours")
    assert relative(other(X), twin(X)) < 5e-6


# ---- taking off -----------------------------------------------------------------------------------


@each_variant
@each_kind
@each_order
def test_detaching_leaves_the_offloaded_base(variant, kind, order, tmp_path):
    model, base = small_model(), small_model()
    for one in (model, base):
        one[2].bias.requires_grad_(False)
    if order == "after":
        offloaded(model, kind, tmp_path)
    adapter = far_from_start(attach(model, variant))
    if order == "before":
        offloaded(model, kind, tmp_path)
    held = kept(model)
    model(X)
    adapter.detach()
    assert not hasattr(model[0], "adapter") and not model[2]._forward_hooks and not model[2]._forward_pre_hooks
    assert [name for name, _ in model.named_modules()] == [name for name, _ in base.named_modules()]
    assert same(kept(model), held)
    assert torch.equal(model(X), base(X))
    remove_hooks(model)
    assert bits(model) == bits(base)
    never_adapted = offloaded(small_model(), kind, tmp_path / "again")
    remove_hooks(never_adapted)
    assert [sorted(one.__dict__) for one in model.modules()] == [sorted(o.__dict__) for o in never_adapted.modules()]


@each_variant
@each_kind
@each_order
@pytest.mark.parametrize("buffers", [False, True], ids=["", "buffers too"])
def test_unwrapping_brings_everything_back(variant, kind, order, buffers, tmp_path):
    model, _ = adapted(variant, kind, order, tmp_path, offload_buffers=buffers)
    twin = whole(variant)
    model(X)
    remove_hooks(model)
    assert bits(model) == bits(twin)
    assert torch.equal(model(X), twin(X))
    merged = copy.deepcopy(model)
    al.merge(merged)
    assert relative(merged(X), twin(X)) < 5e-6
    al.detach(model)
    assert bits(model) == bits(small_model()) and torch.equal(model(X), small_model()(X))


@each_variant
@each_kind
@each_order
def test_merging_is_refused(variant, kind, order, tmp_path):
    model, _ = adapted(variant, kind, order, tmp_path)
    held, missing = kept(model), absent(model)
    with pytest.raises(ValueError, match="offloaded there by accelerate: save the adapter, load it into a model that"):
        al.merge(model)
    assert same(kept(model), held) and absent(model) == missing
    with torch.no_grad():
        assert torch.equal(model(X), whole(variant)(X))


# ---- other ways to be offloaded -------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved_llama(tmp_path_factory):
    pytest.importorskip("transformers")
    from helpers import tiny_llama

    folder = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(folder)
    return folder


@each_variant
def test_a_transformers_model_that_is_loaded_to_disk_in_part(variant, saved_llama, tmp_path):
    from transformers import AutoModelForCausalLM

    from helpers import tiny_llama

    where = {f"model.{name}": "cpu" for name in ("embed_tokens", "layers.1", "norm", "rotary_emb")}
    where |= {"model.layers.0": "disk", "lm_head": "disk"}
    model = AutoModelForCausalLM.from_pretrained(
        saved_llama, device_map=where, offload_folder=tmp_path / "offload", dtype=torch.float32
    )
    twin = tiny_llama()
    assert "model.layers.0.self_attn.q_proj.weight" in absent(model)
    base = model(TOKENS).logits
    adapters = [attach(one, variant) for one in (model, twin)]
    assert relative(model(TOKENS).logits, base) <= expected(variant).identity
    for adapter in adapters:
        far_from_start(adapter)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "no_repeat_ngram_size": 1}
    generated = twin.generate(TOKENS, **options)
    with adapters[0].frozen():
        assert torch.equal(model.generate(TOKENS, **options), generated)
    for one in (model, twin):
        one(TOKENS, labels=TOKENS).loss.backward()
    pairs = zip(*(adapter.parameters() for adapter in adapters), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for ours, theirs in pairs)
    for one, name in ((model, "ours"), (twin, "theirs")):
        al.save(one, tmp_path / name)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    al.detach(model)
    assert torch.equal(model(TOKENS).logits, base)
    al.load(model, tmp_path / "theirs")
    assert torch.equal(model(TOKENS).logits, twin(TOKENS).logits)


@each_variant
@each_order
def test_a_bare_layer(variant, order):
    layer, twin = linear(12, 8, dtype=torch.float32), linear(12, 8, dtype=torch.float32)
    options = {"calibration_data": calibration(twin)} if variant.data == "required" else {}
    if order == "after":
        accelerate.cpu_offload(layer)
    far_from_start(al.attach(layer, variant, **options))
    if order == "before":
        accelerate.cpu_offload(layer)
    far_from_start(al.attach(twin, variant, **options))
    with torch.no_grad():
        assert torch.equal(layer(X), twin(X)) and torch.equal(layer(input=X), twin(X))


def test_two_passes_one_before_and_one_after(tmp_path):
    passes = ((al.DoRA(r=4, alpha=6), "0"), (al.HRA(r=4), "2"))
    model, twin = small_model(), small_model()
    for variant, path in passes:
        far_from_start(attach(model, variant, targets=path))
        far_from_start(attach(twin, variant, targets=path))
        if path == "0":
            accelerate.cpu_offload(model)
    with torch.no_grad():
        assert torch.equal(model(X), twin(X)) and torch.equal(copy.deepcopy(model)(X), twin(X))
    al.save(model, tmp_path / "ours")
    al.save(twin, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with pytest.raises(ValueError, match="'0.adapter' is on the meta device, or offloaded there .*, then restore it"):
        restore(model, tmp_path / "theirs")
    with torch.no_grad():
        assert torch.equal(model(X), twin(X))


@each_variant
@each_kind
def test_what_follows_from_the_weight_may_be_forgotten_before(variant, kind, tmp_path):
    model, twin = whole(variant), whole(variant)
    model.load_state_dict(twin.state_dict())
    offloaded(model, kind, tmp_path / "offload", offload_buffers=True)
    al.save(model, tmp_path / "ours")
    al.save(twin, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    with torch.inference_mode():
        assert torch.equal(model(X), twin(X))
    ours = [buffer for layer in adapted_layers(model) for buffer in layer.adapter.buffers() if not buffer.is_meta]
    assert not any(buffer.is_inference() for buffer in ours)
    with torch.no_grad():
        assert torch.equal(model(X), twin(X))


@each_variant
@each_order
def test_eight_bits(variant, order, tmp_path):
    """accelerate cannot lend bitsandbytes' 4-bit weights: it loses their quant_state."""
    bnb = pytest.importorskip("bitsandbytes")

    def quantised():
        layer = bnb.nn.Linear8bitLt(24, 16, has_fp16_weights=False)
        layer.load_state_dict(linear(24, 16, dtype=torch.float32).state_dict())
        return nn.Sequential(layer.to("cpu")).eval()

    x = randn(6, 24, seed=1, dtype=torch.float32)
    options = {"calibration_data": [x]} if variant.data == "required" else {}
    model, twin = quantised(), quantised()
    if order == "after":
        accelerate.cpu_offload(model)
    far_from_start(al.attach(model, variant, **options))
    if order == "before":
        accelerate.cpu_offload(model)
    far_from_start(al.attach(twin, variant, **options))
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(x), twin(x))
    assert torch.equal(al.effective_weight(model[0])[0], al.effective_weight(twin[0])[0])
    al.save(model, tmp_path / "ours")
    al.save(twin, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    al.detach(model)
    assert torch.equal(model(x), quantised()(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small_model()

    def forward(self, x):
        return self.inner(x)


@each_variant
def test_whole_blocks_work_and_refuse_what_needs_one_layer(variant, tmp_path):
    """preload_module_classes: one hook lends all that is in the block, and no layer has one of its own."""
    model, twin = nn.Sequential(Block()).eval(), nn.Sequential(Block()).eval()
    adapter = far_from_start(attach(model, variant))
    far_from_start(attach(twin, variant))
    accelerate.cpu_offload(model, preload_module_classes=["Block"])
    with torch.no_grad():
        assert torch.equal(model(X), twin(X))
    for call, message in (
        (lambda: al.effective_weight(model[0].inner[0]), "'0.inner.0' cannot be read: .*preload_module_classes"),
        (lambda: adapter.frozen().__enter__(), "'0.inner.0' cannot be read: .*preload_module_classes"),
        (lambda: al.save(model, tmp_path / "file"), "remove_hook_from_submodules"),
        (lambda: al.merge(model), "offloaded"),
        (lambda: al.detach(model), "with the whole block around it.*remove_hook_from_submodules"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
        with torch.no_grad():
            assert torch.equal(model(X), twin(X))
    remove_hooks(model)
    al.save(model, tmp_path / "file")
    al.detach(model)
    assert bits(model) == bits(nn.Sequential(Block()))

    accelerate.cpu_offload(model, preload_module_classes=["Block"])
    with pytest.raises(ValueError, match="'0.inner.0' cannot be read: .*preload_module_classes"):
        attach(model, variant)
    with pytest.raises(al.AdapterFileError, match="'0.inner.0' cannot be read: .*preload_module_classes"):
        al.load(model, tmp_path / "file")
    assert torch.equal(model(X), nn.Sequential(Block())(X))


# ---- no values at all -----------------------------------------------------------------------------


@each_variant
def test_weights_without_values_are_refused(variant, tmp_path):
    al.save(whole(variant), tmp_path / "file")
    model = small_model().to("meta")
    options = {"calibration_data": calibration(small_model())} if variant.data != "none" else {}
    before = list(model.state_dict())
    for call in (lambda: al.attach(model, variant, **options), lambda: al.load(model, tmp_path / "file")):
        with pytest.raises(ValueError, match="the weight of layer '0' cannot be read: it is on the meta device"):
            call()
    assert list(model.state_dict()) == before and not model[0]._forward_hooks and not model[0]._forward_pre_hooks
    assert all(p.requires_grad for p in model.parameters())

    model = whole(variant)
    adapter = al.runtime.Adapter(model, [model[0].adapter.pass_id])
    model.to("meta")
    before = list(model.state_dict())
    for call, message in (
        (lambda: al.merge(model), "'0' is on the meta device"),
        (lambda: al.save(model, tmp_path / "other"), "'0.adapter.lora_.*' is on the meta device"),
        (lambda: restore(model, tmp_path / "file"), "'0.adapter' is on the meta device"),
        (lambda: al.effective_weight(model[0]), "'0' cannot be read"),
        (lambda: adapter.frozen().__enter__(), "'0' cannot be read"),
        (lambda: peft.to_peft(model, tmp_path / "folder"), "'0.adapter' is on the meta device"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
        assert list(model.state_dict()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    al.detach(model)
    assert list(model.state_dict()) == list(small_model().state_dict())


@pytest.mark.gpu
@each_variant
@each_order
def test_inputs_that_accelerate_moves_to_the_gpu(variant, order):
    model, twin = small_model(), small_model()
    if order == "after":
        accelerate.cpu_offload(model, execution_device=0)
    far_from_start(attach(model, variant))
    if order == "before":
        accelerate.cpu_offload(model, execution_device=0)
    far_from_start(attach(twin, variant))
    with torch.no_grad():
        y = model(X)
    assert y.device == X.device and relative(y, twin(X)) < 1e-5

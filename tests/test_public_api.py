"""The public names as a user writes them, registration, and what importing the package costs."""

import dataclasses
import inspect
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import adapterlab as al
from adapterlab import variants
from anatomy import bits, unchanged
from helpers import IDS, VARIANTS, attach, small_model, tiny_llama, with_fields

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


# ---- as documented --------------------------------------------------------------------------------


@each_variant
def test_the_documented_lines(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_llama()
    tokens = torch.arange(3, 15).view(2, 6)
    base, weights = model(tokens).logits, bits(model)

    adapter = attach(model, variant, targets=r"(q|v)_proj$")
    paths = tuple(f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qv")
    assert adapter.targets == paths
    assert isinstance(adapter, al.Adapter)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    assert adapter.num_parameters == sum(p.numel() for _, p in adapter.named_parameters())
    assert {name.rsplit(".adapter.", 1)[0] for name, _ in adapter.named_parameters()} == set(paths)
    trained = model(tokens).logits
    assert not torch.equal(trained, base)
    with adapter.disabled():
        assert torch.equal(model(tokens).logits, base)
    with torch.no_grad(), adapter.frozen():
        assert torch.equal(model(tokens).logits, trained)
    al.save(model, "adapter.safetensors")
    al.detach(model)
    assert bits(model) == weights and torch.equal(model(tokens).logits, base)
    adapter = al.load(model, "adapter.safetensors")
    assert adapter.targets == paths and torch.equal(model(tokens).logits, trained)
    W, b = al.effective_weight(model.model.layers[0].self_attn.q_proj)
    assert W.shape == (32, 32) and b.shape == (32,)
    al.merge(model)
    torch.testing.assert_close(model(tokens).logits, trained)
    assert list(model.state_dict()) == list(weights)
    with attach(model, with_fields(type(variant)(), r=8)) as adapter:
        assert adapter.num_parameters > 0
    assert not any(hasattr(module, "adapter") for module in model.modules())


def test_the_example_in_the_packages_docstring_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = inspect.cleandoc(al.__doc__.split("\n\n", 1)[1])
    code = example.removeprefix("```python\n").removesuffix("```")
    assert "al.attach" in code and "al.merge(model)" in code
    model = tiny_llama()
    exec(compile(code, "adapterlab.__doc__", "exec"), {"model": model})
    assert not any(hasattr(module, "adapter") for module in model.modules())


def test_every_public_name_is_there_and_documented():
    for name in al.__all__:
        thing = getattr(al, name)
        assert name == "VARIANTS" or inspect.getdoc(thing), name


def test_variants_are_listed_by_name():
    assert [al.VARIANTS[name] for name in IDS] == [type(variant) for variant in VARIANTS]
    for name, cls in al.VARIANTS.items():
        assert cls.name == name and issubclass(cls, al.Variant)
    assert set(variants.__all__) == {cls.__name__ for cls in al.VARIANTS.values()}


@pytest.mark.parametrize("cls", [type(v) for v in VARIANTS], ids=lambda cls: cls.name)
def test_variants_are_frozen_values(cls):
    assert cls() == cls() and hash(cls()) == hash(cls()) and eval(repr(cls()), {cls.__name__: cls}) == cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().name = "another"
    with pytest.raises(TypeError):
        cls(no_such_field=1)


def test_the_defaults_are_the_documented_ones():
    documented = (
        al.LoRA(r=8, alpha=16, rslora=False),
        al.PiSSA(r=8, alpha=None, rslora=False),
        al.DoRA(r=8, alpha=16, rslora=False),
        al.DeLoRA(r=8, lambda0=15.0, start="zero", norm="column"),
        al.IA3(),
        al.IA3FF(),
        al.HRA(r=8),
        al.EVA(r=8, alpha=16, rslora=False, center=False, rho=1.0),
        al.AntiPaSTO(r=32, block_size=4, max_angle=0.5, rotate_basis="V"),
    )
    for variant in documented:
        assert variant == type(variant)()
    assert set(al.VARIANTS) == {variant.name for variant in documented}
    parameters = inspect.signature(al.attach).parameters
    assert list(parameters) == ["model", "variant", "targets", "exclude", "layers", "calibration_data", "dtype"]
    assert parameters["exclude"].default == ("lm_head", "embed") and parameters["dtype"].default == torch.float32
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name not in ("model", "variant"))


# ---- register -------------------------------------------------------------------------------------


def reader_variant(frozen=True):
    @dataclass(frozen=frozen)
    class Scale(al.Variant if frozen else object):
        strength: float = 1.0

        def specs(self, d_in, d_out):
            return {"lora_gain": al.ParamSpec((d_out,))}

        def effective_weight(self, p, W, b):
            return W * (1 + self.strength * p.lora_gain[:, None]), b

        def prepare(self, p, layer):
            return p.lora_gain * self.strength, layer.bias

        def forward(self, prepared, x, y):
            gain, b = prepared
            return y + gain * (y if b is None else y - b)

    return Scale


def test_a_readers_variant_works_like_the_others(registry):
    Scale = al.register("scale")(reader_variant())
    assert al.VARIANTS["scale"] is Scale and Scale.name == "scale"
    model, x = small_model(), torch.randn(3, 12)
    base = model(x)
    with unchanged(model), attach(model, Scale(strength=0.5)) as adapter:
        assert torch.equal(model(x), base)
        with torch.no_grad():
            for p in adapter.parameters():
                p.normal_()
        W, b = al.effective_weight(model[2])
        hidden = torch.tanh(model[0](x))
        torch.testing.assert_close(model(x), hidden @ W.T + b)
        assert "Scale(strength=0.5)" in repr(adapter)


def test_running_the_same_cell_again_replaces_the_class(registry):
    first, second = reader_variant(), reader_variant()
    assert first is not second
    al.register("scale")(first)
    assert al.register("scale")(second) is second
    assert al.VARIANTS["scale"] is second


@pytest.mark.parametrize("name", IDS)
def test_a_name_that_is_taken_is_refused(name, registry):
    before = dict(registry)
    with pytest.raises(ValueError, match=f"the name '{name}' belongs to adapterlab.*choose another"):
        al.register(name)(reader_variant())
    assert registry == before


def test_a_class_of_the_same_name_from_elsewhere_is_refused(registry):
    """A reader's own `LoRA` must not replace the package's."""

    @dataclass(frozen=True)
    class LoRA(reader_variant()):
        pass

    LoRA.__qualname__ = "LoRA"
    with pytest.raises(ValueError, match="the name 'lora' belongs to adapterlab.variants.lora.LoRA"):
        al.register("lora")(LoRA)
    assert al.VARIANTS["lora"] is al.LoRA and al.LoRA.name == "lora"


def test_what_is_no_frozen_dataclass_is_refused(registry):
    class Plain(al.Variant):
        pass

    @dataclass
    class NoVariant:
        pass

    for thing in (Plain, NoVariant, 3, lambda: None, nn.Linear):
        with pytest.raises(TypeError, match="must be a dataclass derived from Variant"):
            al.register("mine")(thing)
    with pytest.raises(TypeError):  # dataclasses refuse a mutable child of a frozen one themselves

        @dataclass
        class Child(al.LoRA):
            pass

    @dataclass
    class Mutable(al.Variant):
        r: int = 1

    with pytest.raises(TypeError, match="Mutable must be frozen.*frozen=True"):
        al.register("mine")(Mutable)
    assert "mine" not in registry


# ---- what an import costs -------------------------------------------------------------------------


def test_importing_the_package_needs_torch_and_safetensors_only():
    code = """
import sys
import torch
before = set(sys.modules)
import adapterlab
new = {name.partition(".")[0] for name in set(sys.modules) - before}
allowed = {"adapterlab", "safetensors"} | set(sys.stdlib_module_names)
assert new <= allowed, sorted(new - allowed)
heavy = [n for n in sys.modules if n.startswith(("torch._dynamo", "torch._inductor", "numpy.f2py"))]
assert not set(heavy) - before, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_attach_and_detach_do_not_import_the_compiler():
    """It takes over a second, and is only needed where something was compiled."""
    code = """
import sys
import torch
import adapterlab as al
layer = torch.nn.Linear(6, 5)
for variant in (al.DoRA(r=2), al.HRA(r=2)):
    with al.attach(layer, variant):
        layer(torch.zeros(2, 6)).sum().backward()
al.attach(layer, al.LoRA(r=2))
al.merge(layer)
assert "torch._dynamo" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr

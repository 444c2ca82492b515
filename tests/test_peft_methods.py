"""PEFT's methods as this library configures them, held against the installed PEFT."""

import dataclasses
import typing
from pathlib import Path

import pytest
import torch
from torch import nn

from adapterlab.peft_methods import EXCLUDED, METHODS, methods

peft = pytest.importorskip("peft")
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: E402

LORA_FIELDS = {field.name: field for field in dataclasses.fields(peft.LoraConfig)}


def configurations():
    return {name: method.config(["up"]) for name, method in METHODS.items() if not method.missing}


def test_every_type_of_the_installed_peft_is_configured_or_excluded():
    kinds = {method.kind for method in METHODS.values()}
    configured = {kind.name for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items() if cls.__name__ in kinds}
    types = {kind.name for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert configured | set(EXCLUDED) >= types, f"new in PEFT: {types - configured - set(EXCLUDED)}"
    assert not configured & set(EXCLUDED)


def test_every_start_and_option_of_lora_is_configured_or_excluded():
    made = [config for config in configurations().values() if type(config) is peft.LoraConfig]
    starts = set()
    for hint in typing.get_args(typing.get_type_hints(peft.LoraConfig)["init_lora_weights"]):
        starts |= {value for value in typing.get_args(hint) if isinstance(value, str)}
    named = {str(config.init_lora_weights).replace("niter_4", "niter_[number of iters]") for config in made}
    assert starts - named - set(EXCLUDED) == set()
    options = {name for name, field in LORA_FIELDS.items() if field.metadata.get("is_lora_variant")}
    used = {name for name in options if any(getattr(config, name) for config in made)}
    assert options - used - set(EXCLUDED) == set()


def test_what_is_excluded_exists_in_peft():
    known = {kind.name for kind in PEFT_TYPE_TO_CONFIG_MAPPING} | set(LORA_FIELDS)
    unknown = set(EXCLUDED) - known
    assert all(name in LORA_FIELDS["init_lora_weights"].metadata["help"] or name in ("loftq",) for name in unknown)


@pytest.mark.parametrize("name", METHODS)
def test_quotations_stand_in_the_installed_peft(name):
    root = Path(peft.__file__).parent
    for quote in METHODS[name].by_design.values():
        if quote.file.startswith("https://"):
            assert quote.link == quote.file
            continue
        text = (root / quote.file).read_text()
        plain = " ".join(text.replace('"', " ").split())  # a sentence may run over lines, or over joined strings
        assert " ".join(quote.words.split()) in plain
        assert quote.link.endswith(f"/v{peft.__version__}/src/peft/{quote.file}")
    assert (root / METHODS[name].source.partition("/src/peft/")[2]).is_dir()


def base(method):
    torch.manual_seed(0)
    layers = [nn.Linear(24, 16), nn.Linear(16, 24)]
    if method.layer == "norm":
        layers[1] = nn.LayerNorm(16)
    model = nn.Sequential()
    for name, layer in zip(("up", "down"), layers):
        model.add_module(name, layer)
    return model.requires_grad_(False), (["down"] if method.layer == "norm" else ["up", "down"])


@pytest.mark.parametrize("name", METHODS)
def test_each_method_adapts_what_it_is_given(name):
    method = METHODS[name]
    if method.missing:
        with pytest.raises(ImportError, match=method.missing[0]):
            method.wrap(*base(method))
        pytest.skip(f"{' and '.join(method.missing)} not installed")
    model, targets = base(method)
    x = torch.randn(2, 6, 24)
    before = model(x)
    torch.manual_seed(0)
    wrapped = method.wrap(model, targets, r=4, batches=[x, x + 1]).eval()
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    assert trained and all("base_layer" not in n for n, p in wrapped.named_parameters() if p.requires_grad)
    with torch.no_grad():
        for p in trained:
            p.add_(torch.randn_like(p))
    assert wrapped(x).shape == before.shape
    assert (wrapped(x) - before).norm() > 1e-5 * before.norm()
    assert method.ranked == (repr(method.config(targets, 4)) != repr(method.config(targets, 8)))


def test_a_start_from_data_without_data_is_refused():
    assert {name for name, method in METHODS.items() if method.start} == {"eva", "corda", "lora_ga"}
    for name in ("eva", "corda", "lora_ga"):
        with pytest.raises(ValueError, match="starts from data"):
            METHODS[name].wrap(*base(METHODS[name]))


def test_methods_are_those_that_can_run_here():
    assert set(METHODS) - set(methods()) == {name for name, method in METHODS.items() if method.missing}

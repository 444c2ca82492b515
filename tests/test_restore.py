"""restore: a file's values into adapters that are there, all or none, into the tensors that an optimiser holds."""

import json
import os
import re

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import adapterlab as al
from adapterlab.checkpoint import _checksum, restore
from adapterlab.files import publish
from anatomy import bits
from helpers import FLOATS, IDS, VARIANTS, attach, far_from_start, linear, small_model, with_fields

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "adapter.safetensors"


def trained(variant, seed=1, **options):
    """A small model with an adapter far from its start; another seed is another place."""
    torch.manual_seed(seed)
    model = small_model()
    return model, far_from_start(attach(model, variant, **options), seed)


@each_variant
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_bit_comes_back_in_the_same_tensors(variant, dtype, path):
    model, _ = trained(variant, dtype=dtype)
    al.save(model, path)
    other, adapter = trained(variant, seed=2, dtype=dtype)
    held = list(adapter.parameters())
    assert bits(other) != bits(model)
    restore(other, path)
    assert bits(other) == bits(model)
    assert all(a is b and a.requires_grad and a.is_leaf for a, b in zip(adapter.parameters(), held))


def test_several_passes_come_back(path):
    def two_passes(seed):
        model = small_model()
        far_from_start(attach(model, al.DoRA(r=2), targets="2"), seed)
        far_from_start(attach(model, al.LoRA(r=1), targets="0"), seed)
        return model

    al.save(two_passes(1), path)
    model = two_passes(2)
    restore(model, path)
    assert bits(model) == bits(two_passes(1))


def test_what_load_gives_can_be_restored(path):
    model, _ = trained(al.EVA(r=4, alpha=6))
    al.save(model, path)
    fresh = small_model()
    far_from_start(al.load(fresh, path), seed=3)
    restore(fresh, path)
    assert bits(fresh) == bits(model)


def test_the_strength_of_a_steered_adapter_stays_as_it_is(path):
    model, adapter = trained(al.AntiPaSTO(r=4, block_size=2))
    al.save(model, path)
    adapter.coefficient = -0.5
    restore(model, path)
    assert adapter.coefficient == -0.5


# ---- what is refused, with nothing changed --------------------------------------------------------


def refused(model, path, error, match):
    before = bits(model)
    with pytest.raises(error, match=match):
        restore(model, path)
    assert bits(model) == before


@each_variant
def test_another_variant(variant, path):
    al.save(trained(variant)[0], path)
    other = VARIANTS[VARIANTS.index(variant) - 1]
    refused(trained(other)[0], path, al.AdapterFileError, f"variant '{variant.name}' there, '{other.name}' here")


@pytest.mark.parametrize(
    "here, match",
    [
        (dict(variant=al.LoRA(r=2, alpha=6)), "fields"),
        (dict(variant=al.LoRA(r=4, alpha=5)), "fields"),
        (dict(dtype=torch.bfloat16), "dtype 'float32' there, 'bfloat16' here"),
        (dict(targets="0"), "adapts '2', which has no adapter here"),
    ],
    ids=["rank", "alpha", "dtype", "fewer layers"],
)
def test_another_adapter(here, match, path):
    al.save(trained(al.LoRA(r=4, alpha=6))[0], path)
    refused(trained(**{"variant": al.LoRA(r=4, alpha=6), **here})[0], path, al.AdapterFileError, match)


def test_more_layers(path):
    al.save(trained(al.LoRA(r=4), targets="0")[0], path)
    refused(trained(al.LoRA(r=4))[0], path, al.AdapterFileError, "does not adapt '2', which has an adapter here")


def test_other_passes(path):
    al.save(trained(al.LoRA(r=4))[0], path)
    model = small_model()
    for layer in ("2", "0"):
        attach(model, al.LoRA(r=4), targets=layer)
    refused(model, path, al.AdapterFileError, "pass 0 there, 1 here")


def test_layers_of_another_shape(path):
    al.save(trained(al.LoRA(r=4))[0], path)
    model = torch.nn.Sequential(linear(12, 16), torch.nn.Tanh(), linear(16, 8)).float()
    attach(model, al.LoRA(r=4))
    refused(model, path, al.AdapterFileError, "where this model needs")


@each_variant
def test_another_base(variant, path):
    al.save(trained(variant)[0], path)
    model, _ = trained(variant, seed=2)
    with torch.no_grad():
        model[2].weight[3, 5] += 1
    refused(model, path, al.BaseMismatchError, re.escape("1 of 2 adapted layers"))


def test_a_damaged_file(path):
    model, _ = trained(al.LoRA(r=4))
    al.save(model, path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    refused(model, path, al.AdapterFileError, "checksum")


def test_a_file_that_is_not_there(path):
    refused(trained(al.LoRA(r=4))[0], path, al.AdapterFileError, "there is no file")


def test_a_model_without_an_adapter(path):
    al.save(trained(al.LoRA(r=4))[0], path)
    refused(small_model(), path, ValueError, "no adapter to restore: attach one first")


def test_a_module_that_attach_was_not_given(path):
    model, _ = trained(al.LoRA(r=4), targets="2")
    al.save(model, path)
    refused(torch.nn.ModuleDict({"inner": model}), path, ValueError, "call this on the model that attach was given")


@each_variant
def test_a_value_that_is_not_finite_is_never_taken(variant, path):
    """save refuses it already; this is a file of somebody else's."""
    model, _ = trained(with_fields(variant, r=2))
    al.save(model, path)
    _write_with_a_nan(path)
    refused(trained(with_fields(variant, r=2), seed=2)[0], path, al.AdapterFileError, "not finite")


def _write_with_a_nan(path):
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["adapterlab"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    del header["checksum"]
    header["checksum"] = _checksum(header, tensors)
    safetensors.torch.save_file(tensors, path, {"adapterlab": json.dumps(header)})


# ---- publish --------------------------------------------------------------------------------------


def test_a_published_folder_is_whole(tmp_path):
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "inner" / ".hidden").write_bytes(b"x")
    (tmp_path / "a" / "file").write_bytes(b"y")
    publish(tmp_path / "a", tmp_path / "b")
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"b/inner/.hidden": b"x", "b/file": b"y"}


def test_a_folder_is_published_when_every_file_in_it_is_synced(tmp_path, monkeypatch):
    (tmp_path / "a" / "inner").mkdir(parents=True)
    for name in ("one", "inner/two"):
        (tmp_path / "a" / name).write_bytes(b"x")
    inodes = {path.stat().st_ino for path in [tmp_path / "a", *(tmp_path / "a").rglob("*")]}
    synced, seen = set(), []
    real_sync, real_rename = os.fsync, type(tmp_path).rename
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(os.fstat(fd).st_ino), real_sync(fd))[1])
    monkeypatch.setattr(type(tmp_path), "rename", lambda *args: (seen.append(set(synced)), real_rename(*args))[1])
    publish(tmp_path / "a", tmp_path / "b")
    assert seen == [inodes]
    assert tmp_path.stat().st_ino in synced, "and then the folder that it is in"


def test_a_name_that_is_taken_is_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError):
        publish(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "file").read_text() == "a" and (tmp_path / "b" / "file").read_text() == "b"

"""Thousands of damaged and doctored adapter files: each is refused in a sentence or loads as what it now says."""

import copy
import functools
import json
import math
import random
import resource
import struct
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import adapterlab as al
from adapterlab.checkpoint import _checksum
from anatomy import bits, unchanged
from helpers import attach, far_from_start, linear, randn, relative

X = randn(6, 12, seed=1, dtype=torch.float32)


def fresh():
    """Four small layers: room for two variants of different tensors, one with ranks of its own."""
    sizes = [(12, 8), (8, 6), (6, 8), (8, 4)]
    return nn.Sequential(*(linear(*size, dtype=torch.float32, seed=i) for i, size in enumerate(sizes)))


@functools.cache
def original():
    """The bytes of a file with three passes: EVA with redistributed ranks, AntiPaSTO, DoRA in bfloat16."""
    model = fresh()
    data = [randn(64, 12, seed=1, dtype=torch.float32)]
    far_from_start(attach(model, al.EVA(r=2, alpha=3, rho=2.0), targets="[01]", calibration_data=data))
    far_from_start(attach(model, al.AntiPaSTO(r=4, block_size=2), targets="2"))
    far_from_start(attach(model, al.DoRA(r=2, alpha=3), targets="3", dtype=torch.bfloat16))
    ranks = [layer.adapter.variant.r for layer in model]
    assert ranks[0] != ranks[1]
    return written(model)


def written(model):
    """What al.save writes for it."""
    with tempfile.TemporaryDirectory() as folder:
        al.save(model, f"{folder}/x")
        return Path(f"{folder}/x").read_bytes()


def parts(content):
    """(header, tensors) of a file that is whole."""
    (length,) = struct.unpack("<Q", content[:8])
    text = json.loads(content[8 : 8 + length])["__metadata__"]["adapterlab"]
    return json.loads(text), safetensors.torch.load(content)


def joined(header, tensors, seal=True):
    """The file of these parts, by default with a checksum that is right."""
    if seal and isinstance(header, dict):
        header = {key: value for key, value in header.items() if key != "checksum"}
        header["checksum"] = _checksum(header, tensors)
    return safetensors.torch.save(tensors, {"adapterlab": json.dumps(header)})


class Loader:
    """Loads file after file into one model, and tells what happened."""

    def __init__(self, path):
        self.path, self.model = path, fresh()
        self.before = bits(self.model)
        self.loaded = self.refused = 0

    def load(self, content, strict=True):
        """True if it loaded; the model then has its adapters. Fails unless it loaded or was refused properly."""
        self.path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                al.load(self.model, self.path, strict_base=strict)
        except al.AdapterFileError as error:
            self.refused += 1
            assert len(str(error).split()) >= 4 and len(str(error)) < 5000
            assert bits(self.model) == self.before
            assert not any(hasattr(layer, "adapter") or layer._forward_hooks for layer in self.model)
            return False
        self.loaded += 1
        return True

    def detach(self):
        al.detach(self.model)
        assert bits(self.model) == self.before


@pytest.fixture
def loader(tmp_path):
    return Loader(tmp_path / "mutant.safetensors")


def memory():
    """Peak, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


# ---- damage, with the checksum as it was ------------------------------------------------------------


def flip(rng, content):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_in_header(rng, content):
    (length,) = struct.unpack("<Q", content[:8])
    return flip(rng, content[: 8 + length]) + content[8 + length :]


def overwrite(rng, content):
    start = rng.randrange(len(content))
    junk = bytes(rng.choice(b'\x00\xff"{}[]:,0-9eE.\\nul') for _ in range(rng.randrange(1, 9)))
    return content[:start] + junk + content[start + len(junk) :]


def truncate(rng, content):
    return content[: rng.randrange(len(content))]


def cut(rng, content):
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 40) :]


def double(rng, content):
    start = rng.randrange(len(content))
    end = start + rng.randrange(1, 200)
    return content[:end] + content[start:end] + content[end:]


def splice(rng, content):
    a, b = sorted(rng.sample(range(len(content)), 2))
    return content[b:] + content[a:b] + content[:a] if rng.random() < 0.3 else content[:a] + content[b:] + content[a:b]


def other_length(rng, content):
    (length,) = struct.unpack("<Q", content[:8])
    wrong = rng.choice([0, 1, length - rng.randrange(1, 9), length + rng.randrange(1, 9), 10 * 2**30, 2**63, 2**64 - 1])
    return struct.pack("<Q", wrong) + content[8:]


DAMAGE = [flip, flip_in_header, overwrite, truncate, cut, double, splice, other_length]


def test_damaged_files(loader):
    """Refused, or the damage was to nothing: white space, the order of keys."""
    assert loader.load(original())
    expected, tensors = loader.model(X), bits(loader.model)
    loader.detach()
    rng = random.Random(0)
    before = memory()
    for i in range(3000):
        content = DAMAGE[i % len(DAMAGE)](rng, original())
        if content != original() and loader.load(content):
            assert torch.equal(loader.model(X), expected) and bits(loader.model) == tensors
            loader.detach()
    assert loader.refused > 2900
    assert memory() - before < 100


# ---- doctored, with a checksum that is right --------------------------------------------------------

VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 4, 8, 10**9, 2**63, 10**400, 0.0, -0.0, 0.5, -2.5, 1e-320, 1e308,
    math.nan, math.inf,
    "", "0", "1", "2", "lora", "dora", "ia3", "hra", "os.system", "__class__", "../../etc/passwd", "float16", "float64",
    "int8", "fp32", "bf16", "4-bit", "V", "U", "none", "zero", "copy", "\x00", "\ud800", "é" * 50, "A" * 716,
    [], {}, [1], [[]], {"0": {}}, {"r": 2}, {"a": None}, [None] * 3,
]  # fmt: skip
KEYS = ["0", "1", "2", "3", "4", "", "r", "alpha", "scale", "fields", "__init__", "self", "adapter", "name", "side"]


def nodes(value, place=()):
    """Every place in the header."""
    yield place
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nodes(item, (*place, key))


def at(header, place):
    for key in place:
        header = header[key]
    return header


def doctor_header(rng, header, tensors):
    """One change at a random place: another value, none, another key, a neighbour's value, a nudge."""
    place = rng.choice([place for place in nodes(header) if place and place[0] != "checksum"])
    parent, key = at(header, place[:-1]), place[-1]
    kind = rng.choice(["value", "value", "value", "delete", "rename", "add", "swap", "nudge"])
    if kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice([*KEYS, str(key) + "x"])] = parent.pop(key)
    elif kind == "add" and isinstance(parent, dict):
        parent[rng.choice(KEYS)] = copy.deepcopy(rng.choice([parent[key], *VALUES]))
    elif kind == "add":
        parent.append(copy.deepcopy(rng.choice([parent[key], *VALUES])))
    elif kind == "swap":
        other = rng.choice([p for p in nodes(header) if p and p[: len(place)] != place and place[: len(p)] != p])
        a, b = copy.deepcopy(parent[key]), copy.deepcopy(at(header, other))
        at(header, other[:-1])[other[-1]], parent[key] = a, b
    elif kind == "nudge" and isinstance(parent[key], (int, float)):
        parent[key] = rng.choice(
            [parent[key] + 1, -parent[key], parent[key] * 2.0, float(parent[key]), parent[key] * 1e9]
        )
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))


def doctor_tensors(rng, header, tensors):
    """One change to a random tensor: gone, renamed, another shape, dtype or content."""
    name = rng.choice(sorted(tensors))
    t, other = tensors[name], rng.choice(sorted(tensors))
    kind = rng.randrange(10)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[rng.choice([name + "x", name.upper(), "", ".", "../" + name, "0.weight", "adapter", "\x00", "é"])] = (
            t.clone()
        )
    elif kind == 2:
        tensors[name], tensors[other] = tensors[other].clone(), t.clone()
    elif kind == 3:
        tensors[name] = t.to(
            rng.choice([torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool, torch.float32])
        )
    elif kind == 4:
        tensors[name] = t.t().contiguous() if t.dim() == 2 else t[None]
    elif kind == 5:
        tensors[name] = t.flatten()[: rng.randrange(t.numel())].clone()
    elif kind == 6:
        t.view(-1)[rng.randrange(t.numel())] = rng.choice([math.nan, math.inf, -math.inf])
    elif kind == 7:
        t.view(-1)[rng.randrange(t.numel())] = rng.choice([0.0, 7.0, -300.0, 1e-40])  # beyond 1e19 a norm overflows
    elif kind == 8:
        tensors[name] = torch.randn(t.shape, generator=torch.Generator().manual_seed(rng.randrange(99))).to(t.dtype)
    else:
        tensors[name] = torch.cat([t, t])


def expected_output(model, header, tensors):
    """By the equations, from nothing but what the file says."""
    x = X.double()
    facts = {path: (entry, f) for entry in header["passes"] for path, f in entry["layers"].items()}
    for path, layer in model.named_children():
        W, b = layer.weight.double(), layer.bias.double()
        if path in facts:
            entry, own = facts[path]
            values = {k: tuple(v) if isinstance(v, list) else v for k, v in (entry["fields"] | own["fields"]).items()}
            variant = al.VARIANTS[entry["variant"]](**values)
            p = torch.nn.Module()
            p.scale, p.coefficient = own["scale"], 1.0
            for name in variant.specs(layer.in_features, layer.out_features):
                p.register_buffer(name, tensors[f"{path}.adapter.{name}"].double())
            W, b = variant.effective_weight(p, W, b)
        x = x @ W.T + b
    return x


def what_changed(old, new, place=""):
    """For the message of a test that fails."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = (what_changed(old.get(k), new.get(k), f"{place}/{k}") for k in {**old, **new})
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        changes = (what_changed(a, b, f"{place}/{i}") for i, (a, b) in enumerate(zip(old, new)))
    else:
        return "" if old == new else f"{place}: {old!r:.60} -> {new!r:.60}; "
    return "".join(changes)


def test_doctored_files(loader):
    """What loads computes what the file says, and is saved as the file was: nothing in it was overlooked."""
    rng, seen = random.Random(1), {"header": 0, "tensors": 0}
    header, tensors = parts(original())
    before = memory()
    for i in range(3000):
        head, named = copy.deepcopy(header), {name: t.clone() for name, t in tensors.items()}
        what, doctor = ("tensors", doctor_tensors) if i % 4 == 0 else ("header", doctor_header)
        doctor(rng, head, named)
        try:
            content = joined(head, named)
        except (UnicodeEncodeError, safetensors.SafetensorError):
            continue  # a name that safetensors would not write
        if not loader.load(content):
            continue
        seen[what] += 1
        with torch.no_grad():
            y, expected = loader.model(X), expected_output(loader.model, head, named)
        if expected.isfinite().all() and expected.abs().max() < 1e30:
            assert relative(y, expected) < 1e-4, what_changed(header, head)
        again, tensors_again = parts(written(loader.model))
        assert again["passes"] == head["passes"]
        assert tensors_again.keys() == named.keys()
        assert all(torch.equal(tensors_again[name], t) for name, t in named.items())
        loader.detach()
    assert loader.refused > 1500 and seen["header"] > 50 and seen["tensors"] > 50
    assert memory() - before < 100


def test_doctored_files_under_strict_base_false(loader):
    """What is not judged must still be well formed, and never decides how the adapter computes."""
    rng, header, tensors = random.Random(2), *parts(original())
    assert loader.load(original())
    expected = loader.model(X)
    loader.detach()
    loaded = 0
    for _ in range(400):
        head = copy.deepcopy(header)
        path, field = rng.choice("0123"), rng.choice(["precision", "sha256", "weight", "bias"])
        here, there = head["base"][path], head["base"][rng.choice("0123")]
        here[field] = rng.choice([there[field], there["weight"], there["bias"], *VALUES, *al.checkpoint.BOUNDS])
        if loader.load(joined(head, tensors), strict=False):
            loaded += 1
            assert torch.equal(loader.model(X), expected)
            loader.detach()
    assert loaded > 50 and loader.refused > 50


# ---- hostile headers --------------------------------------------------------------------------------


def raw(text, data=b"", length=None):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def outer(content):
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length].decode(), content[8 + length :]


def hostile():
    text, data = outer(original())
    entries = json.loads(text)
    name = sorted(entries)[0] if sorted(entries)[0] != "__metadata__" else sorted(entries)[1]
    entry = json.dumps(entries[name])
    inner = entries["__metadata__"]["adapterlab"]

    def with_metadata(new):
        return raw(json.dumps({**entries, "__metadata__": {"adapterlab": new}}), data)

    def with_entry(**changes):
        return raw(json.dumps({**entries, name: {**entries[name], **changes}}), data)

    yield "10 GB header", raw(text, data, length=10 * 2**30)
    yield "header as long as a file may be", raw(text, data, length=2**64 - 1)
    yield "a tensor twice", raw(text[:-1] + f', "{name}": {entry}}}', data)
    yield "a tensor twice, once escaped", raw(text[:-1] + f', "\\u00{ord(name[0]):02x}{name[1:]}": {entry}}}', data)
    yield "metadata twice", raw(text[:-1] + ', "__metadata__": {"adapterlab": ""}}', data)
    yield "our entry twice", raw(text.replace('"adapterlab":', '"adapterlab":"","adapterlab":', 1), data)
    for key in ("format", "passes", "base", "checksum"):
        yield f"{key} twice", with_metadata(inner[:-1] + f', "{key}": {json.dumps(json.loads(inner)[key])}}}')
    yield "a field twice", with_metadata(inner.replace('"alpha": 3', '"alpha": 3, "alpha": 3', 1))
    yield "NaN", with_metadata(inner.replace('"alpha": 3', '"alpha": NaN', 1))
    yield "Infinity", with_metadata(inner.replace('"alpha": 3', '"alpha": -Infinity', 1))
    yield "a number of many digits", with_metadata(inner.replace('"alpha": 3', '"alpha": ' + "9" * 10_000, 1))
    for bracket in ("[", '{"a":'):
        yield f"deep {bracket}", with_metadata(bracket * 200_000)
        yield f"deep header {bracket}", raw(bracket * 200_000)
    yield "a shape beyond memory", with_entry(shape=[2**40, 2**20])
    yield "a shape beyond 64 bits", with_entry(shape=[2**64, 2])
    yield "a product beyond 64 bits", with_entry(shape=[2**40, 2**40])
    yield "a product of zero", with_entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])
    yield "negative shape", with_entry(shape=[-1, -5])
    yield "no shape", with_entry(shape=None)
    yield "offsets beyond the file", with_entry(data_offsets=[0, 2**50])
    yield "offsets backwards", with_entry(data_offsets=[100, 0])
    yield "offsets of another", with_entry(data_offsets=[v + 4 for v in entries[name]["data_offsets"]])
    yield "unknown dtype", with_entry(dtype="F1024")
    yield "a small type", with_entry(dtype="F4")
    yield "metadata that is no text", raw(json.dumps({**entries, "__metadata__": {"adapterlab": {}}}), data)
    yield "a name of a megabyte", raw(json.dumps({**entries, "x" * 2**20: {**entries[name]}}), data)
    yield "utf-16", raw(text.encode("utf-16"), data)
    yield "not utf-8", raw(text.encode().replace(b"adapterlab", b"adapterla\xff", 1), data)
    yield "nothing but a length", struct.pack("<Q", 0)
    yield "a list", raw("[]")
    yield "many keys", raw("{" + ",".join(f'"{i}":[]' for i in range(200_000)) + "}")


def test_hostile_files(loader):
    for name, content in hostile():
        before = memory()
        assert content != original(), name
        assert not loader.load(content), f"{name}: accepted"
        assert memory() - before < 150, name


@pytest.mark.parametrize("changes", [{"r": 10**9}, {"r": 10**30}, {"alpha": 10**400}], ids=["large", "larger", "alpha"])
def test_a_rank_beyond_memory(changes, loader):
    header, tensors = parts(original())
    header["passes"][0]["fields"].update(changes)
    header["passes"][0]["layers"]["0"]["fields"] = {}
    before = memory()
    assert not loader.load(joined(header, tensors))
    assert memory() - before < 50


def test_a_file_with_a_hole_of_many_gigabytes(loader):
    """A length that costs its writer nothing: it is not read into memory."""
    size = 20 * 2**30
    text = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
    before = memory()
    with open(loader.path, "wb") as file:
        file.write(raw(text))
        file.truncate(8 + len(text) + size)
    with unchanged(loader.model), pytest.raises(al.AdapterFileError, match="no adapter that al.save wrote"):
        al.load(loader.model, loader.path)
    assert memory() - before < 100

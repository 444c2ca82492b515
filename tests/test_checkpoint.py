"""save and load: bit-equal round trips; every other file is refused in a sentence, with the model unchanged."""

import copy
import dataclasses
import errno
import json
import os
import random
import re
import resource
import stat
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import adapterlab as al
from adapterlab.checkpoint import _checksum, restore
from anatomy import anatomy, bits, unchanged
from helpers import FLOATS, IDS, VARIANTS, attach, far_from_start, linear, randn, relative, small_model

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "adapter.safetensors"


def saved(path, variant=VARIANTS[0], model=None, **options):
    """A model, by default a fresh small one, whose trained adapter is at `path`."""
    model = small_model() if model is None else model
    far_from_start(attach(model, variant, **options))
    al.save(model, path)
    return model


def adapters_of(model):
    return {name: t for name, t in bits(model).items() if "adapter." in name}


# ---- round trips ----------------------------------------------------------------------------------


@each_variant
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_round_trip_is_bit_equal(variant, base, dtype, path):
    model = saved(path, variant, small_model(base), dtype=dtype)
    x = randn(6, 12, seed=1, dtype=base)
    fresh = small_model(base)
    adapter = al.load(fresh, path)
    assert adapters_of(fresh) == adapters_of(model)
    assert torch.equal(fresh(x), model(x))
    assert adapter.targets == ("0", "2")
    assert list(fresh.state_dict()) == list(model.state_dict())


@each_variant
def test_what_is_loaded_can_be_trained_switched_and_detached(variant, path):
    expected = saved(path, variant)
    fresh, x = small_model(), randn(6, 12, seed=1, dtype=torch.float32)
    fresh[0].bias.requires_grad_(False)
    base = fresh(x)
    with unchanged(fresh):
        adapter = al.load(fresh, path)
        assert [n for n, p in fresh.named_parameters() if p.requires_grad] == [n for n, _ in adapter.named_parameters()]
        assert adapter.num_parameters == sum(p.numel() for p in expected.parameters() if p.requires_grad)
        fresh(x).sum().backward()
        assert all(p.grad is not None for p in adapter.parameters())
        with adapter.disabled():
            assert torch.equal(fresh(x), base)
        with torch.no_grad(), adapter.frozen():
            assert torch.equal(fresh(x), expected(x))
        adapter.detach()


@each_variant
def test_the_hyperparameters_come_back(variant, path):
    saved(path, variant)
    fresh = small_model()
    al.load(fresh, path)
    assert fresh[0].adapter.variant == variant


@each_variant
def test_two_passes_come_back_under_one_handle(variant, path):
    model = small_model()
    far_from_start(attach(model, variant, targets="2", dtype=torch.bfloat16), seed=1)
    far_from_start(attach(model, al.LoRA(r=1), targets="0"), seed=2)
    al.save(model, path)
    fresh, x = small_model(), randn(6, 12, seed=1, dtype=torch.float32)
    with unchanged(fresh):
        adapter = al.load(fresh, path)
        assert adapter.targets == ("0", "2")
        assert adapters_of(fresh) == adapters_of(model)
        assert torch.equal(fresh(x), model(x))
        assert fresh[0].adapter.pass_id != fresh[2].adapter.pass_id
        assert fresh[2].adapter.order < fresh[0].adapter.order
        adapter.detach()


@each_variant
def test_a_bare_layer_has_the_path_nothing(variant, path):
    layer = linear(6, 5, dtype=torch.float32)
    saved(path, variant, layer)
    fresh, x = linear(6, 5, dtype=torch.float32), randn(3, 6, seed=1, dtype=torch.float32)
    assert al.load(fresh, path).targets == ("",)
    assert torch.equal(fresh(x), layer(x))


@each_variant
def test_saved_from_a_wrapper_and_loaded_without_it(variant, path):
    model = torch.compile(small_model(), backend="aot_eager")
    far_from_start(attach(model, variant))
    al.save(model, path)
    fresh = small_model()
    al.load(fresh, path)
    assert adapters_of(fresh) == {name.removeprefix("_orig_mod."): t for name, t in adapters_of(model).items()}


@each_variant
@pytest.mark.parametrize("cast", ["bfloat16", "half", "double"])
def test_an_adapter_on_a_cast_model_can_be_saved_and_loaded(variant, cast, path):
    model = small_model()
    far_from_start(attach(model, variant))
    getattr(model, cast)()
    al.save(model, path)
    fresh = getattr(small_model(), cast)()
    al.load(fresh, path)
    x = randn(6, 12, seed=1, dtype=fresh[0].weight.dtype)
    assert torch.equal(fresh(x), model(x))


@each_variant
def test_saving_changes_nothing_and_replaces_the_file(variant, path):
    path.write_text("an older file")
    model = small_model()
    far_from_start(attach(model, variant))
    with unchanged(model):
        al.save(model, str(path))  # a string is as good as a Path
        al.save(model, path)
    assert os.listdir(path.parent) == [path.name]
    al.load(small_model(), str(path))


@each_variant
def test_the_file_is_plain_safetensors(variant, path):
    model = saved(path, variant)
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) == set(adapters_of(model))
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["adapterlab"])
    assert header["format"] == 1
    assert header["passes"][0]["variant"] == variant.name
    assert header["passes"][0]["fields"] == dataclasses.asdict(variant)
    assert set(header["base"]) == {"0", "2"}


def test_no_pickle_is_written_or_read(path, monkeypatch):
    model = small_model()
    attach(model, al.DoRA(r=2))

    def used(*_, **__):
        raise AssertionError("pickle was used")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(f"pickle.{name}", used)
    monkeypatch.setattr(torch, "save", used)
    monkeypatch.setattr(torch, "load", used)
    al.save(model, path)
    al.load(small_model(), path)
    assert not zipfile.is_zipfile(path) and path.read_bytes()[8:9] == b"{"


def test_the_file_has_the_mode_of_any_new_file(path):
    old = os.umask(0o027)
    try:
        saved(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


# ---- the wrong model ------------------------------------------------------------------------------


@each_variant
def test_a_model_that_has_adapters_is_refused(variant, path):
    model = saved(path, variant)
    with unchanged(model), pytest.raises(ValueError, match="has adapters already"):
        al.load(model, path)
    part = small_model()
    attach(part, al.LoRA(r=1), targets="0")
    with unchanged(part), pytest.raises(ValueError, match="has adapters already"):
        al.load(part, path)


@each_variant
def test_another_base_of_the_same_shape_is_refused(variant, path):
    saved(path, variant)
    other = small_model(seed=7)
    with unchanged(other), pytest.raises(al.BaseMismatchError, match="2 of 2 adapted layers .* '0'.*strict_base=False"):
        al.load(other, path)
    assert issubclass(al.BaseMismatchError, al.AdapterFileError) and issubclass(al.AdapterFileError, ValueError)


@each_variant
@pytest.mark.parametrize("name", ["2.weight", "2.bias"])
def test_one_number_in_the_base_is_enough(variant, name, path):
    saved(path, variant)
    other = small_model()
    tensor = other.get_parameter(name).data.view(-1)
    tensor[3] = torch.nextafter(tensor[3], torch.tensor(9.0))
    with unchanged(other), pytest.raises(al.BaseMismatchError, match="1 of 2 adapted layers .* '2'"):
        al.load(other, path)


@each_variant
def test_layers_without_an_adapter_may_differ(variant, path):
    saved(path, variant, targets="0")
    other = small_model()
    other[2].weight.data.mul_(2)
    al.load(other, path)


@each_variant
def test_strict_base_false_warns_and_loads(variant, path):
    model = saved(path, variant)
    other = small_model(seed=7)
    with pytest.warns(UserWarning, match="other weights than the adapter was trained on") as caught:
        al.load(other, path, strict_base=False)
    assert caught[0].filename == __file__
    assert adapters_of(other) == adapters_of(model)
    (W0, b0), (W2, b2) = al.effective_weight(other[0]), al.effective_weight(other[2])
    x = randn(6, 12, seed=1, dtype=torch.float32)
    assert relative(other(x), torch.tanh(x @ W0.T + b0) @ W2.T + b2) < 5e-6  # on the weights that are there


def test_a_model_without_the_layer_is_refused(path):
    saved(path)
    other = nn.Sequential(linear(12, 20, dtype=torch.float32))
    with unchanged(other), pytest.raises(al.AdapterFileError, match="adapts '2', which this model does not have"):
        al.load(other, path)


@each_variant
def test_layers_of_another_shape_are_refused(variant, path):
    saved(path, variant)
    other = nn.Sequential(linear(14, 22, dtype=torch.float32), nn.Tanh(), linear(22, 8, dtype=torch.float32))
    with unchanged(other), pytest.raises(al.AdapterFileError, match=r"'[02].adapter.lora_.*' is .* this model needs"):
        al.load(other, path)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if hasattr(v, "r")], ids=lambda v: v.name)
def test_layers_too_small_for_the_rank_are_refused(variant, path):
    saved(path, variant)
    tiny = nn.Sequential(linear(12, 3, dtype=torch.float32), nn.Tanh(), linear(3, 8, dtype=torch.float32))
    with unchanged(tiny), pytest.raises(al.AdapterFileError, match="does not fit layer '0'.*= 4"):
        al.load(tiny, path)


def test_an_attribute_of_that_name_is_not_overwritten(path):
    saved(path)
    other = small_model()
    other[2].adapter = nn.Identity()
    with unchanged(other), pytest.raises(al.AdapterFileError, match="'2' has an attribute `adapter`"):
        al.load(other, path)
    with unchanged(other), pytest.raises(ValueError):
        attach(other, al.LoRA(r=1))


# ---- damaged files --------------------------------------------------------------------------------


def refused(path, match=None):
    """load raises an AdapterFileError that is a sentence about this, and changes nothing."""
    model = small_model()
    with unchanged(model), pytest.raises(al.AdapterFileError, match=match) as caught:
        al.load(model, path)
    assert len(str(caught.value).split()) >= 4, str(caught.value)
    return str(caught.value)


def test_a_missing_file(path):
    assert str(path) in refused(path, "there is no file")
    refused(path.parent, "there is no file")  # a folder is none


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello, adapter", b"\xff" * 64, b"\x80\x04K\x01."], ids=repr)
def test_what_is_no_safetensors_file(content, path):
    path.write_bytes(content)
    assert str(path) in refused(path, "cannot be read as a safetensors file")


def test_a_file_of_torch_save(path):
    torch.save({"lora_A": torch.zeros(2)}, path)
    refused(path, "cannot be read as a safetensors file")


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_a_safetensors_file_of_somebody_else(metadata, path):
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, metadata)
    assert str(path) in refused(path, "no adapter that al.save wrote")


@each_variant
def test_a_truncated_file(variant, path):
    saved(path, variant)
    content = path.read_bytes()
    for length in {*random.Random(0).sample(range(len(content)), 20), len(content) - 1}:
        path.write_bytes(content[:length])
        refused(path)
    path.write_bytes(content + b"\x00")
    refused(path)


@each_variant
def test_a_flipped_bit_anywhere(variant, path):
    saved(path, variant)
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    rng = random.Random(1)
    positions = [*range(8), *rng.sample(range(8, 8 + header), 60), *rng.sample(range(8 + header, len(content)), 25)]
    model = small_model()
    before = anatomy(model)
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(al.AdapterFileError):
            al.load(model, path)
    assert anatomy(model) == before


# ---- files that are whole but wrong ---------------------------------------------------------------


def rewrite(path, edit=lambda header, tensors: None, checksum=True):
    """Edit a file as another program might, with a checksum that is right again."""
    tensors = safetensors.torch.load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["adapterlab"])
    old = header.pop("checksum")
    edit(header, tensors)
    header["checksum"] = _checksum(header, tensors) if checksum else old
    safetensors.torch.save_file(tensors, path, {"adapterlab": json.dumps(header)})


def test_an_edit_that_changes_nothing_loads(path):
    saved(path)
    rewrite(path)
    al.load(small_model(), path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda header, tensors: tensors["0.adapter.lora_A"].view(-1)[0].add_(1),
        lambda header, tensors: tensors.update({"0.adapter.lora_A": tensors["0.adapter.lora_A"].double()}),
        lambda header, tensors: header["passes"][0]["fields"].update(alpha=7),
        lambda header, tensors: header["passes"][0]["layers"]["0"].update(scale=2.5),
        lambda header, tensors: header["base"]["0"].update(sha256="0" * 64),
    ],
    ids=["number", "dtype", "field", "scale", "base"],
)
def test_the_checksum_covers(edit, path):
    saved(path)
    rewrite(path, edit, checksum=False)
    assert str(path) in refused(path, "damaged: its checksum")


def test_a_newer_format_asks_for_an_upgrade(path):
    saved(path)
    rewrite(path, lambda header, tensors: header.update(format=2, library="9.9", passes="of another structure"))
    refused(path, r"format 2 \(written by adapterlab 9.9\).*upgrade adapterlab")


def test_a_variant_that_is_not_registered_says_what_to_import(path):
    saved(path)
    rewrite(path, lambda header, tensors: header["passes"][0].update(variant="os.system"))
    refused(path, "'os.system' that is not registered .known: .*lora.*import the module that defines it")


@each_variant
def test_a_missing_tensor(variant, path):
    model = saved(path, variant)
    for name in adapters_of(model):
        al.save(model, path)
        rewrite(path, lambda header, tensors, name=name: tensors.pop(name))
        refused(path, f"{re.escape(repr(name))} is missing")


@pytest.mark.parametrize("name", ["0.adapter.lora_C", "1.adapter.lora_A", "w"])
def test_a_surplus_tensor(name, path):
    saved(path)
    rewrite(path, lambda header, tensors: tensors.update({name: torch.zeros(2)}))
    refused(path, f"{name!r}, which belongs to no adapted layer")


@each_variant
@pytest.mark.parametrize(
    "wrong",
    [
        lambda t: t.flatten()[:-1].clone(),
        lambda t: t[None],
        lambda t: t.new_zeros(0),
        torch.Tensor.half,
        torch.Tensor.int,
    ],
    ids=["shorter", "a dimension more", "empty", "half", "int"],
)
def test_a_tensor_of_the_wrong_shape_or_dtype(variant, wrong, path):
    model = saved(path, variant)
    for name in adapters_of(model):
        al.save(model, path)
        rewrite(path, lambda header, tensors, name=name: tensors.update({name: wrong(tensors[name])}))
        refused(path, f"{re.escape(repr(name))} is .* where this model needs")


def lambda_as_a_scalar(header, tensors):
    """As files hold it that were written before it could be sharded."""
    names = [name for name in tensors if "lora_lambda" in name]
    tensors.update({name: tensors[name].reshape(()) for name in names})
    assert names


@pytest.mark.parametrize("start", ["zero", "copy"])
def test_deloras_lambda_as_a_scalar_loads(start, path):
    model = saved(path, al.DeLoRA(r=4, start=start))
    rewrite(path, lambda_as_a_scalar)
    fresh = small_model()
    al.load(fresh, path)
    assert adapters_of(fresh) == adapters_of(model)
    again = small_model()
    attach(again, al.DeLoRA(r=4, start=start))
    restore(again, path)
    assert adapters_of(again) == adapters_of(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value, path):
    saved(path)
    rewrite(path, lambda header, tensors: tensors["2.adapter.lora_B"].fill_(value))
    refused(path, "'2.adapter.lora_B' holds values that are not finite")


@pytest.mark.parametrize(
    "fields",
    [{}, {"r": 4}, {"r": 4, "alpha": 6, "rslora": False, "extra": 1}, {"r": -4, "alpha": 6, "rslora": False}]
    + [{"r": wrong, "alpha": 6, "rslora": False} for wrong in ("4", None, 4.0, [4], 99)]
    + [{"r": 4, "alpha": wrong, "rslora": False} for wrong in ("6", None, float("nan"), {})],
    ids=str,
)
def test_fields_that_the_variant_does_not_take(fields, path):
    saved(path)
    rewrite(path, lambda header, tensors: header["passes"][0].update(fields=fields))
    refused(path)


WRONG = [
    None,
    0,
    1.5,
    True,
    "text",
    [],
    {},
    [1],
    {"a": 1},
    [[]],
    [{}],
    [None],
    {"0": None},
    {"0": []},
    {"0": {}},
    10**400,
]
PLACES = [
    (),
    ("passes",),
    ("passes", 0),
    ("passes", 0, "variant"),
    ("passes", 0, "fields"),
    ("passes", 0, "layers"),
    ("passes", 0, "layers", "0"),
    ("passes", 0, "layers", "0", "scale"),
    ("passes", 0, "layers", "0", "dtype"),
    ("base",),
    ("base", "0"),
    ("base", "0", "sha256"),
    ("format",),
    ("checksum",),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "/".join(map(str, place)) or "header")
def test_metadata_of_another_structure(place, path):
    """With a checksum that is right, any value of another type, or none, at any place."""
    saved(path)
    tensors = safetensors.torch.load_file(path)
    with safe_open(path, "pt") as file:
        text = file.metadata()["adapterlab"]
    absent = object()
    for wrong in [*WRONG, absent]:
        if place == ("passes", 0, "layers", "0", "scale") and wrong == 1.5:
            continue  # a scale as good as any other
        root = [json.loads(text)]
        *parents, last = (0, *place)
        node = root
        for key in parents:
            node = node[key]
        if wrong is not absent:
            node[last] = wrong
        elif place:
            del node[last]
        header = root[0] if root else None
        if isinstance(header, dict) and place != ("checksum",):
            header.pop("checksum", None)
            header["checksum"] = _checksum(header, tensors)
        if wrong is absent and not place:
            continue
        safetensors.torch.save_file(tensors, path, {"adapterlab": json.dumps(header)})
        refused(path)


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, '{"format": 1}'], ids=lambda text: text[:12])
def test_metadata_that_is_no_json_object(text, path):
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, {"adapterlab": text})
    refused(path)


def test_a_layer_that_is_adapted_twice(path):
    saved(path)

    def twice(header, tensors):
        header["passes"].append(header["passes"][0])

    rewrite(path, twice)
    refused(path, "a layer is adapted twice")


def test_a_base_record_that_leaves_a_layer_out(path):
    """It would go unchecked."""
    saved(path)
    rewrite(path, lambda header, tensors: header["base"].pop("2"))
    refused(path, "`base` must hold each adapted layer")


# ---- writing that fails ---------------------------------------------------------------------------


def test_there_must_be_something_to_save(path):
    with pytest.raises(ValueError, match="no adapter to save"):
        al.save(small_model(), path)
    assert not path.exists()


def test_a_folder_that_is_missing_or_is_none(path, tmp_path):
    model = saved(path)
    for target in (tmp_path / "missing" / "x.safetensors", path / "x.safetensors", tmp_path):
        with unchanged(model), pytest.raises(al.AdapterFileError, match=f"cannot write {re.escape(str(target))}: "):
            al.save(model, target)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("step", ["adapterlab.files.open", "os.fsync", "os.replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(step, code, path, monkeypatch):
    model = saved(path)
    before = path.read_bytes()

    def failing(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(step, failing, raising=False)  # `open` is a builtin
    far_from_start(al.Adapter(model, [model[0].adapter.pass_id]), seed=5)
    with unchanged(model), pytest.raises(al.AdapterFileError, match=f"cannot write {re.escape(str(path))}: .*"):
        al.save(model, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    model = saved(path)
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        al.save(model, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_until_the_file_is_whole_the_old_one_stands(path, monkeypatch):
    """What a reader sees at the moment before the rename, when all is written and synced."""
    model = saved(path)
    before, synced, replace = path.read_bytes(), [], os.replace
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(stat.S_IFMT(os.fstat(fd).st_mode)), fsync(fd)))

    def looking(source, target):
        assert synced == [stat.S_IFREG] and path.read_bytes() == before
        al.load(small_model(), source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", looking)
    far_from_start(al.Adapter(model, [model[0].adapter.pass_id]), seed=5)
    al.save(model, path)
    assert path.read_bytes() != before
    assert synced == [stat.S_IFREG, stat.S_IFDIR]  # and the renaming


def test_a_full_disk_leaves_the_old_file_and_no_other(path):
    """The system writes a part, and refuses the rest."""
    model = saved(path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    far_from_start(al.Adapter(model, [model[0].adapter.pass_id]), seed=5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(al.AdapterFileError, match=f"cannot write {re.escape(str(path))}: .*too large"):
            al.save(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


SAVING = """
import os, random, signal, sys, time
import torch
from pathlib import Path
import adapterlab as al
from helpers import far_from_start, linear

torch.set_num_threads(1)
model, path = linear(256, 256, dtype=torch.float32), Path(sys.argv[1])
adapter = al.attach(model, al.LoRA(r=64))

def start(function, *args):  # this process itself never saves: a fork of one that used threads may hang
    child = os.fork()
    if not child:
        function(*args)
        os._exit(0)
    return child

def save(seed, path):
    far_from_start(adapter, seed)
    al.save(model, path)

def save_on_and_on(seed):
    while True:
        save(seed, path)
        seed = 1 - seed

contents, began = [], time.monotonic()
for seed in (0, 1):
    assert os.waitpid(start(save, seed, path), 0)[1] == 0
    contents.append(path.read_bytes())
rng, seen, taken = random.Random(0), [], time.monotonic() - began
for i in range(60):
    child = start(save_on_and_on, i % 2)
    time.sleep(rng.uniform(0, min(taken, 0.1)))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    seen.append(contents.index(path.read_bytes()))
left = [name for name in os.listdir(path.parent) if name != path.name]
assert set(seen) == {0, 1} and all(name.startswith(".adapterlab-") for name in left), (seen, left)
"""


def test_killed_at_any_moment_there_is_the_old_file_or_the_new_one(path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", SAVING, str(path)], check=True, timeout=120, env=environment)


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    model = saved(tmp_path / "adapter")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("pipe", "link", ".."):
        with pytest.raises(al.AdapterFileError, match="no regular file"):
            al.save(model, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["adapter", "link", "pipe"] and (tmp_path / "pipe").is_fifo()


def test_a_link_is_replaced_not_followed(path):
    older = path.with_name("older")
    older.write_text("an older file")
    path.symlink_to(older)
    saved(path)
    assert older.read_text() == "an older file" and not path.is_symlink()
    al.load(small_model(), path)


def test_a_name_as_long_as_names_may_be(path):
    """85 characters of 3 bytes: 255."""
    saved(path.with_name("\u6f22" * 85))
    al.load(small_model(), path.with_name("\u6f22" * 85))


def test_tied_parameters_are_saved_apart(path):
    model, x = nn.Sequential(*(linear(6, 6, dtype=torch.float32, seed=i) for i in range(2))), torch.ones(2, 6)
    far_from_start(attach(model, al.LoRA(r=2)))
    model[1].adapter.lora_A = model[0].adapter.lora_A
    al.save(model, path)
    y = model(x)
    al.detach(model)
    al.load(model, path)
    assert torch.equal(model(x), y)


def test_an_adapter_without_values_cannot_be_saved(path):
    model = small_model()
    attach(model, al.LoRA(r=2))
    model.to("meta")
    with pytest.raises(al.AdapterFileError, match="'0.adapter.lora_A' is on the meta device"):
        al.save(model, path)
    assert not path.exists()


def save_sharded(rank, folder):
    """In each of two processes."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        model = small_model()
        for i, variant in enumerate((al.DoRA(r=3), al.AntiPaSTO(r=4, block_size=2))):
            far_from_start(attach(model, variant, targets=str(2 * i)), seed=i)
        if rank == 0:
            al.save(model, folder / "whole")
        for module in (model[0], model[2], model):
            fully_shard(module)
        al.save(model, folder / "sharded")
        dist.barrier()
        assert (folder / "sharded").read_bytes() == (folder / "whole").read_bytes()
        with pytest.raises(al.AdapterFileError, match=["No such file", "rank 0 could not write"][rank]):
            al.save(model, folder / "missing" / "adapter")
    finally:
        dist.destroy_process_group()


def test_a_sharded_model_is_saved_by_rank_0_and_all_ranks_learn_whether_it_could(tmp_path):
    torch.multiprocessing.spawn(save_sharded, (tmp_path,), nprocs=2)
    assert sorted(name for name in os.listdir(tmp_path) if name != "meeting") == ["sharded", "whole"]


def test_a_link_to_nowhere_is_no_adapter(path):
    path.symlink_to(path.parent / "gone")
    refused(path, "there is no file")


# ---- a reader's variant ---------------------------------------------------------------------------


def test_a_readers_variant_is_saved_and_loaded_and_named_when_it_is_missing(path, registry):
    @al.register("shift")
    @dataclass(frozen=True)
    class Shift(al.Variant):
        size: float = 1.0
        note: str = "mine"

        def specs(self, d_in, d_out):
            return {
                "lora_shift": al.ParamSpec((d_out,)),
                "lora_fixed": al.ParamSpec((d_out,), torch.nn.init.ones_, as_buffer=True),
            }

        def layer_scale(self):
            return 2  # an int is as good as a float

        def effective_weight(self, p, W, b):
            return W, b + p.scale * self.size * p.lora_shift * p.lora_fixed

        def prepare(self, p, layer):
            return (p.scale * self.size * p.lora_shift * p.lora_fixed,)

        def forward(self, prepared, x, y):
            return y + prepared[0]

    model, x = small_model(), randn(6, 12, seed=1, dtype=torch.float32)
    adapter = attach(model, Shift(size=0.5))
    assert [name for name, _ in adapter.named_parameters()] == ["0.adapter.lora_shift", "2.adapter.lora_shift"]
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(randn(*p.shape, seed=3))
        model[0].adapter.lora_fixed.mul_(3)
    al.save(model, path)
    fresh = small_model()
    assert al.load(fresh, path).num_parameters == 28
    assert fresh[0].adapter.variant == Shift(size=0.5) and adapters_of(fresh) == adapters_of(model)
    assert torch.equal(fresh(x), model(x))
    al.merge(fresh)
    assert relative(fresh(x), model(x)) < 5e-6
    del registry["shift"]
    refused(path, "'shift' that is not registered.*import the module")


def test_a_layer_keeps_its_own_rank_and_scale(tmp_path):
    """As rank redistribution leaves them: tensors of another shape than the pass's fields say."""
    model = small_model(torch.float32, bias=True)
    fresh = copy.deepcopy(model)
    attach(model, al.LoRA(r=4, alpha=6))
    first = next(layer for layer in model if hasattr(layer, "adapter"))
    first.adapter.variant = al.LoRA(r=2, alpha=6)
    first.adapter.lora_A = torch.nn.Parameter(torch.randn(2, first.in_features))
    first.adapter.lora_B = torch.nn.Parameter(torch.randn(first.out_features, 2))
    first.adapter.scale = 0.25
    x = torch.randn(3, first.in_features)
    al.save(model, tmp_path / "ranks.safetensors")
    al.load(fresh, tmp_path / "ranks.safetensors")
    assert torch.equal(fresh(x), model(x))
    again = [layer.adapter for layer in fresh if hasattr(layer, "adapter")]
    assert [a.variant.r for a in again] == [len(a.lora_A) for a in again] == [2, 4]
    assert again[0].scale == 0.25

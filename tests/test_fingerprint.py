"""The base's fingerprint: other roundings of one base are told from other bases, each bound from both sides."""

import copy
import hashlib
import math
import os
import re
import threading
import time
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import adapterlab as al
from adapterlab import fingerprint
from adapterlab.fingerprint import BOUNDS, Sketch, digest, judge, measure, sketch, sketches
from anatomy import bits, unchanged
from helpers import attach, far_from_start, linear, randn, relative, small_model
from test_quantized import KINDS, quantized

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.fixture
def path(tmp_path):
    return tmp_path / "adapter.safetensors"


def saved(path, model):
    """`model` with a trained adapter, saved at `path`; a copy of the model from before."""
    base = copy.deepcopy(model)
    far_from_start(attach(model, al.LoRA(r=2)))
    al.save(model, path)
    return base


def loads_quietly(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        al.load(model, path)


def loads_with_a_report(model, path, match="another rounding of the one that the adapter was trained on"):
    with pytest.warns(UserWarning, match=match) as caught:
        al.load(model, path)
    assert len(caught) == 1 and caught[0].filename == __file__
    return str(caught[0].message)


def refused(model, path, match="have other weights than the adapter was trained on"):
    with unchanged(model), pytest.raises(al.BaseMismatchError, match=match) as caught:
        al.load(model, path)
    return str(caught.value)


@torch.no_grad()
def moved(model, distance, seed=5, only=""):
    """A sibling: every weight and bias (whose name holds `only`) moved by `distance` times its norm."""
    model = copy.deepcopy(model)
    for i, (name, p) in enumerate(model.named_parameters()):
        if only in name:
            noise = randn(*p.shape, seed=seed + i)
            p.add_((noise * distance * p.double().norm() / noise.norm()).to(p.dtype))
    return model


# ---- the digest and the sketch --------------------------------------------------------------------


def test_the_digest_is_sha256_of_float32():
    W, b = randn(5, 7, seed=0, dtype=FP32), randn(5, seed=1, dtype=FP32)
    expected = hashlib.sha256(b"(5, 7)" + W.numpy().tobytes() + b"(5,)" + b.numpy().tobytes()).hexdigest()
    assert digest(W, b) == expected
    assert digest(W.t().contiguous().t(), b) == expected  # however it lies in memory
    assert digest(W.double(), b.double()) == expected
    assert digest(W.bfloat16(), None) == digest(W.bfloat16().float(), None) != digest(W, None)
    assert digest(W.relu(), None) == digest(-(-W).clamp(max=0), None)  # 0 and -0
    # The same bytes, divided otherwise
    assert len({digest(W, None), digest(W.view(7, 5), None), digest(W[:4], W[4]), digest(W.flatten()[None], None)}) == 4


@pytest.mark.parametrize("shape", [(9, 20), (300, 17), (17, 300), (3, 200), (200, 3), (2, 2), (1, 1), (1, 90), (90, 1)])
def test_the_sketch_is_the_linear_map_that_it_says(shape, monkeypatch):
    monkeypatch.setattr(fingerprint, "_CHUNK", 128)  # several chunks, of rows that do not end with a block
    W = randn(*shape, seed=0, dtype=FP32)
    rows, columns = shape
    r, c = fingerprint._factors("rows", rows), fingerprint._factors("columns", columns)
    found = sketch(W)
    down = min(rows, 64 // min(8, columns))
    across = min(columns, 64 // down)
    sums = [[0.0] * across for _ in range(down)]
    for i in range(rows):
        for j in range(columns):
            sums[i * down // rows][j * across // columns] += (r[i] * c[j] * W[i, j].double()).item()
    assert found.sums == pytest.approx(sum(sums, []), rel=1e-12, abs=1e-12)
    assert found.norm == pytest.approx(W.double().norm().item(), rel=1e-12)
    assert found.count == W.numel()
    for value, dtype in zip(found.rounded, (BF16, FP16)):
        assert value == pytest.approx((r @ W.to(dtype).double() @ c).item(), rel=1e-11, abs=1e-12)
    assert Sketch.decode(found.encode()) == found


def test_the_factors_are_those_of_every_other_version():
    """Files hold sums made with them: other factors would refuse every file that there is."""
    r = fingerprint._factors("rows", 1000)
    assert torch.equal(r, fingerprint._factors("rows", 1000))
    assert hashlib.sha256((r * 1e9).round().long().numpy().tobytes()).hexdigest()[:16] == "2b48eab733ab1359"
    assert r.square().mean().item() == pytest.approx(1, abs=0.01) and abs(r.mean().item()) < 0.1
    assert not torch.equal(r, fingerprint._factors("columns", 1000))


@pytest.mark.parametrize("shape", [(64, 64), (300, 170), (1024, 128), (1, 500)])
def test_the_distance_of_two_sketches_estimates_that_of_the_weights(shape):
    W = randn(*shape, seed=0, dtype=FP32)
    for seed in range(20):
        spread = 1e-3 * randn(*shape, seed=seed + 1)
        one_rank = torch.outer(randn(shape[0], seed=seed + 1), randn(shape[1], seed=seed + 50)) * 1e-3
        one_entry = torch.zeros(shape, dtype=torch.float64)
        one_entry[shape[0] // 2, seed] = 1e-3
        for change, low, high in ((spread, 0.65, 1.35), (one_rank, 0.2, 3.0), (one_entry, 0.75, 1.25)):
            other = (W + change).float()
            found = math.dist(sketch(W).sums, sketch(other).sums) / (other.double() - W.double()).norm().item()
            assert low < found < high


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty_weights(shape):
    W = torch.zeros(shape)
    assert sketch(W).norm == 0 and digest(W, None) == digest(W.half(), None)
    assert judge(sketches(W, None), "fp32", sketches(W, None), "bf16") == (0.0, True)


@pytest.mark.parametrize(
    "text", ["", "AAAA", "not base64!", "A" * 43 + "=", "é", Sketch(1.0, 1.0, (0.0, 0.0), (0.0,) * 65).encode()]
)
def test_what_is_no_sketch(text):
    with pytest.raises(ValueError):
        Sketch.decode(text)


# ---- the bounds, from both sides --------------------------------------------------------------------


def absmax(W, levels):
    """Each row (or block) of W rounded to multiples of its largest entry / levels."""
    scale = W.abs().amax(-1, keepdim=True) / levels
    return torch.where(scale > 0, (W / scale).round() * scale, W)


# Dettmers et al. 2023, arXiv 2305.14314, appendix E; bitsandbytes' fp4 has 2 bits of exponent and 1 of mantissa.
NF4 = torch.tensor(
    [-1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302]
    + [0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
)
FP4 = torch.tensor([0, 0.0625, 2, 3, 4, 6, 8, 12]).mul(1 / 12)
FP4 = torch.cat([-FP4[1:].flip(0), FP4])


def four_bits(W, levels=NF4):
    blocks = nn.functional.pad(W.flatten(), (0, -W.numel() % 64)).view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30)
    nearest = (blocks / scale)[..., None].sub(levels).abs().argmin(-1)
    return (levels[nearest] * scale).flatten()[: W.numel()].view_as(W)


ROUND = {
    "fp16": lambda W: W.half().float(),
    "bf16": lambda W: W.bfloat16().float(),
    "int8": lambda W: absmax(W, 127),
    "4-bit": four_bits,
}


def heavy_tailed(*shape, seed):
    """Student's t with 3 degrees of freedom."""
    return randn(*shape, seed=seed, dtype=FP32) / randn(3, *shape, seed=seed + 1, dtype=FP32).square().mean(0).sqrt()


def outlying_columns(*shape, seed):
    W = randn(*shape, seed=seed, dtype=FP32)
    W[:, :: max(1, shape[1] // 4)] *= 5
    return W


FAMILIES = {
    "gaussian": lambda *shape, seed: 0.02 * randn(*shape, seed=seed, dtype=FP32),
    "heavy tails": heavy_tailed,
    "outlying columns": outlying_columns,
    "uniform": lambda *shape, seed: randn(*shape, seed=seed, dtype=FP32).erf(),
    "tiny values": lambda *shape, seed: 1e-6 * randn(*shape, seed=seed, dtype=FP32),  # below fp16's normal numbers
}
SHAPES = [(1, 1), (1, 64), (4, 3), (12, 20), (128, 64), (512, 256)]


@pytest.mark.parametrize(
    "name, rounded",
    [*ROUND.items(), ("4-bit", lambda W: four_bits(W, FP4))],
    ids=[*ROUND, "fp4"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_rounding_is_within_its_bound(name, rounded, family):
    for i, shape in enumerate(SHAPES):
        for seed in range(5):
            W = FAMILIES[family](*shape, seed=100 * i + seed)
            original, copy = sketches(W, None), sketches(rounded(W), None)
            for a, b in ((original, copy), (copy, original)):
                distance, explained = judge(a, "fp32", b, name)
                assert explained, (shape, seed, distance)
                if name in ("bf16", "fp16"):  # also where it is stored as float32
                    assert judge(a, "fp32", b, "fp32") == (distance, True)


@pytest.mark.parametrize("name", ROUND)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "tiny values"])
@pytest.mark.parametrize("shape", [(12, 20), (128, 64), (512, 256)], ids=str)
def test_each_bound_from_both_sides(name, family, shape):
    """A change of 0.7 of the bound passes, one of 1.4 does not: the estimate is off by 9 % in one case of three."""
    for seed in range(5):
        W, noise = FAMILIES[family](*shape, seed=seed).double(), randn(*shape, seed=seed + 50)
        step = noise * W.norm() / noise.norm() * BOUNDS[name][0]
        for factor, verdict in ((0.7, True), (1.4, False)):
            a, b = sketches(W, None), sketches(W + factor * step, None)
            distance, explained = judge(a, "fp32", b, name)
            assert explained is verdict
            assert distance == pytest.approx(factor * BOUNDS[name][0], rel=0.35)
            assert not judge(a, name, b, name)[1]  # in one precision nothing explains it


@pytest.mark.parametrize(
    "precisions", [("bf16", "fp16"), ("int8", "bf16"), ("4-bit", "int8"), ("4-bit", "fp32")], ids=str
)
def test_two_roundings_of_one_base_are_within_the_coarser_bound(precisions):
    W = randn(128, 64, seed=0, dtype=FP32)
    a, b = (sketches(ROUND.get(name, lambda W: W)(W), None) for name in precisions)
    for first, second in ((0, 1), (1, 0)):
        pair = (a, b) if first == 0 else (b, a)
        assert judge(pair[0], precisions[first], pair[1], precisions[second])[1]
    other = sketches(randn(128, 64, seed=1, dtype=FP32), None)
    assert not judge(a, precisions[0], other, precisions[1])[1]


def test_a_quantised_layers_bias_is_held_to_bf16():
    W, b = randn(64, 32, seed=0, dtype=FP32), randn(64, seed=1, dtype=FP32)
    for change, verdict in ((1e-3, True), (0.02, False)):
        moved = b + change * randn(64, seed=2, dtype=FP32)
        assert judge(sketches(W, b), "fp32", sketches(four_bits(W), moved), "4-bit")[1] is verdict


# ---- whole models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [FP32, BF16, FP16], ids=str)
@pytest.mark.parametrize("here", [FP32, BF16, FP16], ids=str)
def test_a_base_in_another_precision_loads_and_the_distance_is_reported(here, there, path):
    base = small_model()
    saved(path, copy.deepcopy(base).to(here))
    other = copy.deepcopy(base).to(there)
    if here == there:
        loads_quietly(other, path)
    else:
        message = loads_with_a_report(other, path)
        assert "2 of 2 adapted layers differ by up to 0.00" in message


def test_the_same_numbers_in_another_dtype_are_the_same_base(path):
    model = small_model(BF16)
    base = saved(path, model)
    for dtype in (FP32, torch.float64):
        loads_quietly(copy.deepcopy(base).to(dtype), path)
    base = saved(path, small_model(torch.float64))
    loads_quietly(base.float(), path)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_exactly_rounded_values_are_known_whatever_they_are_stored_in(dtype, path):
    base = small_model()
    rounded = copy.deepcopy(base).to(dtype).float()
    saved(path, copy.deepcopy(base))
    loads_with_a_report(copy.deepcopy(rounded), path)
    # The same with the last bit of one number changed, of a weight and of a bias
    for name in ("0.weight", "2.bias"):
        other = copy.deepcopy(rounded)
        entry = other.get_parameter(name).data.view(-1)[3:4]
        entry.copy_(torch.nextafter(entry.to(dtype), torch.tensor([9.0], dtype=dtype)).float())
        refused(other, path)
    saved(path, copy.deepcopy(rounded))
    loads_with_a_report(copy.deepcopy(base), path)
    refused(moved(base, 1e-5), path)


def test_a_bias_may_be_rounded_alone(path):
    """As bitsandbytes rounds a quantised layer's, when inputs of another dtype come in."""
    base = saved(path, small_model())
    rounded = copy.deepcopy(base)
    rounded[2].bias.data = rounded[2].bias.data.bfloat16().float()
    assert "1 of 2" in loads_with_a_report(copy.deepcopy(rounded), path)
    rounded[2].bias.data[0] += 1e-3
    refused(rounded, path, match="1 of 2 .*'2'")


def test_minus_zero_is_zero(path):
    base = small_model()
    base[0].weight.data[3] = 0.0
    base = saved(path, base)
    base[0].weight.data[3] = -0.0
    loads_quietly(base, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_and_a_dense_one(kind, path):
    """As the libraries quantise: both ways, and what is refused both ways."""

    def model(kind, seed=0):
        return nn.Sequential(linear(64, 96, dtype=FP32, seed=seed) if kind == "dense" else quantized(kind, seed=seed))

    distances = {"nf4": 0.1, "fp4": 0.14, "nf4 double": 0.1, "int8": 0.008, "torchao": 0.008}
    for here, there in ((kind, "dense"), ("dense", kind)):
        saved(path, model(here))
        loads_quietly(model(here), path)
        message = loads_with_a_report(model(there), path)
        assert float(re.search(r"up to ([\d.]+) of", message)[1]) == pytest.approx(distances[kind], rel=0.5)
        for other in (here, there):
            with pytest.raises(al.BaseMismatchError):
                al.load(model(other, seed=5), path)
    # In one precision nothing but equality will do: not another way of quantising to 4 or 8 bits, not a sibling.
    saved(path, model(kind))
    others = {"nf4": "fp4", "fp4": "nf4", "nf4 double": "nf4", "int8": "torchao", "torchao": "int8"}
    with pytest.raises(al.BaseMismatchError):
        al.load(model(others[kind]), path)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "nf4 double"])
def test_a_base_that_was_repacked_is_the_same_base(kind, path):
    """A forward pass in eval mode does it on some processors, and rounds the scales to bf16."""
    from bitsandbytes import functional

    def repacked():
        layer = quantized(kind)
        layer.weight.data, state = functional._convert_weight_packed_for_cpu(
            layer.weight.data, layer.weight.quant_state
        )
        layer.weight.quant_state = layer.quant_state = state
        layer.support_avx512bf16_for_cpu = True
        return nn.Sequential(layer)

    saved(path, repacked())
    loads_quietly(nn.Sequential(quantized(kind)), path)
    loads_quietly(repacked(), path)
    saved(path, nn.Sequential(quantized(kind)))
    loads_quietly(repacked(), path)


def test_rows_that_changed_places_are_no_rounding(path):
    """Their signs may be the same: the factors' magnitudes tell them apart."""
    base = nn.Sequential(linear(12, 20, dtype=FP32), nn.Tanh(), linear(20, 80, dtype=FP32))
    saved(path, copy.deepcopy(base))
    for i in range(1, 10):
        other = copy.deepcopy(base).bfloat16().float()
        for p in (other[2].weight.data, other[2].bias.data):
            p[[0, i]] = p[[i, 0]]
        refused(other, path)


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 0.1])
def test_a_sibling_in_the_same_precision_is_refused_however_near(distance, path):
    base = saved(path, small_model())
    message = refused(moved(base, distance), path)
    named = [float(number) for number in re.findall(r"'[02]' \(([^)]+)\)", message)]
    assert len(named) == 2 and max(named) == pytest.approx(distance, rel=0.5)
    refused(moved(base, distance, only="2.bias"), path, match="1 of 2 adapted layers .*'2'")


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_a_sibling_in_another_precision_is_refused_beyond_the_bound(dtype, path):
    name = {BF16: "bf16", FP16: "fp16"}[dtype]
    base = saved(path, small_model())
    refused(moved(base, 2 * BOUNDS[name][0]).to(dtype), path, match="2 of 2")
    refused(moved(base, 2 * BOUNDS[name][0], only="2.bias").to(dtype), path, match="1 of 2 .*'2'")
    loads_with_a_report(moved(base, 0.2 * BOUNDS[name][0]).to(dtype), path)  # this is what gets through
    refused(small_model(seed=7).to(dtype), path, match="2 of 2")
    # Rounded, but stored as float32: no copy of the base, and no other precision that would excuse it
    refused(moved(base, 0.2 * BOUNDS[name][0]).to(dtype).float(), path)


def test_the_worst_layers_are_named_with_their_distances(path):
    model = nn.Sequential(*(linear(12, 12, dtype=FP32, seed=i) for i in range(6)))
    base = saved(path, model)
    for i, distance in ((1, 0.02), (2, 0.5), (4, 0.1), (5, 0.004)):
        base[i].load_state_dict(moved(base[i], distance).state_dict())
    message = refused(
        base, path, match=r"4 of 6 adapted layers .*: '2' \(0\.[3-7]\d?\), '4' \(0.\d+\), '1' \(0.0\d+\), and 1 more\. "
    )
    assert "strict_base=False" in message and "'5'" not in message and "'0'" not in message


def test_what_no_number_can_be_given_for(path):
    base = saved(path, small_model())
    unbiased = copy.deepcopy(base)
    unbiased[2].bias = None
    refused(unbiased, path, match=r"'2' \(inf\)")
    broken = copy.deepcopy(base).bfloat16()
    broken[0].weight.data[0, 0] = float("nan")
    refused(broken, path, match=r"'0' \(inf\)")
    zero = copy.deepcopy(base)
    zero[0].bias.data.zero_()
    zero = saved(path, zero)
    zero[0].bias.data[0] = 1e-9
    refused(zero.bfloat16(), path, match=r"'0' \(inf\)")


def test_a_base_that_is_not_finite_is_known_again(path):
    model = small_model()
    model[0].weight.data[0, 0] = float("inf")
    base = saved(path, model)
    loads_quietly(base, path)


def test_layers_that_are_not_adapted_are_not_judged(path):
    model = small_model()
    base = copy.deepcopy(model)
    far_from_start(attach(model, al.LoRA(r=2), targets="0"))
    al.save(model, path)
    base[2].weight.data.mul_(3)
    loads_quietly(base, path)


def test_ia3_on_a_layer_of_another_width(path):
    """Its tensors would fit: d_out is the same."""
    model = nn.Sequential(linear(6, 4, bias=False, dtype=FP32))
    attach(model, al.IA3())
    al.save(model, path)
    refused(nn.Sequential(linear(9, 4, bias=False, dtype=FP32)), path)
    # 6 x 4 numbers are 5 x 4 and a bias of 4: the same bytes
    other = nn.Sequential(linear(5, 4, dtype=FP32))
    values = model[0].weight.data.flatten()
    other[0].weight.data, other[0].bias.data = values[:20].view(4, 5).clone(), values[20:].clone()
    refused(other, path)


def test_strict_base_false_overrides_with_a_warning(path):
    model = small_model()
    base = saved(path, model)
    other = moved(base, 0.5)
    with pytest.warns(UserWarning, match=r"2 of 2 .*'0' \(0\.\d+\).*going on because strict_base=False"):
        al.load(other, path, strict_base=False)
    assert {k: v for k, v in bits(other).items() if "adapter" in k} == {
        k: v for k, v in bits(model).items() if "adapter" in k
    }
    unbiased = copy.deepcopy(base)
    unbiased[2].bias = None
    with pytest.warns(UserWarning, match="inf"):
        al.load(unbiased, path, strict_base=False)


def test_a_weight_that_cannot_be_read(path):
    base = saved(path, small_model())
    meta = copy.deepcopy(base)
    meta[2].weight = nn.Parameter(meta[2].weight.to("meta"))
    packed = copy.deepcopy(base)
    packed[2].weight = nn.Parameter(torch.zeros(160, 1))
    for other in (meta, packed):
        before = list(other.state_dict())
        with pytest.raises(al.AdapterFileError, match="the weight of layer '2' cannot be read: .+"):
            al.load(other, path)
        assert list(other.state_dict()) == before


def test_a_fine_tuned_sibling_of_the_embedded_base(path):
    """Real weights: its bf16 copy loads, a few steps of training away from it none does, in either precision."""
    pytest.importorskip("transformers")
    from adapterlab.kit import load_base

    model = load_base()[0]
    base = saved(path, model)
    message = loads_with_a_report(copy.deepcopy(base).bfloat16(), path)
    assert "by up to 0.00" in message
    sibling = copy.deepcopy(base)
    optimizer = torch.optim.AdamW(sibling.parameters(), lr=1e-3)
    batch = torch.randint(3, 1000, (4, 16), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        optimizer.zero_grad()
        sibling(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    moves = [relative(p, q) for p, q in zip(sibling.parameters(), base.parameters()) if p.dim() == 2]
    assert 4e-3 < min(moves) and max(moves) < 0.5  # light fine-tuning, and yet all beyond bf16's bound
    for other in (sibling, copy.deepcopy(sibling).bfloat16(), copy.deepcopy(sibling).bfloat16().float()):
        refused(other, path, match="28 of 28 adapted layers")


# ---- the cost ---------------------------------------------------------------------------------------


def test_two_processors_take_no_longer_than_one_sha256():
    """Of the processor's time: the sketch needs no more than SHA-256 does, and runs beside it."""
    layer = nn.Linear(2048, 2048)
    W, b = layer.weight.detach(), layer.bias.detach()
    buffer = W.numpy()

    def cost(function):
        times = []
        for _ in range(9):
            start = time.thread_time()
            function()
            times.append(time.thread_time() - start)
        return min(times)

    plain = cost(lambda: hashlib.sha256(buffer).digest())
    assert cost(lambda: digest(W, b)) < 1.2 * plain
    # Where a processor computes SHA-256 in hardware it is 5 times faster than this test needs it to be elsewhere.
    assert cost(lambda: sketches(W, b)) < 1.5 * plain


def test_digest_and_sketch_run_at_the_same_time():
    """One waits for the other: neither would end if they ran in turn."""
    both = threading.Barrier(2, timeout=20)
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two processors")
    layer = nn.Linear(1024, 1024)
    measure({"": layer}, lambda W, b: both.wait(), lambda W, b: both.wait())


def test_load_of_an_equal_base_takes_no_sketch(path, monkeypatch):
    base = saved(path, small_model())
    monkeypatch.setattr(al.checkpoint, "sketches", lambda W, b: pytest.fail("sketched"))
    al.load(base, path)


def test_a_low_precision_weight_is_not_copied_whole():
    """It goes through float32 in chunks: no tensor made on the way is as large as the weight itself."""
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append(result.untyped_storage().nbytes())
            return result

    W = torch.zeros(4096, 1024, dtype=BF16)
    with Watch():
        digest(W, None), sketches(W, None)
    assert max(size for size in made if size != W.untyped_storage().nbytes()) < 2**21 < 2 * W.numel()

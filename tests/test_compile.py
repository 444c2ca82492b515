"""torch.compile, without graph breaks. It does not guard hooks: compiled code must not go on without the adapter.

Backend aot_eager: it traces forward and backward as inductor does, and needs no C compiler.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import adapterlab as al
from helpers import IDS, VARIANTS, attach, far_from_start, randn, relative, small_model

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
# What lies in hooks and guards is the same for every variant: one of each family, and one on each side of the layer.
FAMILIES = ("lora", "dora", "ia3_ff", "antipasto")
each_family = pytest.mark.parametrize(
    "variant", [pytest.param(v, id=v.name, marks=() if v.name in FAMILIES else pytest.mark.full) for v in VARIANTS]
)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
FP32 = 5e-6

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Model(nn.Module):
    """A class of its own: torch.compile's cache belongs to the code of `forward`.

    Frozen from the start: requires_grad is guarded, so where attach is what freezes the base, the code
    is compiled again anyway, and a test of attach could not fail.
    """

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.body = small_model(dtype).requires_grad_(False)

    def forward(self, x):
        return self.body(x)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(model):
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def inputs(dtype=torch.float32):
    return randn(6, 12, seed=1, dtype=dtype)


def outputs_and_gradients(call, adapter, x):
    y = call(x)
    y.float().square().sum().backward()
    found = {"y": y.detach(), **{name: p.grad.clone() for name, p in adapter.named_parameters()}}
    for p in adapter.parameters():
        p.grad = None
    return found


def assert_agree(model, adapter, compiled_model, x):
    eager = outputs_and_gradients(model, adapter, x)
    fast = outputs_and_gradients(compiled_model, adapter, x)
    for name, expected in eager.items():
        assert relative(fast[name], expected) < (1e-2 if x.dtype == torch.bfloat16 else FP32), name


@each_variant
@each_dtype
def test_compiled_after_attach(variant, dtype):
    model = Model(dtype)
    adapter = far_from_start(attach(model, variant))
    assert_agree(model, adapter, compiled(model), inputs(dtype))


@each_family
@each_dtype
def test_compiled_before_attach(variant, dtype):
    model, x = Model(dtype), inputs(dtype)
    fast = compiled(model)
    base = fast(x)
    adapter = far_from_start(attach(model, variant))
    assert relative(fast(x), base) > 0.05
    assert_agree(model, adapter, fast, x)


@each_family
def test_a_second_instance_of_a_class_that_is_compiled(variant):
    x = inputs()
    first, second = compiled(Model()), Model()
    fast = compiled(second)
    base = first(x)
    fast(x)
    adapter = far_from_start(attach(second, variant))
    assert relative(fast(x), base) > 0.05
    assert_agree(second, adapter, fast, x)
    assert torch.equal(first(x), base)  # and the first instance goes on without


@each_family
def test_attach_to_the_compiled_wrapper(variant):
    model, x = Model(), inputs()
    fast = compiled(model)
    fast(x)
    adapter = far_from_start(attach(fast, variant))
    assert adapter.targets == ("body.0", "body.2")
    assert_agree(model, adapter, fast, x)
    al.detach(fast)
    assert torch.equal(fast(x), Model()(x))


@each_variant
def test_training_is_seen(variant):
    """Parameters are inputs of the compiled code, and edits between two forwards are seen."""
    model, x = Model(), inputs()
    adapter = far_from_start(attach(model, variant))
    fast = compiled(model)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        before = fast(x)
        before.square().mean().backward()
        optimizer.step()
        after = fast(x)
        assert relative(after, before) > 1e-4
        assert relative(after, model(x)) < FP32


@each_family
def test_detach_is_seen(variant):
    model, x = Model(), inputs()
    fast = compiled(model)
    base = fast(x)
    adapter = far_from_start(attach(model, variant))
    fast(x)
    adapter.detach()
    assert torch.equal(fast(x), base)
    with attach(model, variant) as adapter:
        far_from_start(adapter)
        assert relative(fast(x), base) > 0.05
    assert torch.equal(fast(x), base)


@each_family
def test_load_is_seen(variant, tmp_path):
    model, x = Model(), inputs()
    fast = compiled(model)
    far_from_start(attach(model, variant))
    adapted = fast(x)
    al.save(model, tmp_path / "adapter.safetensors")
    al.detach(model)
    base = fast(x)
    al.load(model, tmp_path / "adapter.safetensors")
    assert relative(fast(x), adapted) < FP32 and relative(base, adapted) > 0.05


@each_family
def test_merge_is_seen(variant):
    model, x = Model(), inputs()
    far_from_start(attach(model, variant))
    fast = compiled(model)
    adapted = fast(x)
    al.merge(model)
    assert relative(fast(x), adapted) < FP32
    assert torch.equal(fast(x), model(x))


@each_family
def test_a_second_pass_is_seen(variant):
    model, x = Model(), inputs()
    first = far_from_start(attach(model, variant, targets="0"))
    fast = compiled(model)
    one = fast(x)
    second = far_from_start(attach(model, variant, targets="2"))
    assert relative(fast(x), model(x)) < FP32 and relative(fast(x), one) > 0.05
    first.detach()
    assert relative(fast(x), model(x)) < FP32
    second.detach()


@each_family
def test_disabled_is_seen(variant):
    model, x = Model(), inputs()
    fast = compiled(model)
    base = fast(x)
    adapter = far_from_start(attach(model, variant))
    adapted = fast(x)
    with adapter.disabled():
        assert torch.equal(fast(x), base)
    assert torch.equal(fast(x), adapted)


@each_family
@each_dtype
def test_frozen_is_seen(variant, dtype):
    model, x = Model(dtype), inputs(dtype)
    adapter = far_from_start(attach(model, variant))
    fast = compiled(model)
    with torch.no_grad():
        outside = fast(x)
        with adapter.frozen():
            assert torch.equal(fast(x), outside)
            for p in adapter.parameters():
                p.mul_(1.5).add_(0.1)
            assert torch.equal(fast(x), outside)  # what was prepared on entry is what runs
        after = fast(x)
        assert relative(after, outside) > 0.01 and relative(after, model(x)) < (
            1e-2 if dtype != x.float().dtype else FP32
        )
        with adapter.frozen():
            assert torch.equal(fast(x), after)  # and not what an earlier entry prepared


@each_variant
def test_what_is_derived_from_a_new_base_weight(variant):
    model, x = Model(), inputs()
    far_from_start(attach(model, variant))
    fast = compiled(model)
    fast(x)
    other = small_model(seed=7)
    model.body.load_state_dict(other.state_dict(), strict=False)
    assert relative(fast(x), model(x)) < FP32


@each_family
def test_compiled_in_inference_mode(variant):
    model, x = Model(), inputs()
    far_from_start(attach(model, variant))
    fast = compiled(model)
    with torch.inference_mode():
        assert relative(fast(x), model(x)) < FP32


@each_variant
def test_compiled_under_autocast(variant):
    model, x = Model(), inputs()
    adapter = far_from_start(attach(model, variant))
    fast = compiled(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = model(x), fast(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert relative(found, expected) < 1e-2
    found.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in adapter.parameters())


@each_family
def test_no_state_is_compiled_twice(variant):
    """Switched off, switched on again, prepared and not: one compiled form of each, kept. A coefficient needs none."""
    model, x = Model(), inputs()
    adapter = far_from_start(attach(model, variant))
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(model, backend=counter, fullgraph=True)

    def all_states():
        with torch.no_grad():
            fast(x)
            with adapter.disabled():
                fast(x)
            with adapter.frozen():
                fast(x)

    all_states()
    first = counter.frame_count
    for i in range(3):
        if variant.steerable:
            adapter.coefficient = 0.5 - i
        all_states()
    assert first >= 3 and counter.frame_count == first

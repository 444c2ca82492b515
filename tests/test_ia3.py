"""IA3 and IA3-FF together, as the paper uses them: two passes that come and go as one; and where they meet."""

import pytest
import torch
import torch.nn.functional as F

import adapterlab as al
from anatomy import bits
from helpers import far_from_start, linear, randn, relative, tiny_llama

TOKENS = torch.arange(3, 15).view(2, 6)


def recipe(model):
    """IA3 on keys and values, IA3-FF on the last layer of the feed-forward."""
    gates = al.attach(model, al.IA3(), targets=r"[kv]_proj$")
    return gates, al.attach(model, al.IA3FF(), targets=r"down_proj$")


@pytest.fixture
def adapted():
    model = tiny_llama()
    base = model(TOKENS).logits
    passes = recipe(model)
    for i, adapter in enumerate(passes):
        far_from_start(adapter, seed=i)
    return model, passes, base


def test_two_passes_save_and_load_as_one(adapted, tmp_path):
    model, passes, base = adapted
    trained = model(TOKENS).logits
    al.save(model, tmp_path / "ia3.safetensors")
    fresh = tiny_llama()
    both = al.load(fresh, tmp_path / "ia3.safetensors")
    assert torch.equal(fresh(TOKENS).logits, trained) and not torch.equal(trained, base)
    assert set(both.targets) == {*passes[0].targets, *passes[1].targets}
    assert both.num_parameters == sum(adapter.num_parameters for adapter in passes) == 2 * (16 + 16 + 40)
    with both.disabled():
        assert torch.equal(fresh(TOKENS).logits, base)
    with torch.no_grad(), both.frozen():
        assert torch.equal(fresh(TOKENS).logits, trained)
    both.detach()
    assert bits(fresh) == bits(tiny_llama())


def test_two_passes_are_disabled_by_two_withs(adapted):
    model, (first, second), base = adapted
    with first.disabled(), second.disabled():
        assert torch.equal(model(TOKENS).logits, base)


def test_two_passes_detach_and_merge_as_one(adapted):
    model, _, base = adapted
    trained = model(TOKENS).logits
    al.merge(model)
    assert relative(model(TOKENS).logits, trained) < 5e-6
    model = tiny_llama()
    before = bits(model)
    recipe(model)
    al.detach(model)
    assert bits(model) == before


def test_an_input_gate_is_an_output_gate_of_the_layer_before():
    """down(g * (act(gate(x)) * up(x))) = down(act(gate(x)) * (g * up(x)))."""
    gate, up, down = (linear(*shape, seed=i) for i, shape in enumerate([(12, 20), (12, 20), (20, 8)]))
    x, g = randn(5, 12, seed=4), randn(20, seed=5)

    def block():
        return down(F.silu(gate(x)) * up(x))

    outputs = []
    for layer, variant in ((down, al.IA3FF()), (up, al.IA3())):
        with al.attach(layer, variant, dtype=torch.float64) as adapter, torch.no_grad():
            next(adapter.parameters()).copy_(g)
            outputs.append(block())
    assert relative(*outputs) < 1e-12 and relative(outputs[0], block()) > 0.1


def test_the_two_sides_differ_even_where_the_layer_is_square():
    layer, x, g = linear(16, 16), randn(5, 16, seed=1), randn(16, seed=2)
    outputs = []
    for variant in (al.IA3(), al.IA3FF()):
        with al.attach(layer, variant, dtype=torch.float64) as adapter, torch.no_grad():
            next(adapter.parameters()).copy_(g)
            outputs.append(layer(x))
    assert relative(*outputs) > 0.1


@pytest.mark.parametrize("lr, up, down", [(1e-3, False, False), (3e-3, False, True), (5e-3, True, True)])
def test_a_bf16_gate_at_1_has_a_dead_zone_and_a_ratchet_above_it(lr, up, down):
    """bf16 steps by 2^-7 above 1 and by 2^-8 below: half of that is what a step must exceed to count."""
    layer = linear(16, 16, dtype=torch.float32)
    adapter = al.attach(layer, al.IA3(), dtype=torch.bfloat16)
    (g,) = adapter.parameters()
    sign = torch.tensor([1.0, -1.0]).repeat(8)
    optimizer = torch.optim.Adam([g], lr=lr)  # its first step is the rate, against the gradient's sign
    (g * sign).sum().backward()
    optimizer.step()
    assert ((g > 1).any().item(), (g < 1).any().item()) == (up, down)


@pytest.mark.parametrize("variant", [al.IA3(), al.IA3FF()], ids=lambda v: v.name)
def test_a_bf16_gates_gradient_is_summed_in_float32(variant):
    """Two tokens whose shares nearly cancel: products rounded to bf16 would be off by up to a quarter of the rest."""
    layer = linear(16, 16, bias=False, dtype=torch.bfloat16)
    (g,) = al.attach(layer, variant, dtype=torch.bfloat16).parameters()
    ones, near = torch.ones(2, 16, dtype=torch.bfloat16), torch.tensor([[1], [-1 - 2**-7]], dtype=torch.bfloat16)
    if variant.side == "output":
        share = layer(ones)[0].detach()
        (layer(ones) * near).sum().backward()
    else:
        share = (ones @ layer.weight)[0]
        layer(ones * near).sum().backward()
    assert torch.equal(g.grad, share * -(2**-7))


def test_gates_are_float32_on_a_bf16_base_and_move_at_any_rate():
    layer = linear(16, 16, dtype=torch.bfloat16)
    adapter = al.attach(layer, al.IA3())
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-5)
    layer(randn(4, 16, seed=1, dtype=torch.bfloat16)).float().square().sum().backward()
    optimizer.step()
    (g,) = adapter.parameters()
    assert (g != 1).all()

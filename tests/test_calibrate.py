"""Streaming layer inputs to a variant that starts from data; the model is as before, whatever happens."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import adapterlab as al
from adapterlab.calibrate import layer_inputs, second_moments
from anatomy import anatomy, unchanged
from helpers import linear, randn, relative, small_model, tiny_llama


@pytest.fixture
def MeanInput(registry):
    """y + lora_gain * mean input: starts from data, and says with `data` whether it must."""

    @al.register("mean_input")
    @dataclass(frozen=True)
    class MeanInput(al.Variant):
        fail: bool = False

        data: ClassVar[str] = "required"

        def specs(self, d_in, d_out):
            return {"lora_gain": al.ParamSpec((d_out,)), "lora_mean": al.ParamSpec((d_in,), as_buffer=True)}

        def group_init(self, layers, batches):
            total, rows = {}, {}
            for seen in batches:
                for path, x in seen.items():
                    assert x.dim() == 2 and not x.requires_grad
                    total[path] = total.get(path, 0) + x.sum(0)
                    rows[path] = rows.get(path, 0) + len(x)
                if self.fail:
                    raise ArithmeticError("group_init failed")
            for path, p in layers.items():
                p.lora_mean.copy_(total[path] / rows[path])

        def effective_weight(self, p, W, b):
            return W + torch.outer(p.lora_gain, p.lora_mean), b

        def prepare(self, p, layer):
            return p.lora_gain, p.lora_mean

        def forward(self, prepared, x, y):
            gain, mean = prepared
            return y + (x @ mean)[..., None] * gain

    return MeanInput


def batches(n=3):
    return [randn(2, 5, 12, seed=i, dtype=torch.float32) for i in range(n)]


class Named(nn.Module):
    """Takes its input by name, second, and has a layer that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.body, self.unused = small_model(), linear(12, 4, dtype=torch.float32)

    def forward(self, mask=None, x=None):
        return self.body[2](input=torch.tanh(self.body[0](x)))


@pytest.mark.parametrize(
    "wrap, make",
    [
        (lambda data: data, small_model),
        (lambda data: iter(data), small_model),
        (lambda data: (x for x in data), small_model),
        (lambda data: [(x,) for x in data], small_model),
        (lambda data: [[x] for x in data], small_model),
        (lambda data: [{"x": x} for x in data], Named),
        (lambda data: [(None, x) for x in data], Named),
        (lambda data: torch.stack(data), small_model),  # iterates over its first dimension
    ],
    ids=["tensors", "iterator", "generator", "tuples", "lists", "dicts", "arguments", "one tensor"],
)
def test_every_kind_of_batches(wrap, make, MeanInput):
    model = make()
    adapter = al.attach(model, MeanInput(), targets=r"(^|\.)[02]$", calibration_data=wrap(batches()))
    first, second = (model.get_submodule(path) for path in adapter.targets)
    x = torch.cat(batches()).reshape(-1, 12)
    assert relative(first.adapter.lora_mean, x.mean(0)) < 1e-6
    with adapter.disabled():
        hidden = torch.tanh(first(x))
    assert relative(second.adapter.lora_mean, hidden.mean(0)) < 1e-6


def test_batches_of_a_language_model(MeanInput):
    model = tiny_llama()
    seen = {}
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    model(input_ids=torch.arange(3, 15).view(2, 6))
    handle.remove()
    data = [{"input_ids": torch.arange(3, 15).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}]
    al.attach(model, MeanInput(), targets="down_proj", layers=[1], calibration_data=data)
    mean = model.model.layers[1].mlp.down_proj.adapter.lora_mean
    assert relative(mean, seen["x"].reshape(-1, 40).mean(0)) < 1e-5


def test_one_batch_is_in_memory_at_a_time():
    """Batch n + 1 is asked for only after what batch n gave has been used."""
    model, asked = small_model(), []

    def data():
        for i, x in enumerate(batches()):
            asked.append(i)
            yield x

    for i, seen in enumerate(layer_inputs(model, {"0": model[0]}, data())):
        assert asked == list(range(i + 1))
        assert torch.equal(seen["0"], batches()[i].reshape(-1, 12))
    assert asked == [0, 1, 2]


def test_a_layer_that_a_batch_does_not_reach_is_left_out():
    model = Named()
    layers = {"body.0": model.body[0], "unused": model.unused}
    assert [set(seen) for seen in layer_inputs(model, layers, [{"x": x} for x in batches()])] == [{"body.0"}] * 3


def test_the_model_runs_in_eval_mode_without_gradients_and_its_modes_come_back(MeanInput):
    model = nn.Sequential(small_model(), nn.Dropout(0.5), linear(8, 3, dtype=torch.float32))
    model.train()
    model[0].eval()  # a mixture, to be restored as such
    modes = {path: module.training for path, module in model.named_modules()}
    running = []
    handle = model[1].register_forward_hook(lambda m, *_: running.append((m.training, torch.is_grad_enabled())))
    al.attach(model, MeanInput(), calibration_data=batches())
    handle.remove()
    assert running == [(False, False)] * 3
    assert {path: module.training for path, module in model.named_modules() if "adapter" not in path} == modes
    assert model[2].adapter.training and not model[0][0].adapter.training


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear(12, 8, dtype=torch.float32)

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


def test_the_random_state_comes_back(MeanInput):
    model = Noisy()
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    al.attach(model, MeanInput(), calibration_data=batches())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("data", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_no_batch_is_refused(data, MeanInput):
    model = small_model().train()
    with unchanged(model), pytest.raises(ValueError, match="calibration_data holds no batch"):
        al.attach(model, MeanInput(), calibration_data=data)


def test_data_that_is_required_is_asked_for(MeanInput):
    model = small_model()
    with unchanged(model), pytest.raises(ValueError, match="mean_input starts from data: pass calibration_data"):
        al.attach(model, MeanInput())


def test_data_that_is_optional_may_be_left_out(MeanInput):
    class Optional(MeanInput):
        data = "optional"

    model = small_model()
    al.attach(model, Optional())
    assert (model[0].adapter.lora_mean == 0).all()
    al.detach(model)
    al.attach(model, Optional(), calibration_data=batches())
    assert (model[0].adapter.lora_mean != 0).any()


def test_an_error_in_group_init_leaves_no_hook(MeanInput):
    model = small_model().train()
    before = anatomy(model)
    try:
        al.attach(model, MeanInput(fail=True), calibration_data=batches())
    except ArithmeticError as error:
        assert anatomy(model) == before  # now, and not only once the traceback is collected
        assert "group_init failed" in str(error)
    else:
        pytest.fail("the error was swallowed")


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 7), {"nothing": torch.zeros(2, 12)}, "x"], ids=["shape", "name", "type"]
)
def test_an_error_in_the_model_leaves_no_hook(bad, MeanInput):
    model = small_model().train()
    before = anatomy(model)
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        al.attach(model, MeanInput(), calibration_data=[*batches(), bad])
    assert anatomy(model) == before


def test_an_error_in_the_data_leaves_no_hook(MeanInput):
    def data():
        yield batches()[0]
        raise OSError("the disk is gone")

    model = small_model().train()
    with unchanged(model), pytest.raises(OSError, match="the disk is gone"):
        al.attach(model, MeanInput(), calibration_data=data())


def test_an_iterator_that_is_dropped_half_way_leaves_no_hook():
    model = small_model().train()
    with unchanged(model):
        stream = layer_inputs(model, {"0": model[0]}, batches())
        next(stream)
        stream.close()


def test_load_needs_no_data(MeanInput, tmp_path):
    model, x = small_model(), randn(6, 12, seed=9, dtype=torch.float32)
    adapter = al.attach(model, MeanInput(), calibration_data=batches())
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(randn(*p.shape, seed=3))
    al.save(model, tmp_path / "mean.safetensors")
    fresh = small_model()
    al.load(fresh, tmp_path / "mean.safetensors")
    assert torch.equal(fresh(x), model(x))
    al.merge(fresh)
    assert relative(fresh(x), model(x)) < 5e-6


def test_a_second_pass_sees_the_inputs_that_the_first_one_makes(MeanInput):
    model = small_model()
    al.attach(model, al.LoRA(r=2), targets="0")
    with torch.no_grad():
        model[0].adapter.lora_B.normal_()
    al.attach(model, MeanInput(), targets="2", calibration_data=batches())
    hidden = torch.tanh(model[0](torch.cat(batches()).reshape(-1, 12)))
    assert relative(model[2].adapter.lora_mean, hidden.mean(0)) < 1e-5


# ---- what exactly a layer sees --------------------------------------------------------------------


def test_layers_called_with_one_tensor_share_one_copy():
    model = tiny_llama()
    layers = {name: model.get_submodule(f"model.layers.0.self_attn.{name}_proj") for name in "qkvo"}
    for seen in layer_inputs(model, layers, [torch.arange(3, 15).view(2, 6)]):
        assert seen["q"] is seen["k"] is seen["v"]
        assert seen["o"] is not seen["q"]


class InPlace(nn.Module):
    """Writes into what its layers were given: before the second layer runs, and after."""

    def __init__(self):
        super().__init__()
        self.first, self.second = linear(12, 12, dtype=torch.float32), linear(12, 12, dtype=torch.float32)

    def forward(self, x):
        h = x.clone()
        y = self.first(h)
        h.mul_(2)
        y = y + self.second(h)
        return y + h.zero_()


@pytest.mark.parametrize("inference", [False, True])
def test_a_model_that_writes_in_place_is_seen_as_its_layers_saw_it(inference):
    model, x = InPlace(), batches(1)[0]
    if inference:
        with torch.inference_mode():
            x = x.clone()
    for seen in layer_inputs(model, {"first": model.first, "second": model.second}, [x]):
        assert torch.equal(seen["first"], x.reshape(-1, 12))
        assert torch.equal(seen["second"], 2 * x.reshape(-1, 12))


def test_masked_tokens_are_left_out():
    model = tiny_llama()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
    path, batch = "model.layers.1.mlp.down_proj", {"input_ids": torch.arange(3, 15).view(2, 6)}
    layers = {path: model.get_submodule(path)}
    (every,) = layer_inputs(model, layers, [batch])
    (kept,) = layer_inputs(model, layers, [batch | {"attention_mask": mask}])
    assert len(every[path]) == 12 and len(kept[path]) == 6
    assert relative(kept[path], every[path][mask.flatten().bool()]) < 1e-5  # causal: what follows is not seen


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_with_layer_and_batch(value, MeanInput):
    data = batches()
    data[1][0, 2, 3] = value
    model = small_model()
    with unchanged(model), pytest.raises(ValueError, match="input of '0' holds .* not finite in calibration batch 2"):
        al.attach(model, MeanInput(), calibration_data=data)


def test_moments_are_those_of_all_tokens_together():
    data = [randn(n, 5, seed=n) for n in (3, 1, 7)]
    x = torch.cat(data)
    moments = second_moments(["a"], ({"a": rows} for rows in data))["a"]
    assert moments.tokens == 11
    assert relative(moments.total, x.sum(0)) < 1e-12 and relative(moments.gram, x.t() @ x) < 1e-12


def test_moments_are_shared_only_as_long_as_the_inputs_are():
    one, two, three = (randn(4, 5, seed=i) for i in range(3))
    data = [{"a": one, "b": one, "c": one}, {"a": two, "b": two, "c": three}]
    found = second_moments("abc", data)
    assert found["a"] is found["b"] is not found["c"]
    for path, x in (("a", two), ("c", three)):
        assert relative(found[path].gram, one.t() @ one + x.t() @ x) < 1e-12


def test_the_variant_may_read_the_base_weight_and_leave_a_layer_out(registry):
    @al.register("picky")
    @dataclass(frozen=True)
    class Picky(al.LoRA):
        data: ClassVar[str] = "required"

        def group_init(self, layers, batches):
            next(iter(batches))
            assert {path: tuple(p.base_weight().shape) for path, p in layers.items()} == {"0": (20, 12), "2": (8, 20)}
            del layers["0"]

    model = small_model()
    adapter = al.attach(model, Picky(r=2), calibration_data=batches())
    assert adapter.targets == ("2",) and not hasattr(model[0], "adapter")
    assert not hasattr(model[2].adapter, "base_weight")
    assert not model[0].weight.requires_grad

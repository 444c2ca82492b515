"""Which layers are chosen, and what is said when none is."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import adapterlab as al
from adapterlab.targets import block_index, clean, named_layers, select
from adapterlab.weights import dense_weight, is_linear_like
from helpers import tiny_llama


@pytest.fixture(scope="module")
def llama():
    return tiny_llama()


def chosen(model, targets=None, exclude=("lm_head", "embed"), layers=None):
    return list(select(model, targets, exclude, layers))


@pytest.mark.parametrize(
    "path, expected",
    [
        ("", ""),
        ("model.layers.0.mlp", "model.layers.0.mlp"),
        ("_orig_mod", ""),
        ("_orig_mod.model.q_proj", "model.q_proj"),
        ("module", ""),
        ("module.model.q_proj", "model.q_proj"),
        ("_orig_mod.module.q_proj", "q_proj"),
        ("module._orig_mod.q_proj", "q_proj"),
        (
            "model._fsdp_wrapped_module.layers.3._checkpoint_wrapped_module.q_proj.weight",
            "model.layers.3.q_proj.weight",
        ),
        ("model.module.q_proj", "model.module.q_proj"),  # the user's own name; DDP's stands at the front
        ("my_orig_mod.modules.q_proj", "my_orig_mod.modules.q_proj"),
    ],
)
def test_clean_takes_out_what_wrappers_put_in(path, expected):
    assert clean(path) == expected


names = st.text("abcdefgh_0123456789", min_size=1, max_size=6).filter(lambda name: name != "module")
paths = st.lists(names, max_size=6).map(".".join)


@given(paths)
def test_clean_leaves_other_paths_and_is_done_after_once(path):
    wrapped = ".".join(["_orig_mod", "module", *filter(None, path.split("."))])
    assert clean(path) == path
    assert clean(wrapped) == path
    assert clean(clean(wrapped)) == clean(wrapped)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("model.layers.7.mlp.up_proj", 7),
        ("transformer.h.11.attn.c_attn", 11),
        ("layers.0", 0),
        ("3", 3),
        ("blocks.2.experts.5.w1", 2),  # the first one is the block
        ("", None),
        ("lm_head", None),
        ("layer7.mlp", None),  # a part of a name is no index
        ("model.w2.proj", None),
    ],
)
def test_block_index_is_the_first_whole_number(path, expected):
    assert block_index(path) == expected


@given(paths)
def test_block_index_is_a_part_of_the_path(path):
    index = block_index(path)
    parts = [int(part) for part in path.split(".") if re.fullmatch("[0-9]+", part)]
    assert index == (parts[0] if parts else None)


def test_layers_come_in_model_order(llama):
    names = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"]
    blocks = [f"model.layers.{i}.{name}_proj" for i in range(2) for name in names]
    assert [path for path, _ in named_layers(llama)] == [*blocks, "lm_head"]
    assert chosen(llama) == blocks
    assert chosen(llama, "proj|head") == [*blocks, "lm_head"]
    assert chosen(llama, ["down_proj", "q_proj"]) == [path for path in blocks if path.endswith(("q_proj", "down_proj"))]


@pytest.mark.parametrize(
    "pattern", ["q_proj", "q_proj$", r"(q|z)_proj$", r"^model\.layers\.\d+\.self_attn\.q", "q.proj"]
)
def test_a_pattern_is_searched_in_the_path(llama, pattern):
    assert chosen(llama, pattern) == [f"model.layers.{i}.self_attn.q_proj" for i in range(2)]


def test_several_patterns_are_alternatives_from_any_iterable(llama):
    expected = chosen(llama, "(q|v)_proj$")
    for patterns in (
        ["v_proj$", "q_proj$"],
        ("q_proj$", "v_proj$"),
        {"q_proj$", "v_proj$"},
        iter(["q_proj$", "v_proj"]),
    ):
        assert chosen(llama, patterns) == expected


def test_layers_narrows_what_targets_and_exclude_leave(llama):
    assert chosen(llama, "q_proj", layers=[1]) == ["model.layers.1.self_attn.q_proj"]
    assert chosen(llama, "q_proj|lm_head", layers=[1]) == ["model.layers.1.self_attn.q_proj"]  # the head is in no block
    assert chosen(llama, layers=iter([0])) == [path for path in chosen(llama) if ".0." in path]


def test_exclude_may_be_one_pattern_many_or_none(llama):
    every = [path for path, _ in named_layers(llama)]
    assert chosen(llama, exclude="proj") == ["lm_head"]
    assert chosen(llama, exclude=()) == chosen(llama, exclude=None) == every
    assert chosen(llama, exclude=["head", "mlp"]) == [path for path in every if "self_attn" in path]


@pytest.mark.parametrize("where", ["targets", "exclude"])
@pytest.mark.parametrize("bad", ["(q_proj", "*_proj", ["q_proj", "["], [7]])
def test_what_is_no_regular_expression_is_refused_with_the_pattern(llama, where, bad):
    culprit = bad if isinstance(bad, str) else bad[-1]
    with pytest.raises(ValueError, match=f"{re.escape(repr(culprit))} is no regular expression"):
        al.attach(llama, al.LoRA(), **{where: bad})


@pytest.mark.parametrize(
    "targets, nearest",
    [
        ("qproj", "q_proj"),
        ("q_prj$", "q_proj"),
        (["up_porj"], "up_proj"),
        ("W_down", "down_proj"),
        ("head_lm", "lm_head"),
    ],
)
def test_nothing_matches_names_the_nearest(llama, targets, nearest):
    with pytest.raises(ValueError, match=f"matches targets=.*nearest names are .*{nearest}"):
        al.attach(llama, al.LoRA(), targets=targets)


@pytest.mark.parametrize("targets", ["xyz", [], [""][:0], "^q_proj"])
def test_nothing_matches_names_some_layers_where_none_is_near(llama, targets):
    with pytest.raises(ValueError, match="nearest names are .*_proj"):
        al.attach(llama, al.LoRA(), targets=targets)


def test_no_block_of_that_index(llama):
    with pytest.raises(ValueError, match=r"in blocks \[9\] after `exclude`; the model has blocks \[0, 1\]"):
        al.attach(llama, al.LoRA(), layers=[9])
    with pytest.raises(ValueError, match=r"no layer in blocks \[9\] matches targets='q_proj'"):
        al.attach(llama, al.LoRA(), targets="q_proj", layers=[9])


def test_everything_excluded(llama):
    with pytest.raises(ValueError, match="no layer is left after `exclude`"):
        al.attach(llama, al.LoRA(), exclude="")


def test_a_model_without_layers_says_so():
    with pytest.raises(ValueError, match="ReLU has no linear-like layer"):
        al.attach(nn.ReLU(), al.LoRA())


def test_a_failing_choice_changes_no_model(llama):
    from anatomy import unchanged

    with unchanged(llama), pytest.raises(ValueError):
        al.attach(llama, al.LoRA(), targets="nothing_like_it")


class LinearLike(nn.Module):
    """What a layer of another library looks like."""

    def __init__(self, weight):
        super().__init__()
        self.out_features, self.in_features = 5, 4
        self.weight, self.bias = weight, None

    def forward(self, x):
        return x @ self.weight.T


def test_layers_are_known_by_their_structure():
    layer = LinearLike(nn.Parameter(torch.randn(5, 4)))
    assert is_linear_like(layer)
    assert al.attach(nn.Sequential(nn.LayerNorm(4), layer), al.LoRA(r=2)).targets == ("1",)
    for other in (nn.Embedding(5, 4), nn.Conv1d(4, 5, 1), nn.LayerNorm(4), nn.Bilinear(4, 4, 5), nn.Identity()):
        assert not is_linear_like(other), other
    assert not is_linear_like(nn.MultiheadAttention(4, 2).out_proj)


def test_a_weight_that_cannot_be_read_is_refused():
    for weight in (torch.zeros(10, 1), torch.zeros(5, 4, dtype=torch.int8)):
        layer = LinearLike(nn.Parameter(weight, requires_grad=False))
        with pytest.raises(TypeError, match="LinearLike stores a weight of shape"):
            dense_weight(layer)
        with pytest.raises(TypeError, match="LinearLike stores a weight of shape"):
            al.attach(layer, al.LoRA(r=2))
        assert not hasattr(layer, "adapter")

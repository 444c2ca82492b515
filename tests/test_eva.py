"""EVA's start from data: the directions, what they explain, the ranks, and what a person may do wrong."""

import copy
import math
import weakref

import pytest
import torch
from torch import nn

import adapterlab as al
from anatomy import unchanged
from helpers import far_from_start, linear, randn, relative, small_model, tiny_llama

D_IN = 12


def rows(seed, tokens=60, gap=3, d_in=D_IN, size=1.0):
    """(tokens, d_in) float32 off the origin: `gap` directions stand out of the rest, each a little out of the next."""
    x = randn(tokens, d_in, seed=seed)
    spectrum = torch.cat([torch.linspace(6, 3, gap), torch.linspace(1, 0.2, d_in - gap)]).double()
    turn = torch.linalg.qr(randn(d_in, d_in, seed=seed + 50))[0]
    return (size * (x * spectrum @ turn + 2 * randn(d_in, seed=seed + 99))).float()


def exact(x, r, center):
    """The r first right singular vectors, one a row, by a float64 SVD of the rows themselves."""
    x = x.double()
    if center:
        x = x - x.mean(0)
    return torch.linalg.svd(x, full_matrices=False)[2][:r]


def largest_angle(A, V):
    """Between the spaces that the rows span, by the sine: a cosine near 1 says nothing below 1e-8."""
    A, V = (torch.linalg.qr(m.detach().double().t())[0] for m in (A, V))
    return torch.linalg.svdvals(A - V @ (V.t() @ A))[0].clamp(max=1).asin().item()


def explained(A, x, center):
    """The share of the rows' sum of squares that lies in the space of A."""
    x = x.double() - (x.double().mean(0) if center else 0)
    Q = torch.linalg.qr(A.detach().double().t())[0]
    return ((x @ Q).square().sum() / x.square().sum()).item()


def inputs_of(model, path, batches):
    """What a layer is given, by a hook of this test's own."""
    seen, layer = [], model.get_submodule(path)
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        for batch in batches:
            model(**batch) if isinstance(batch, dict) else model(batch)
    handle.remove()
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in seen])


# ---- directions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_start_is_the_exact_svds(seed, size, center):
    x = rows(seed, gap=3 if center else 4, size=size)  # uncentred, the mean stands out too
    r = 3 if center else 4
    layer = linear(D_IN, 8, dtype=torch.float32)
    al.attach(layer, al.EVA(r=r, alpha=6, center=center), calibration_data=x.split(7))
    A, V = layer.adapter.lora_A, exact(x, r, center)
    assert largest_angle(A, V) < 1e-3
    assert relative(A @ A.t(), torch.eye(r)) < 1e-6  # unit rows, at right angles
    assert relative((A.double() @ V.t()).abs(), torch.eye(r)) < 1e-3  # and in the SVD's order
    assert not layer.adapter.lora_B.any()


@pytest.mark.parametrize("center", [False, True])
def test_the_two_conventions_differ_where_the_mean_is_large(center):
    x = rows(0) + 40
    layer = linear(D_IN, 8, dtype=torch.float32)
    al.attach(layer, al.EVA(r=1, alpha=6, center=center), calibration_data=[x])
    to_mean = largest_angle(layer.adapter.lora_A, x.mean(0, keepdim=True))
    assert to_mean > 0.5 if center else to_mean < 0.1


@pytest.mark.parametrize("center", [False, True])
def test_each_layer_of_a_model_starts_from_its_own_inputs(center):
    model = tiny_llama()
    batches = [{"input_ids": torch.randint(3, 48, (4, 9), generator=torch.manual_seed(i))} for i in range(3)]
    plain = copy.deepcopy(model)
    adapter = al.attach(model, al.EVA(r=4, alpha=6, center=center), calibration_data=batches)
    assert len(adapter.targets) == 14
    for path in adapter.targets:
        x = inputs_of(plain, path, batches)
        A = model.get_submodule(path).adapter.lora_A
        best = explained(exact(x, 4, center), x, center)
        assert explained(A, x, center) == pytest.approx(best, rel=1e-6)
        if path.endswith("q_proj"):
            k, v = (model.get_submodule(path.replace("q_proj", f"{name}_proj")).adapter.lora_A for name in "kv")
            assert torch.equal(A, k) and torch.equal(A, v)  # one input, one SVD


def test_masked_tokens_do_not_count():
    model = tiny_llama()
    short = torch.randint(3, 48, (4, 6), generator=torch.manual_seed(0))
    mask = torch.cat([torch.ones(4, 6), torch.zeros(4, 5)], dim=1).long()
    padded = torch.cat([short, torch.zeros(4, 5).long()], dim=1)
    found = []
    for batch in ({"input_ids": short}, {"input_ids": padded, "attention_mask": mask}):
        one = copy.deepcopy(model)
        al.attach(one, al.EVA(r=4, alpha=6), targets="q_proj", calibration_data=[batch])
        found.append([layer.self_attn.q_proj.adapter.lora_A for layer in one.model.layers])
    assert all(largest_angle(a, b) < 1e-3 for a, b in zip(*found))


def test_pefts_explained_variance():
    """PEFT centres, works on the batches one by one, and stops early: other directions, the same explained variance."""
    from peft import EvaConfig, LoraConfig, get_peft_model
    from peft.tuners.lora import initialize_lora_eva_weights

    from adapterlab import kit
    from adapterlab.kit import batches

    model, tokenizer = kit.load_base()
    data = [*batches.training(kit.TASKS["add_rev"], tokenizer, steps=6, n=16, seed=0)]
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=r".*layers\.[12]\..*_proj",
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=1.0, use_label_mask=False),
    )
    theirs = get_peft_model(copy.deepcopy(model), config)
    initialize_lora_eva_weights(theirs, data, show_progress_bar=False)
    ours = copy.deepcopy(model)
    adapter = al.attach(
        ours, al.EVA(r=8, alpha=16, center=True), targets="_proj$", layers=[1, 2], calibration_data=data
    )
    real = torch.cat([batch["attention_mask"].flatten() for batch in data]).bool()
    differ = 0
    for path in adapter.targets:
        x = torch.cat([inputs_of(model, path, [batch]) for batch in data])[real]
        mine = ours.get_submodule(path).adapter.lora_A
        other = theirs.get_submodule(f"base_model.model.{path}").lora_A["default"].weight
        assert explained(mine, x, True) == pytest.approx(explained(other, x, True), rel=0.01)
        assert explained(mine, x, True) > explained(other, x, True) - 1e-6  # the exact SVD is the best there is
        differ += largest_angle(mine, other) > 1e-2
    assert differ  # so the comparison is not one of equal things


# ---- ranks ----------------------------------------------------------------------------------------


def wide_model(seed=0):
    """Three layers of unlike spectra: a flat one, one with few directions, and one with nearly one alone."""

    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.few, self.one = (linear(D_IN, 10, dtype=torch.float32, seed=seed + i) for i in range(3))
            scales = [torch.ones(D_IN), 0.3 ** torch.arange(D_IN), 0.01 ** torch.arange(D_IN)]
            for i, scale in enumerate(scales):
                self.register_buffer(f"scale_{i}", scale)

        def forward(self, x):
            return self.flat(x * self.scale_0) + self.few(x * self.scale_1) + self.one(x * self.scale_2)

    return Three()


def greedy(x_by_path, r, rho, center):
    """Take the largest share left, one after another, until the budget is spent: path -> rank."""
    shares = {}
    for path, x in x_by_path.items():
        x = x.double() - (x.double().mean(0) if center else 0)
        squares = torch.linalg.svdvals(x).square()
        shares[path] = (squares / squares.sum()).tolist()
    ranks = dict.fromkeys(shares, 0)
    for _ in range(r * len(shares)):
        open_ = [path for path in ranks if ranks[path] < math.floor(rho * r)]
        best = max(open_, key=lambda path: shares[path][ranks[path]])
        ranks[best] += 1
    return ranks


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("r, rho", [(1, 2.0), (2, 1.0), (2, 1.7), (2, 2.9), (3, 1.5), (4, 2.5)])
def test_ranks_go_where_they_explain_most(r, rho, center):
    model, data = wide_model(), [randn(20, D_IN, seed=i, dtype=torch.float32) for i in range(4)]
    x = {path: torch.cat(data) * getattr(model, f"scale_{i}") for i, path in enumerate(("flat", "few", "one"))}
    expected = greedy(x, r, rho, center)
    adapter = al.attach(model, al.EVA(r=r, alpha=6, rho=rho, center=center), calibration_data=data)
    found = {path: len(model.get_submodule(path).adapter.lora_A) for path in adapter.targets}
    assert found == {path: rank for path, rank in expected.items() if rank}
    assert sum(found.values()) == 3 * r and max(found.values()) <= math.floor(rho * r)
    for path, rank in found.items():
        p = model.get_submodule(path).adapter
        assert p.lora_A.shape == (rank, D_IN) and p.lora_B.shape == (10, rank) and not p.lora_B.any()
        assert p.scale == 6 / r and p.variant.r == rank  # a layer's share of the rank does not change its scale
        assert largest_angle(p.lora_A, exact(x[path], rank, center)) < 1e-3


@pytest.fixture
def redistributed():
    """A model whose layer `one` was left without rank, and its adapter."""
    model, data = wide_model(), [randn(20, D_IN, seed=i, dtype=torch.float32) for i in range(4)]
    model.zero = linear(D_IN, 10, dtype=torch.float32)
    forward = type(model).forward
    type(model).forward = lambda self, x: forward(self, x) + self.zero(x * 0)
    return model, al.attach(model, al.EVA(r=2, alpha=6, rho=3.0), calibration_data=data)


def test_a_layer_left_without_rank_is_no_target(redistributed):
    model, adapter = redistributed
    assert "zero" not in adapter.targets and not hasattr(model.zero, "adapter")
    assert not model.zero._forward_hooks and not model.zero._forward_pre_hooks
    assert len({len(p) for name, p in adapter.named_parameters() if name.endswith("lora_A")}) > 1


def test_a_layer_left_without_rank_does_not_stop_the_next():
    class ZeroFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.zero, self.full = (linear(D_IN, 10, dtype=torch.float32, seed=i) for i in range(2))

        def forward(self, x):
            return self.zero(x * 0) + self.full(x)

    model, x = ZeroFirst(), rows(seed=0)
    adapter = al.attach(model, al.EVA(r=2, alpha=6, rho=2.0), calibration_data=[x])
    assert adapter.targets == ("full",)
    assert largest_angle(model.full.adapter.lora_A, exact(x, 4, center=False)) < 1e-3


def test_save_and_load_keep_ranks_and_bits_and_need_no_data(redistributed, tmp_path):
    model, adapter = redistributed
    fresh = copy.deepcopy(model)
    al.detach(fresh)
    far_from_start(adapter)
    al.save(model, tmp_path / "eva.safetensors")
    loaded = al.load(fresh, tmp_path / "eva.safetensors")
    assert loaded.targets == adapter.targets
    one, two = dict(adapter.named_parameters()), dict(loaded.named_parameters())
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    for path in adapter.targets:
        before, after = (m.get_submodule(path).adapter for m in (model, fresh))
        assert (before.variant, before.scale) == (after.variant, after.scale)
    x = randn(5, D_IN, seed=9, dtype=torch.float32)
    assert torch.equal(model(x), fresh(x))
    al.merge(fresh)
    assert relative(fresh(x), model(x)) < 5e-6


def test_rounding_explains_nothing():
    """Inputs that are all alike have no variance; the noise of their sums must not win ranks."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.varied, self.same = (linear(D_IN, D_IN, dtype=torch.float32, seed=i) for i in range(2))
            self.register_buffer("constant", 3 * randn(D_IN, seed=5, dtype=torch.float32))

        def forward(self, x):
            return self.varied(x) + self.same(self.constant.expand_as(x))

    data = [randn(60, D_IN, seed=i, dtype=torch.float32) for i in range(7)]
    adapter = al.attach(Constant(), al.EVA(r=2, alpha=6, rho=2.0, center=True), calibration_data=data)
    assert adapter.targets == ("varied",)


# ---- both tensors are trained ---------------------------------------------------------------------


def test_both_tensors_are_trained():
    """Museum 10: a frozen A passes for EVA as long as only the loss is looked at."""
    model, x = small_model(), randn(30, D_IN, seed=0, dtype=torch.float32)
    adapter = al.attach(model, al.EVA(r=4, alpha=6), calibration_data=[x])
    assert {name.rsplit(".", 1)[1] for name, p in adapter.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    model(x).square().sum().backward()
    assert all(p.grad.any() == name.endswith("lora_B") for name, p in adapter.named_parameters())
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-2)
    optimizer.step()
    model(x).square().sum().backward()
    assert all(p.grad.any() for p in adapter.parameters())


# ---- the model, the randomness and the memory --------------------------------------------------------


def test_mode_and_randomness_come_back():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop = linear(D_IN, 8, dtype=torch.float32), nn.Dropout(0.5)

        def forward(self, x):
            return self.layer(self.drop(x) + torch.randn_like(x))

    def after(batches):
        model = Noisy().train()
        model.drop.eval()
        torch.manual_seed(3)
        al.attach(model, al.EVA(r=4, alpha=6), calibration_data=batches)
        assert model.training and model.layer.training and not model.drop.training
        return torch.rand(4)

    one, many = [rows(0)], [rows(i) for i in range(5)]
    assert torch.equal(after(one), after(many))  # however often the model drew


def test_memory_does_not_grow_with_the_number_of_batches():
    made, alive = [], []

    class Watched(torch.Tensor):
        """Whatever is computed from it is of this class too, and noted."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            result = super().__torch_function__(function, types, args, kwargs)
            results = result if isinstance(result, tuple) else [result]
            made.extend(weakref.ref(t) for t in results if isinstance(t, cls))
            return result

    def data():
        for i in range(12):
            alive.append(sum(ref() is not None for ref in made))
            yield rows(i, tokens=20).as_subclass(Watched)

    al.attach(small_model(), al.EVA(r=4, alpha=6), calibration_data=data())
    assert len(alive) == 12 and len(made) > 100
    assert 0 < alive[-1] == alive[2]  # from the third batch on, as many are let go as are made


# ---- what a person may pass --------------------------------------------------------------------------


def test_a_generator_is_gone_through_once():
    asked = []

    def data():
        for i in range(4):
            asked.append(i)
            yield rows(i)

    al.attach(small_model(), al.EVA(r=4, alpha=6, rho=2.0), calibration_data=data())
    assert asked == [0, 1, 2, 3]


def test_what_a_tokenizer_gives_is_a_batch():
    from adapterlab import kit

    model, tokenizer = kit.load_base()
    batch = tokenizer(["57+28=", "sort c a b ="], return_tensors="pt", padding=True)
    assert not isinstance(batch, dict)
    twin = copy.deepcopy(model)
    al.attach(model, al.EVA(r=2, alpha=6), targets="q_proj", calibration_data=[batch])
    al.attach(twin, al.EVA(r=2, alpha=6), targets="q_proj", calibration_data=[dict(batch)])
    for one, two in zip(model.model.layers, twin.model.layers):
        assert torch.equal(one.self_attn.q_proj.adapter.lora_A, two.self_attn.q_proj.adapter.lora_A)


def test_one_batch_alone_is_refused_by_name():
    batch = {"input_ids": torch.arange(3, 15).view(2, 6)}
    model = tiny_llama()
    with unchanged(model), pytest.raises(TypeError, match=r"calibration_data is one dict: pass a list of batches"):
        al.attach(model, al.EVA(r=2), calibration_data=batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_base_in_any_dtype(dtype):
    model, x = small_model().to(dtype), rows(0).to(dtype)
    before = model(x)
    al.attach(model, al.EVA(r=4, alpha=6), calibration_data=[x])
    A = model[0].adapter.lora_A
    assert A.dtype == torch.float32 and largest_angle(A, exact(x, 4, False)) < 1e-3
    assert torch.equal(model(x), before)


def test_a_layer_that_is_called_twice_sees_both_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear(D_IN, D_IN, dtype=torch.float32)

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    model, x = Twice(), rows(0)
    both = torch.cat([x, torch.tanh(model.layer(x))]).detach()
    al.attach(model, al.EVA(r=4, alpha=6), calibration_data=[x])
    assert largest_angle(model.layer.adapter.lora_A, exact(both, 4, False)) < 1e-3


def test_an_input_that_is_written_to_afterwards():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.after = (linear(D_IN, 8, dtype=torch.float32, seed=i) for i in range(2))

        def forward(self, x):
            x = x.clone()
            return self.before(x) + self.after(x.relu_())

    model, x = InPlace(), rows(0)
    al.attach(model, al.EVA(r=4, alpha=6), calibration_data=[x])
    assert largest_angle(model.before.adapter.lora_A, exact(x, 4, False)) < 1e-3
    assert largest_angle(model.after.adapter.lora_A, exact(x.relu(), 4, False)) < 1e-3


def test_a_model_that_was_compiled_and_has_run():
    model, x = small_model(), rows(0)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(x)
    al.attach(compiled, al.EVA(r=4, alpha=6), calibration_data=[x])
    assert largest_angle(model[0].adapter.lora_A, exact(x, 4, False)) < 1e-3


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant, tokens, needed",
    [
        (al.EVA(r=4, alpha=6), 3, 4),
        (al.EVA(r=4, alpha=6, center=True), 4, 5),
        (al.EVA(r=4, alpha=6, rho=1.5), 5, 6),
        (al.EVA(r=4, alpha=6, rho=1.5, center=True), 6, 7),
    ],
)
def test_too_few_tokens(variant, tokens, needed):
    model = small_model()
    message = rf"'0' sees {tokens} tokens in the calibration data and needs {needed} at least"
    with unchanged(model), pytest.raises(ValueError, match=message):
        al.attach(model, variant, calibration_data=rows(0)[:tokens].split(1))
    al.attach(model, variant, calibration_data=rows(0)[:needed].split(1))


def test_a_layer_that_no_batch_reaches():
    model = small_model()
    model.unused = linear(D_IN, 8, dtype=torch.float32)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with unchanged(model), pytest.raises(ValueError, match=r"'unused' sees 0 tokens .* needs 4"):
        al.attach(model, al.EVA(r=4, alpha=6), calibration_data=[rows(0)])


@pytest.mark.parametrize(
    "data, message", [(None, "eva starts from data"), ([], "holds no batch, so '0' sees no token")]
)
def test_no_data(data, message):
    model = small_model()
    with unchanged(model), pytest.raises(ValueError, match=message):
        al.attach(model, al.EVA(r=4, alpha=6), calibration_data=data)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("center", [False, True])
def test_a_batch_that_is_not_finite(bad, center):
    model, data = small_model(), [rows(i) for i in range(3)]
    data[1][4, 2] = bad
    with unchanged(model), pytest.raises(ValueError, match=r"input of '0' .* not finite in calibration batch 2"):
        al.attach(model, al.EVA(r=4, alpha=6, center=center), calibration_data=data)


@pytest.mark.parametrize(
    "fields", [{"rho": 0.9}, {"rho": float("inf")}, {"rho": math.nan}, {"rho": "2"}, {"rho": True}, {"center": 1}]
)
def test_fields_that_make_no_sense(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"^{name} = "):
        al.EVA(**fields)

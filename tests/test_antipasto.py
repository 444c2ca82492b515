"""AntiPaSTO: the coefficient, the rotation and its cap, the choice of axes, and a base weight nobody writes to.

`by_loops` is the equation once more, entry by entry, with the matrix inverse that the paper's Cayley map has.
"""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import adapterlab as al
from helpers import linear, randn, relative, small_model

BASES = ["V", "U", "none"]
each_basis = pytest.mark.parametrize("basis", BASES)
LOW = [torch.bfloat16, torch.float16]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def variant(basis="V", **fields):
    return al.AntiPaSTO(**({"r": 8, "block_size": 4, "max_angle": 0.9, "rotate_basis": basis} | fields))


@torch.no_grad()
def far(adapter, size=1.0, seed=0):
    """Random trained tensors: entries at and past the cap, singular values changed by up to their own size."""
    for k, p in enumerate(adapter.parameters()):
        p.copy_(size * randn(*p.shape, seed=100 * seed + k))
    return adapter


def put_on(layer, basis="V", dtype=torch.float64, **fields):
    return far(al.attach(layer, variant(basis, **fields), dtype=dtype))


def x_for(layer, n=6, dtype=None):
    return randn(n, layer.in_features, seed=7, dtype=dtype or layer.weight.dtype)


# ---- an independent reference: inverses and explicit loops, float64 --------------------------------


def skew(angles, size, max_angle, c):
    """The capped skew matrix of one block, entry by entry."""
    A, k = [[0.0] * size for _ in range(size)], 0
    limit = 2 * math.sin(max_angle / 2) / math.cos(max_angle / 2)
    for i in range(size):
        for j in range(i + 1, size):
            A[i][j] = limit * math.tanh(c * angles[k].item() / 2 / limit)
            A[j][i] = -A[i][j]
            k += 1
    return torch.tensor(A, dtype=torch.float64)


def cayley(A):
    eye = torch.eye(len(A), dtype=torch.float64)
    return torch.linalg.inv(eye - A / 2) @ (eye + A / 2)


def rotation(layer, c=1.0):
    """(r, r): all blocks of R(c), placed one by one."""
    p, v = layer.adapter, layer.adapter.variant
    R = torch.zeros(v.r, v.r, dtype=torch.float64)
    for k in range(v.r // v.block_size):
        place = slice(k * v.block_size, (k + 1) * v.block_size)
        R[place, place] = cayley(skew(p.lora_rot_T[k].double(), v.block_size, v.max_angle, c))
    return R


def by_loops(layer, c=1.0):
    """W' = W - sum_i S_i u_i v_i^T + sum_i (S_i + c dS_i) u'_i v'_i^T, a rank one matrix at a time."""
    p, v = layer.adapter, layer.adapter.variant
    W, U, S, Vh = (t.detach().double() for t in (layer.weight, p.lora_U, p.lora_S, p.lora_Vh))
    R = torch.eye(v.r, dtype=torch.float64) if v.rotate_basis == "none" else rotation(layer, c)
    new_U = U @ R.T if v.rotate_basis == "U" else U
    new_Vh = R @ Vh if v.rotate_basis == "V" else Vh
    for i in range(v.r):
        W = W - S[i] * torch.outer(U[:, i], Vh[i])
        W = W + (S[i] + c * p.lora_delta_s[i].item()) * torch.outer(new_U[:, i], new_Vh[i])
    return W


@each_basis
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 8)])
@pytest.mark.parametrize(
    "fields", [{}, {"block_size": 2, "max_angle": 3.0}, {"block_size": 8, "max_angle": 0.1}], ids=str
)
def test_far_from_the_start_it_is_the_equation_by_loops(basis, shape, fields):
    layer = linear(*shape)
    adapter = put_on(layer, basis, **fields)
    for c in (1.0, -1.0, 0.3, -2.5):
        adapter.coefficient = c
        W = by_loops(layer, c)
        assert relative(W, layer.weight) > 0.1
        assert relative(al.effective_weight(layer)[0], W) < 1e-12
        assert torch.equal(al.effective_weight(layer)[1], layer.bias)
        y = x_for(layer) @ W.T + layer.bias
        assert relative(layer(x_for(layer)), y) < 1e-12


@each_basis
def test_gradients_are_the_equations(basis):
    layer = linear(12, 20)
    adapter = put_on(layer, basis)
    adapter.coefficient = -0.7
    parameters = list(adapter.parameters())
    fast = torch.autograd.grad(layer(x_for(layer)).square().sum(), parameters)
    W, b = al.effective_weight(layer)
    dense = torch.autograd.grad((x_for(layer) @ W.T + b).square().sum(), parameters)
    assert all(relative(a, b) < 1e-10 for a, b in zip(fast, dense))
    for p, gradient in zip(parameters, fast):  # and by differences, of by_loops
        loss = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                p.view(-1)[1] += step
                loss.append((x_for(layer) @ by_loops(layer, -0.7).T + layer.bias).square().sum().item())
                p.view(-1)[1] -= step
        assert (loss[0] - loss[1]) / 2e-6 == pytest.approx(gradient.view(-1)[1].item(), rel=1e-5)


def test_the_difference_has_rank_r():
    layer = linear(20, 24)
    put_on(layer)
    values = torch.linalg.svdvals(al.effective_weight(layer)[0] - layer.weight)
    assert values[7] > 1e-3 and values[8] < 1e-12


# ---- the rotation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size, max_angle", [(2, 0.5), (4, 0.5), (4, 3.0), (8, 1.0)])
def test_minus_c_undoes_c(block_size, max_angle):
    layer = linear(12, 20)
    adapter = put_on(layer, block_size=block_size, max_angle=max_angle)
    v, p = layer.adapter.variant, layer.adapter
    eye = torch.eye(8, dtype=torch.float64)
    turn = {}
    for c in (1.7, -1.7):
        adapter.coefficient = c
        turn[c] = torch.block_diag(*v._turn(p.coefficient * p.lora_rot_T)) + eye
        assert relative(turn[c].T @ turn[c], eye) < 1e-13  # a rotation
        assert relative(turn[c], rotation(layer, c)) < 1e-13
    assert relative(turn[1.7] @ turn[-1.7], eye) < 1e-13 and relative(turn[1.7], eye) > 0.1


def angles(R):
    """By which R turns its planes, in radians, largest first."""
    return sorted(torch.linalg.eigvals(R.detach()).angle().abs().tolist(), reverse=True)


@pytest.mark.parametrize("max_angle", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("size", [1.0, 1e6])
def test_one_entry_turns_its_plane_by_at_most_the_cap(max_angle, size):
    for sign in (1, -1):
        layer = linear(12, 20)
        adapter = al.attach(layer, variant(max_angle=max_angle), dtype=torch.float64)
        with torch.no_grad():
            layer.adapter.lora_rot_T[0, 4] = sign * size
        for c in (1.0, -2.0, 50.0):  # the coefficient stands before the cap
            adapter.coefficient = c
            turn = layer.adapter.variant._turn(layer.adapter.coefficient * layer.adapter.lora_rot_T)
            found = angles(turn[0] + torch.eye(4))
            assert found[0] <= max_angle * (1 + 1e-12) and found[2] == pytest.approx(0, abs=1e-12)
            if size > 1:
                assert found[0] == pytest.approx(max_angle)


def test_six_capped_entries_turn_a_block_of_four_further_than_the_cap():
    layer = linear(12, 20)
    al.attach(layer, variant(max_angle=0.5), dtype=torch.float64)
    with torch.no_grad():
        layer.adapter.lora_rot_T.fill_(1e6)
    turn = layer.adapter.variant._turn(layer.adapter.lora_rot_T)[0] + torch.eye(4)
    # The skew matrix of equal entries a has the eigenvalues +-i a (1 + sqrt 2) and +-i a (sqrt 2 - 1).
    half = math.tan(0.25)
    assert angles(turn)[0] == pytest.approx(2 * math.atan(half * (1 + math.sqrt(2))))
    assert angles(turn)[2] == pytest.approx(2 * math.atan(half * (math.sqrt(2) - 1)))
    assert angles(turn)[0] > 2 * 0.5


@pytest.mark.parametrize("basis", ["V", "U"])
@pytest.mark.parametrize("c", [1.0, -1.0, 2.0])
def test_a_turn_without_stretch_keeps_the_spectrum(basis, c):
    layer = linear(20, 24)
    adapter = put_on(layer, basis)
    with torch.no_grad():
        layer.adapter.lora_delta_s.zero_()
    adapter.coefficient = c
    W, after = layer.weight, al.effective_weight(layer)[0].detach()
    assert relative(after, W) > 0.1
    assert relative(torch.linalg.svdvals(after), torch.linalg.svdvals(W)) < 1e-12
    rows, columns = relative(after @ after.T, W @ W.T), relative(after.T @ after, W.T @ W)
    kept, lost = (rows, columns) if basis == "V" else (columns, rows)  # V turns inputs, as HRA: rows keep their angles
    assert kept < 1e-12 and lost > 0.01
    with torch.no_grad():
        layer.adapter.lora_delta_s.fill_(0.5)
    assert relative(torch.linalg.svdvals(al.effective_weight(layer)[0]), torch.linalg.svdvals(W)) > 0.01


@each_basis
def test_r_must_be_a_multiple_of_the_block(basis):
    with pytest.raises(ValueError, match="r = 10 is no multiple of block_size = 4"):
        al.AntiPaSTO(r=10, rotate_basis=basis)
    with pytest.raises(ValueError, match="r = 16 is more than"):
        al.attach(linear(12, 20), al.AntiPaSTO(r=16, rotate_basis=basis))


@pytest.mark.parametrize(
    "fields",
    [{"r": 0}, {"block_size": 1}, {"block_size": 2.0}, {"block_size": True}, {"max_angle": 0.0}, {"max_angle": math.pi}]
    + [
        {"max_angle": math.nan},
        {"max_angle": -0.5},
        {"max_angle": 4.0},
        {"max_angle": "0.5"},
        {"max_angle": True},
        {"rotate_basis": "W"},
        {"rotate_basis": None},
    ],
    ids=str,
)
def test_fields_out_of_bounds_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        variant(**fields)


# ---- the coefficient -------------------------------------------------------------------------------


def test_the_coefficient_of_a_bare_layer():
    adapter = al.attach(linear(12, 20), variant())
    adapter.coefficient = -0.5
    assert adapter.coefficient == -0.5


@each_basis
def test_the_coefficient_is_one_until_it_is_set(basis):
    model = small_model(torch.float64)
    adapter = put_on(model, basis, block_size=2)
    assert adapter.coefficient == 1.0 and isinstance(adapter.coefficient, float)
    before = [p.detach().clone() for p in adapter.parameters()]
    for c in (-1, 0.1, 1 / 3, -2.5):
        adapter.coefficient = c
        assert adapter.coefficient == c and isinstance(adapter.coefficient, float)  # a float64: nothing is rounded
    assert all(torch.equal(a, b) for a, b in zip(before, adapter.parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None, 1j, torch.tensor(1.0)], ids=str)
def test_what_is_no_finite_number_is_refused(value):
    model = small_model()
    adapter = put_on(model, dtype=torch.float32)
    adapter.coefficient = 0.5
    with pytest.raises(ValueError, match="finite number"):
        adapter.coefficient = value
    assert adapter.coefficient == 0.5


@pytest.mark.parametrize(
    "other", [al.LoRA(r=2), al.PiSSA(r=2), al.DoRA(r=2), al.DeLoRA(r=2), al.IA3(), al.IA3FF(), al.HRA(r=2)]
)
def test_other_variants_have_none_and_are_named(other):
    adapter = al.attach(small_model(), other)
    for use in (lambda: adapter.coefficient, lambda: setattr(adapter, "coefficient", 1.0)):
        with pytest.raises(AttributeError, match=f"coefficient.*{other.name}"):
            use()


def test_a_mixed_adapter_has_none_and_changes_nothing(tmp_path):
    model = small_model()
    steered = far(al.attach(model, variant(), targets=r"^0$", dtype=torch.float32))
    al.attach(model, al.LoRA(r=2), targets=r"^2$")
    steered.coefficient = -1.0  # its own pass can be steered all the same
    al.save(model, tmp_path / "both.safetensors")
    both = al.load(small_model(), tmp_path / "both.safetensors")
    with pytest.raises(AttributeError, match="coefficient.*lora"):
        both.coefficient = 0.5
    steered.detach()
    with pytest.raises(AttributeError, match="detached"):
        _ = steered.coefficient


@each_basis
def test_forward_equation_merge_and_frozen_honour_it(basis):
    model = small_model(torch.float64)
    adapter, x = put_on(model, basis), randn(5, 12, seed=3)
    outputs = {}
    for c in (1.0, -1.0, 0.5, 2.0):
        adapter.coefficient = c
        outputs[c] = y = model(x).detach()
        dense = copy.deepcopy(model)
        al.detach(dense)
        for path in ("0", "2"):
            dense.get_submodule(path).weight.data = by_loops(model.get_submodule(path), c)
        assert relative(y, dense(x)) < 1e-12
        merged = copy.deepcopy(model)
        al.merge(merged)
        assert relative(merged(x), y) < 1e-12
        with adapter.frozen(), torch.no_grad():
            assert torch.equal(model(x), y)
    assert all(relative(outputs[a], outputs[b]) > 1e-3 for a in outputs for b in outputs if a < b)


def test_it_can_be_changed_inside_frozen():
    model = small_model(torch.float64)
    adapter, x = put_on(model), randn(5, 12, seed=3)
    with torch.no_grad():
        expected = {}
        for c in (1.0, -1.0, 0.0):
            adapter.coefficient = c
            expected[c] = model(x)
        adapter.coefficient = 1.0
        with adapter.frozen():
            for c in (1.0, -1.0, 0.0, 1.0):
                adapter.coefficient = c
                assert torch.equal(model(x), expected[c])
            adapter.coefficient = -1.0
        assert torch.equal(model(x), expected[-1.0])


@each_basis
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *LOW], ids=str)
def test_zero_is_the_base_bit_for_bit(basis, dtype):
    model = small_model(dtype)
    x = randn(5, 12, seed=3, dtype=dtype)
    base = model(x)
    adapter = put_on(model, basis, dtype=torch.float32)
    assert not torch.equal(model(x), base)
    adapter.coefficient = 0.0
    assert torch.equal(model(x), base)
    with adapter.frozen(), torch.no_grad():
        assert torch.equal(model(x), base)
    for path in ("0", "2"):
        layer = model.get_submodule(path)
        assert torch.equal(al.effective_weight(layer)[0].to(dtype), layer.weight)
    al.merge(model)
    assert torch.equal(model(x), base)


def test_it_is_not_saved(tmp_path):
    model = small_model()
    adapter = put_on(model, dtype=torch.float32)
    x = randn(5, 12, seed=3, dtype=torch.float32)
    as_trained = model(x)
    adapter.coefficient = -1.0
    assert not [name for name in model.state_dict() if "coefficient" in name]
    al.save(model, tmp_path / "a.safetensors")
    again = small_model()
    loaded = al.load(again, tmp_path / "a.safetensors")
    assert loaded.coefficient == 1.0 and torch.equal(again(x), as_trained)


@pytest.mark.parametrize("basis", ["V", "none"])
def test_a_change_does_not_compile_again(basis):
    torch.compiler.reset()
    model = small_model()
    adapter, x = put_on(model, basis, dtype=torch.float32), randn(5, 12, seed=3, dtype=torch.float32)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    seen = []
    for c in (1.0, -1.0, 0.3, 0.0, 2.0):
        adapter.coefficient = c
        seen.append(compiled(x).detach())
        assert relative(seen[-1], model(x)) < 1e-6
    assert len(graphs) == 1
    assert relative(seen[0], seen[1]) > 1e-3 and relative(seen[2], seen[3]) > 1e-3
    torch.compiler.reset()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "double": lambda model: copy.deepcopy(model).double(),
    "half": lambda model: copy.deepcopy(model).half(),
    "bfloat16": lambda model: copy.deepcopy(model).to(torch.bfloat16),
}


@pytest.mark.parametrize("way", COPIES)
def test_it_survives(way):
    model = small_model()
    adapter = put_on(model, dtype=torch.float32)
    adapter.coefficient = -0.75  # which every float holds
    other = COPIES[way](model)
    x = randn(5, 12, seed=3, dtype=torch.float32)
    layers = [m for m in other.modules() if hasattr(m, "adapter")]
    assert [layer.adapter.coefficient.item() for layer in layers] == [-0.75, -0.75]
    close = 2e-2 if way in ("half", "bfloat16") else 1e-6
    assert relative(other(x.to(layers[0].weight.dtype)), model(x)) < close
    adapter.coefficient = 0.0  # and the copy is a copy
    assert layers[0].adapter.coefficient.item() == -0.75


def test_load_state_dict_leaves_it_alone():
    model, other = small_model(), small_model()
    adapter = put_on(model, dtype=torch.float32)
    loaded = al.attach(other, variant())
    loaded.coefficient = -1.0
    other.load_state_dict(model.state_dict())
    assert loaded.coefficient == -1.0
    adapter.coefficient = -1.0
    x = randn(5, 12, seed=3, dtype=torch.float32)
    assert torch.equal(model(x), other(x))


def test_it_survives_a_cast_in_place():
    model = small_model()
    adapter = put_on(model, dtype=torch.float32)
    adapter.coefficient = -0.75
    model.half()
    assert adapter.coefficient == -0.75
    adapter.coefficient = 0.0
    x = randn(5, 12, seed=3, dtype=torch.float16)
    on = model(x)
    with adapter.disabled():
        assert torch.equal(on, model(x))


# ---- the axes --------------------------------------------------------------------------------------


def data(scale):
    """Batches whose features have very different sizes, so that the large axes are not the busy ones."""
    return [randn(11, 12, seed=k, dtype=torch.float32) * scale for k in range(3)]


def scores_by_hand(W, inputs):
    """S_i mean|v_i x|, one axis and one input at a time, in float64."""
    U, S, Vh = torch.linalg.svd(W.detach().double(), full_matrices=False)
    X = torch.cat(list(inputs)).double()
    return [S[i].item() * sum(abs(float(Vh[i] @ x)) for x in X) / len(X) for i in range(len(S))], (U, S, Vh)


@each_basis
def test_data_choose_the_axes(basis):
    layer = linear(12, 20, dtype=torch.float32)
    W = layer.weight.detach().clone()
    _, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    quiet = (torch.eye(12, dtype=torch.float64) - 0.97 * Vh[:3].T @ Vh[:3]).float()  # silences the three largest axes
    batches = [x @ quiet for x in data(1.0)]
    al.attach(layer, variant(basis, r=4, block_size=2), calibration_data=batches)
    scores, (U, S, Vh) = scores_by_hand(W, batches)
    chosen = sorted(sorted(range(len(S)), key=lambda i: -scores[i])[:4])
    assert chosen != [0, 1, 2, 3] and not {0, 1, 2} & set(chosen)
    p = layer.adapter
    assert relative(p.lora_S, S[chosen]) < 1e-5
    products = p.lora_U.double() * p.lora_S @ p.lora_Vh.double()  # signs of axes are free, their product is not
    assert relative(products, sum(S[i] * torch.outer(U[:, i], Vh[i]) for i in chosen)) < 1e-5
    assert torch.equal(layer.weight, W) and torch.equal(al.effective_weight(layer)[0], W)


def test_without_data_the_largest_are_taken():
    layer = linear(12, 20)
    al.attach(layer, variant(r=4, block_size=2), dtype=torch.float64)
    assert relative(layer.adapter.lora_S, torch.linalg.svdvals(layer.weight.detach())[:4]) < 1e-12


@each_basis
@pytest.mark.parametrize("calibrated", [True, False])
def test_it_loads_bit_for_bit_without_data(tmp_path, basis, calibrated):
    def base():
        return small_model()

    model = base()
    scale = torch.logspace(-1, 1, 12)
    adapter = al.attach(model, variant(basis, r=4, block_size=2), calibration_data=data(scale) if calibrated else None)
    far(adapter)
    x = randn(5, 12, seed=3, dtype=torch.float32)
    al.save(model, tmp_path / "a.safetensors")
    again = base()
    al.load(again, tmp_path / "a.safetensors")
    assert torch.equal(again(x), model(x)) and not torch.equal(again(x), base()(x))
    if calibrated:  # the axes that S alone would give are others, and another model
        with torch.no_grad():
            for layer in again:
                if hasattr(layer, "adapter"):
                    layer.adapter.variant.init(layer.adapter, layer)
        assert relative(again(x), model(x)) > 1e-2


# ---- the base weight -------------------------------------------------------------------------------


@each_basis
@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
def test_the_base_weight_is_never_written_to(tmp_path, basis, dtype):
    model = small_model(dtype)
    weights = {name: (p, p.detach().clone(), p._version, p.data_ptr()) for name, p in model.named_parameters()}
    x = randn(5, 12, seed=3, dtype=dtype)
    base = model(x)

    def intact():
        for name, (p, values, version, place) in weights.items():
            assert model.get_parameter(name) is p and torch.equal(p, values), name
            assert p._version == version and p.data_ptr() == place, name

    adapter = al.attach(model, variant(basis), calibration_data=[x])
    assert torch.equal(model(x), base)
    intact()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for c in (1.0, -1.0, 0.5):
        adapter.coefficient = c
        optimizer.zero_grad()
        model(x).float().square().sum().backward()
        optimizer.step()
    intact()
    with adapter.frozen(), adapter.disabled(), torch.no_grad():
        model(x)
    al.save(model, tmp_path / "a.safetensors")
    al.detach(model)
    al.load(model, tmp_path / "a.safetensors")
    al.detach(model)
    intact()
    assert torch.equal(model(x), base)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *LOW], ids=str)
def test_steps_reach_both_tensors_from_zero(dtype):
    """Both start at zero and both have a gradient: dW is linear in them there."""
    layer = nn.Sequential(linear(12, 20, dtype=dtype))
    adapter = al.attach(layer, variant())
    layer(x_for(layer[0])).float().square().sum().backward()
    for name, p in adapter.named_parameters():
        assert p.abs().max() == 0 and p.grad.isfinite().all() and (p.grad != 0).all(), name

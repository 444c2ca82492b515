"""The largest singular values, however they are found, against numpy's decomposition in float64."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adapterlab import singular
from adapterlab.singular import top_svd
from helpers import randn, relative

SHAPES = [(40, 40), (64, 24), (24, 64), (300, 200)]
SPECTRA = ["flat", "falling", "steep", "low rank", "tied"]


def matrix(shape, spectrum, seed=0):
    W, k = randn(*shape, seed=seed), min(shape)
    if spectrum == "flat":
        return W
    U, _, Vh = numpy.linalg.svd(W.numpy(), full_matrices=False)
    i = numpy.arange(1, k + 1)
    S = {"falling": i**-0.5, "steep": 0.3**i, "low rank": 1.0 * (i <= 3), "tied": 1.0 + (i <= 2)}[spectrum]
    return torch.from_numpy(U * S @ Vh)


def layer_of(W):
    layer = nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    layer.weight.data.copy_(W)
    return layer


def check(W, r):
    U, S, Vh = top_svd(layer_of(W), r)
    assert U.shape == (W.shape[0], r) and S.shape == (r,) and Vh.shape == (r, W.shape[1])
    W = W.double()
    exact = torch.from_numpy(numpy.linalg.svd(W.numpy(), compute_uv=False))
    assert relative(S, exact[:r]) < 1e-7 and (S.diff() <= 0).all()
    for axes in (U.T, Vh):
        assert relative(axes @ axes.T, torch.eye(r, dtype=torch.float64)) < 1e-6
    # The best r: what is left over is as small as it can be, whichever of tied axes were taken.
    left = (W - U * S @ Vh).norm()
    assert left <= exact[r:].norm() * (1 + 1e-6) + 1e-7 * exact.norm()


@pytest.mark.parametrize("small", [1024, 0], ids=["all eigenvectors", "a few"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("r", [1, 4])
def test_the_best_r(monkeypatch, small, spectrum, shape, r):
    monkeypatch.setattr(singular, "SMALL", small)
    check(matrix(shape, spectrum), r)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_shape_and_rank(d_out, d_in, data):
    check(matrix((d_out, d_in), "flat"), data.draw(st.integers(1, min(d_out, d_in))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_the_weight_as_it_is_stored(dtype):
    check(matrix((40, 30), "falling").to(dtype), 3)


def test_the_product_is_exact_where_the_values_stand_apart(monkeypatch):
    W = matrix((300, 200), "falling")
    U, S, Vh = numpy.linalg.svd(W.numpy())
    exact = torch.from_numpy(U[:, :4] * S[:4] @ Vh[:4])
    for small in (1024, 0):
        monkeypatch.setattr(singular, "SMALL", small)
        U4, S4, Vh4 = top_svd(layer_of(W), 4)
        assert relative(U4 * S4 @ Vh4, exact) < 1e-6


def test_a_few_are_found_without_all_of_them(monkeypatch):
    """The short way is taken where it is worth it, and given up where values are tied."""
    monkeypatch.setattr(singular, "SMALL", 0)
    decomposed = []
    original = singular._eigenvectors
    monkeypatch.setattr(singular, "_eigenvectors", lambda M, r: decomposed.append(len(M)) or original(M, r))
    top_svd(layer_of(matrix((300, 200), "steep")), 2)
    assert max(decomposed) < 200
    top_svd(layer_of(torch.eye(200, dtype=torch.float64)), 2)
    assert decomposed[-1] == 200


def test_no_random_number_is_used_up(monkeypatch):
    layer, state = layer_of(matrix((40, 40), "flat")), torch.get_rng_state()
    monkeypatch.setattr(singular, "SMALL", 0)
    top_svd(layer, 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_has_none(value):
    W = matrix((8, 8), "flat")
    W[2, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        top_svd(layer_of(W), 2)

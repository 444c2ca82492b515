"""Answers for lab 3."""

import torch
import torch.nn.functional as F

# ---- one_by_one -----------------------------------------------------------------------------------


def first_mirror_first(x, U):
    for u in U:
        x = x - 2 * torch.outer(x @ u, u) / (u @ u)
    return x


def projects(x, U):
    for u in U.flip(0):
        x = x - torch.outer(x @ u, u) / (u @ u)
    return x


def takes_length_for_its_square(x, U):
    for u in U.flip(0):
        x = x - 2 * torch.outer(x @ u, u) / u.norm()
    return x


def forgets_lengths(x, U):
    for u in U.flip(0):
        x = x - 2 * torch.outer(x @ u, u)
    return x


def every_mirror_sees_the_first_x(x, U):
    return x - sum(2 * torch.outer(x @ u, u) / (u @ u) for u in U)


def in_place(x, U):
    for u in U.flip(0):
        x -= 2 * torch.outer(x @ u, u) / (u @ u)
    return x


def through_a_matrix(x, U):
    R = torch.eye(U.shape[1], dtype=U.dtype)
    for u in U:
        R = R - 2 * torch.outer(R @ u, u) / (u @ u)
    return x @ R.T


def holds_lengths_fixed(x, U):
    for u in (U / U.detach().norm(dim=1, keepdim=True)).flip(0):
        x = x - 2 * torch.outer(x @ u, u)
    return x


def without_gradients(x, U):
    return through_a_matrix(x, U.detach())


def columns(x, U):
    return first_mirror_first(x.T, U)


def sums_and_products(x, U):
    for k in reversed(range(len(U))):
        u = F.normalize(U[k], dim=0)
        x = x - 2 * (x * u).sum(-1, keepdim=True) * u
    return x


def by_thin_matrices(x, U):
    for u in F.normalize(U, dim=1).flip(0).split(1):
        x = x - 2 * (x @ u.T) @ u
    return x


# ---- agrees ---------------------------------------------------------------------------------------


def dense(x, U):
    return through_a_matrix(x.double(), U.double())


def at_the_start(turn):
    U = torch.randn(2, 16, dtype=torch.float64).repeat_interleave(2, dim=0)
    x = torch.randn(5, 16, dtype=torch.float64)
    return torch.allclose(turn(x, U), x)


def dense_at_the_start(turn):
    U = torch.randn(2, 16, dtype=torch.float64).repeat_interleave(2, dim=0)
    x = torch.randn(5, 16, dtype=torch.float64)
    return torch.allclose(turn(x, U), dense(x, U))


def by_lengths(turn):
    x, U = torch.randn(5, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)
    return torch.allclose(turn(x, U).norm(dim=1), x.norm(dim=1))


def on_orthogonal_rows(turn):
    x, U = torch.randn(5, 16, dtype=torch.float64), 2 * torch.eye(16, dtype=torch.float64)[:4]
    return torch.allclose(turn(x, U), dense(x, U))


def on_unit_rows(turn):
    x, U = torch.randn(5, 16, dtype=torch.float64), F.normalize(torch.randn(4, 16, dtype=torch.float64), dim=1)
    return torch.allclose(turn(x, U), dense(x, U))


def with_one_mirror(turn):
    x, U = torch.randn(5, 16, dtype=torch.float64), torch.randn(1, 16, dtype=torch.float64)
    return torch.allclose(turn(x, U), dense(x, U))


def the_wrong_way_round(turn):
    x, U = torch.randn(5, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)
    return torch.allclose(turn(x, U), dense(x, U.flip(0)))


def bit_for_bit(turn):
    x, U = torch.randn(5, 16), torch.randn(4, 16)
    return torch.equal(turn(x, U).double(), dense(x, U))


def calls_nothing(turn):
    return True


def returns_the_difference(turn):
    x, U = torch.randn(5, 16, dtype=torch.float64), torch.randn(4, 16, dtype=torch.float64)
    return (turn(x, U) - dense(x, U)).norm()


def through_a_weight(turn):
    W, x = torch.randn(7, 16, dtype=torch.float64), torch.randn(5, 16, dtype=torch.float64)
    U = torch.randn(3, 16, dtype=torch.float64)
    R = torch.eye(16, dtype=torch.float64)
    for u in U:
        R = R @ (torch.eye(16, dtype=torch.float64) - 2 * torch.outer(u, u) / (u @ u))
    return (turn(x, U) @ W.T - F.linear(x, W @ R)).norm() < 1e-10


def in_float32(turn):
    x, U = torch.randn(5, 16), torch.randn(4, 16)
    return torch.allclose(turn(x, U).double(), dense(x, U), atol=1e-4)


# ---- triangle -------------------------------------------------------------------------------------


def whole_diagonal(U):
    return torch.linalg.inv((U @ U.T).triu())


def whole_gram(U):
    gram = U @ U.T
    return torch.linalg.inv(gram - gram.diagonal().diag() / 2)


def lower(U):
    gram = U @ U.T
    return torch.linalg.inv(gram.tril(-1) + gram.diagonal().diag() / 2)


def not_inverted(U):
    gram = U @ U.T
    return gram.triu(1) + gram.diagonal().diag() / 2


def of_unit_rows(U):
    return upper(F.normalize(U, dim=1))


def upper(U):
    gram = U @ U.T
    return torch.linalg.inv(gram.triu(1) + gram.diagonal().diag() / 2)


def out_of_sight(U):
    return upper(U.detach())


def of_columns(U):
    return upper(U.T)


def by_solving(U):
    gram = U @ U.T
    eye = torch.eye(len(U), dtype=U.dtype)
    return torch.linalg.solve_triangular(gram.triu() - gram.diagonal().diag() / 2, eye, upper=True)


def mirror_by_mirror(U):
    """Schreiber and Van Loan's recurrence: a column of T for each mirror that is added."""
    T = U.new_zeros(0, 0)
    for k, u in enumerate(U):
        tau = 2 / (u @ u)
        column = -tau * T @ (U[:k] @ u)
        T = torch.cat([torch.cat([T, column[:, None]], 1), torch.cat([u.new_zeros(1, k), tau.view(1, 1)], 1)])
    return T


# ---- compact --------------------------------------------------------------------------------------


def with_T_untransposed(x, U):
    return x - (x @ U.T) @ upper(U) @ U


def with_a_plus(x, U):
    return x + (x @ U.T) @ upper(U).T @ U


def bracketed_wrong(x, U):
    return x - x @ (U.T @ upper(U).T @ U)


def without_a_triangle(x, U):
    return x - (x @ U.T) @ whole_gram(U).T @ U


def with_a_fixed_triangle(x, U):
    return x - (x @ U.T) @ upper(U.detach()).T @ U


def with_T_U(x, U):
    return x - F.linear(F.linear(x, upper(U) @ U), U.T)


def by_solving_for_the_rows(x, U):
    gram = U @ U.T
    triangle = gram.triu(1) + gram.diagonal().diag() / 2
    V = torch.linalg.solve_triangular(triangle, U, upper=True)
    return torch.addmm(x, x @ V.T, U, alpha=-1)


# ---- factors --------------------------------------------------------------------------------------


def swapped(W, U):
    A, B = with_the_sign_in_B(W, U)
    return B, A


def without_the_sign(W, U):
    return U, W @ U.T @ upper(U)


def of_the_transpose(W, U):
    return U, -W @ U.T @ upper(U).T


def by_difference(W, U):
    R = torch.eye(U.shape[1], dtype=U.dtype)
    for u in U:
        R = R - 2 * torch.outer(R @ u, u) / (u @ u)
    left, values, right = torch.linalg.svd(W @ R - W, full_matrices=False)
    r = len(U)
    return right[:r], left[:, :r] * values[:r]


def with_the_sign_in_B(W, U):
    return U, -W @ U.T @ upper(U)


def with_the_triangle_in_A(W, U):
    return [upper(U) @ U, -(W @ U.T)]


WRONG = {
    "one_by_one": [
        first_mirror_first,
        projects,
        takes_length_for_its_square,
        forgets_lengths,
        every_mirror_sees_the_first_x,
        in_place,
        through_a_matrix,
        holds_lengths_fixed,
        without_gradients,
        lambda x, U: None,
        lambda x, U: x.mean(),
    ],
    "agrees": [
        at_the_start,
        dense_at_the_start,
        by_lengths,
        on_orthogonal_rows,
        on_unit_rows,
        with_one_mirror,
        the_wrong_way_round,
        bit_for_bit,
        calls_nothing,
        returns_the_difference,
    ],
    "triangle": [
        whole_diagonal,
        whole_gram,
        lower,
        not_inverted,
        of_unit_rows,
        out_of_sight,
        of_columns,
        lambda U: "T",
    ],
    "compact": [
        with_T_untransposed,
        with_a_plus,
        bracketed_wrong,
        without_a_triangle,
        with_a_fixed_triangle,
        by_thin_matrices,
        through_a_matrix,
    ],
    "factors": [swapped, without_the_sign, of_the_transpose, by_difference, lambda W, U: W],
}
RIGHT = {
    "one_by_one": [sums_and_products, by_thin_matrices],
    "agrees": [through_a_weight, in_float32],
    "triangle": [by_solving, mirror_by_mirror],
    "compact": [with_T_U, by_solving_for_the_rows],
    "factors": [with_the_triangle_in_A, with_the_sign_in_B],
}

"""Promise: the start is Eq. 3, 5, 6, 10, 11; the same arguments give the same bits; B0 comes back from B and dB."""

from __future__ import annotations

import pytest
import torch
from conftest import VARIANTS, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from dude_peft import reference
from dude_peft.svd import (
    KRYLOV_STEPS,
    UNCHECKED_STEPS,
    initial_factors,
    module_seed,
    on_grid,
    recover_b0,
    top_singular_triplets,
)


def power_law(d: int, k: int, decay: float = 0.5, seed: int = 0) -> torch.Tensor:
    """A (d, k) matrix with singular values i^-decay: the slow decay of pretrained weights."""
    generator = torch.Generator().manual_seed(seed)
    p = min(d, k)
    U = torch.linalg.qr(torch.randn(d, p, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(k, p, generator=generator)).Q
    return (U * torch.arange(1, p + 1).pow(-decay)) @ V.T


@pytest.mark.parametrize("shape", [(320, 512), (512, 320), (400, 400)])
@pytest.mark.parametrize("decay", [0.3, 0.5, 1.0])
def test_krylov_captures_the_energy_of_the_full_svd(shape, decay):
    W = power_law(*shape, decay)
    found = top_singular_triplets(W, 16, seed=1)
    exact = top_singular_triplets(W, 16, method="exact")
    U, _, Vh = (t.double() for t in found)
    captured = (U.T @ W.double() @ Vh.T).square().sum()
    lost = 1 - float(captured / exact.S.double().square().sum())
    assert lost < 1e-6
    assert relative_error(found.U.T @ found.U, torch.eye(16)) < 1e-5
    assert relative_error(found.Vh @ found.Vh.T, torch.eye(16)) < 1e-5


@pytest.mark.parametrize("decay", [0.1, 0.5, 1.0])
def test_krylov_goes_on_until_the_captured_energy_is_settled(decay, monkeypatch):
    """Against float64's full SVD. Stopped where a step adds less than 1e-9, it lacks under 1e-7."""
    W = power_law(500, 700, decay)
    exact = torch.linalg.svdvals(W.double())[:8].square().sum()
    real, checks = torch.linalg.eigvalsh, []
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: checks.append(len(gram)) or real(gram))
    found = top_singular_triplets(W, 8)
    captured = (W.double() @ found.Vh.double().T).square().sum()
    assert abs(1 - float(captured / exact)) < 1e-7
    assert 2 <= len(checks) < KRYLOV_STEPS - UNCHECKED_STEPS + 1 or decay == 0.1


def test_where_one_side_is_small_its_gram_matrix_gives_the_full_svds_start():
    W = power_law(60, 900, 0.3)
    for M in (W, W.T.contiguous()):
        found, exact = top_singular_triplets(M, 6), top_singular_triplets(M.double(), 6, method="exact")
        for some, all_ in zip(found, exact, strict=True):
            assert relative_error(some, all_) < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scaling", [1.0, 0.25, 4.0])
def test_the_initial_factors_are_the_papers(variant, scaling):
    W = power_law(40, 24).double()
    A0, B0 = initial_factors(top_singular_triplets(W, 5), scaling, variant)
    A, B = reference.initial_factors(W, 5, scaling, variant)
    sign = (A0 * A).sum(dim=1).sign()  # LAPACK's signs are free
    assert relative_error(A0, sign[:, None] * A) < 1e-12
    assert relative_error(B0, B * sign) < 1e-5  # B0 lies on a grid of 18 bits
    U, S, Vh = reference.top_part(W, 5)
    assert relative_error(scaling * B0 @ A0, U @ torch.diag(S) @ Vh) < 1e-5


def test_eq_4_residual_plus_update_is_the_weight():
    W = power_law(20, 30).double()
    A, B = reference.initial_factors(W, 4)
    assert relative_error(reference.residual(W, 4) + B @ A, W) < 1e-14


def test_same_seed_same_bits_and_the_global_rng_is_not_touched():
    W = power_law(300, 400)
    state = torch.random.get_rng_state()
    first = top_singular_triplets(W, 8, seed=module_seed("model.layers.0.q_proj"))
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(123)
    again = top_singular_triplets(W, 8, seed=module_seed("model.layers.0.q_proj"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert module_seed("a") != module_seed("b") and module_seed("a", 0) != module_seed("a", 1)


def test_signs_are_fixed_whatever_the_method():
    W = power_law(320, 500, decay=1.0)
    krylov, exact = top_singular_triplets(W, 4), top_singular_triplets(W, 4, method="exact")
    assert relative_error(krylov.Vh, exact.Vh) < 1e-4 and relative_error(krylov.U, exact.U) < 1e-4
    assert (exact.Vh.gather(1, exact.Vh.abs().argmax(1, keepdim=True)) > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.floats(1e-8, 3.0),
    scale=st.floats(1e-6, 1e6),
    rows=st.integers(1, 40),
)
def test_the_start_of_b_comes_back_bit_for_bit(seed, size, scale, rows):
    generator = torch.Generator().manual_seed(seed)
    B0 = on_grid(scale * torch.randn(rows, 3, generator=generator))
    dB = size * B0.abs().max() * torch.randn(rows, 3, generator=generator)
    dB[:, 0] = 0
    if seed % 3 == 0:
        B0[:, 2] = 0  # a singular value of zero
    outgrown = (B0 + dB).abs().amax(0) > 16 * B0.abs().amax(0)
    keep = ~outgrown | (B0.abs().amax(0) == 0)
    assert torch.equal(recover_b0(B0 + dB, dB)[:, keep], B0[:, keep])


def test_rank_deficient_weight_has_a_finite_start():
    W = torch.zeros(30, 20)
    W[:, 0] = 1
    for method in ("krylov", "exact"):
        A0, B0 = initial_factors(top_singular_triplets(W, 4, method=method), 1.0)
        assert torch.isfinite(A0).all() and torch.isfinite(B0).all()
        assert relative_error(B0 @ A0, W) < 1e-5
    wide = torch.zeros(400, 500)
    wide[:, 0] = 1
    A0, B0 = initial_factors(top_singular_triplets(wide, 4), 1.0)
    assert relative_error(B0 @ A0, wide) < 1e-4  # 4.1e-5: the float32 QR of a matrix of rank one

"""The Jacobian engine: J, G = J^T W J, J v and J^T w of a decoder, batched and chunked."""

from __future__ import annotations

import torch
from torch import Tensor

from vaeprobe.decoder import Decoder, differentiable_kernels
from vaeprobe.likelihoods import Likelihood


def jacobian(decoder: Decoder, z: Tensor, *, natural: bool = False, chunk: int | None = None) -> Tensor:
    """Return Jacobians over the continuous latents, shape (n, data, k), in the decoder's dtype."""
    free = decoder.continuous
    f = decoder.natural_flat if natural else decoder.flat
    z = z.to(device=decoder.device, dtype=decoder.dtype)
    blocks = []
    basis = torch.eye(decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)[free]
    for x in z.split(chunk or 64):
        with differentiable_kernels():
            if decoder.differentiation == "forward":
                with torch.no_grad():
                    repeated = x.repeat(len(free), 1)
                    tangents = basis.repeat_interleave(len(x), 0)
                    _, columns = torch.func.jvp(f, (repeated,), (tangents,))
                J = columns.reshape(len(free), len(x), -1).permute(1, 2, 0)
            else:
                leaf = x.clone().requires_grad_(True)
                with torch.enable_grad():
                    y = f(leaf)
                    rows = [
                        torch.autograd.grad(y[:, i].sum(), leaf, retain_graph=True)[0][:, free]
                        for i in range(y.shape[1])
                    ]
                J = torch.stack(rows, dim=1)
        blocks.append(J.detach())
    return torch.cat(blocks)


def gram(
    decoder: Decoder, z: Tensor, *, likelihood: Likelihood | None = None, chunk: int | None = None
) -> Tensor:
    """Return pullback metrics J^T W J over the continuous latents, shape (n, k, k), float64 on the CPU.

    W = I without a likelihood, else its metric (Allen 2024, Eq. 7): taken on the natural parameter where
    the decoder has it, else on the mean.
    """
    natural = likelihood is not None and decoder.has_natural
    out = []
    for x in z.split(chunk or 64):
        J = jacobian(decoder, x, natural=natural, chunk=chunk).double()
        if likelihood is None:
            out.append((J.mT @ J).cpu())
        else:
            with torch.no_grad():
                y = (decoder.natural_flat(x) if natural else decoder.flat(x)).double()
            W = likelihood.weight(y, "natural" if natural else decoder.parameter)
            out.append((J.mT @ (W[:, :, None] * J)).cpu())
    return torch.cat(out)


def pushforward(decoder: Decoder, z: Tensor, v: Tensor, *, natural: bool = False) -> tuple[Tensor, Tensor]:
    """Return f(z), shape (n, data), and J v for directions v over the continuous latents.

    Args:
        z: latents, shape (n, latent).
        v: one direction per latent, shape (n, k), or several that share the primal, shape (s, n, k).

    Returns:
        y, shape (n, data), and J v, shape (n, data) or (s, n, data), in the decoder's dtype.
    """
    f = decoder.natural_flat if natural else decoder.flat
    x = z.to(device=decoder.device, dtype=decoder.dtype)
    directions = _on_all_latents(decoder, v)
    with differentiable_kernels():
        if decoder.differentiation == "forward":
            if v.ndim == 2:
                with torch.no_grad():
                    y, moved = torch.func.jvp(f, (x,), (directions,))
                return y, moved
            with torch.no_grad():
                y, moved = torch.func.jvp(f, (x.repeat(len(v), 1),), (directions.flatten(0, 1),))
            return y[: len(x)], moved.reshape(len(v), len(x), -1)
        with torch.enable_grad():
            # J v as the derivative of J^T w in w: reverse mode twice
            leaf = x.detach().clone().requires_grad_(True)
            y = f(leaf)
            w = torch.zeros_like(y, requires_grad=True)
            (pulled,) = torch.autograd.grad(y, leaf, w, create_graph=True)
            stack = directions if v.ndim == 3 else directions[None]
            moves = [torch.autograd.grad(pulled, w, u, retain_graph=True)[0] for u in stack]
    return y.detach(), torch.stack(moves) if v.ndim == 3 else moves[0]


def pullback(decoder: Decoder, z: Tensor, w: Tensor, *, natural: bool = False) -> Tensor:
    """Return J^T w over the continuous latents, shape (n, k), for w of shape (n, data)."""
    f = decoder.natural_flat if natural else decoder.flat
    leaf = z.detach().to(device=decoder.device, dtype=decoder.dtype).clone().requires_grad_(True)
    with differentiable_kernels(), torch.enable_grad():
        y = f(leaf)
        (pulled,) = torch.autograd.grad(y, leaf, w.to(device=y.device, dtype=y.dtype))
    return pulled[:, decoder.continuous]


def _on_all_latents(decoder: Decoder, v: Tensor) -> Tensor:
    """Widen directions over the continuous latents, shape (..., k), to all latents, 0 on the codes."""
    full = torch.zeros(*v.shape[:-1], decoder.latent_dim, dtype=decoder.dtype, device=decoder.device)
    full[..., decoder.continuous] = v.to(device=decoder.device, dtype=decoder.dtype)
    return full

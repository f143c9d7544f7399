"""What the four verbs are given, held against one another before anything is computed."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.contract import LaidOutError
from vaeprobe.decoder import Decoder
from vaeprobe.engine.seen import once_checked
from vaeprobe.errors import ContractError, UsageError
from vaeprobe.findings import OUTPUT_CHOSEN, WHOLE_VAE
from vaeprobe.frozen import frozen
from vaeprobe.given import check_dense
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood, LikelihoodSettings, by_name

__all__ = [
    "Map",
    "check_chunk",
    "columns_of",
    "covectors_of",
    "decoder_and_rows",
    "directions_of",
    "likelihood_of",
]

NEAR = 64
"""Latents, near those that it is given, at which a function is checked that is not defined everywhere."""

Map: TypeAlias = Decoder | Callable[[Tensor], object]


def decoder_and_rows(f: Map, z: Tensor) -> tuple[Decoder, Tensor]:
    """Return the decoder itself, or the one that a function or module is, held to the contract; and latents as rows.

    A function or module gets latents in the shape that they are given in: maps, (n, c, h, w), as maps.

    Raises:
        ContractError: the function does not map rows to rows, or cannot be differentiated.
        UsageError: the latents are no rows of real numbers, or not as many as the decoder takes.
    """
    _check_tensor(z, "the latents")
    if isinstance(f, Decoder):
        if z.ndim < 2 or (z.shape[1:] != (f.latent_dim,) and z.shape[1:] != f.latent_shape):
            taken = f"(n, {f.latent_dim})"
            if f.latent_shape:
                taken += f" or (n, {', '.join(map(str, f.latent_shape))})"
            raise UsageError(
                f"the latents have shape {tuple(z.shape)}, the decoder takes {taken}",
                hint="one row per point, one column per latent" if z.ndim > 1 else "z[None] is one row",
            )
        return f, z if z.ndim == 2 else z.flatten(1)
    if not callable(f):
        loads = isinstance(f, (str, os.PathLike))
        raise UsageError(
            f"`f` is a function, a module or a Decoder, not {type(f).__name__}",
            hint="vaeprobe.load(f) makes a decoder of a file"
            if loads
            else "a function takes latents, shape (n, latent)",
        )
    if z.ndim < 2 or not z.is_floating_point():
        raise UsageError(
            f"latents are real numbers of shape (n, latent), not {tuple(z.shape)} of {z.dtype}",
            hint="z[None] is one row; of a function of one latent, torch.func.vmap(f) takes rows"
            if z.ndim < 2
            else "z.float() makes real numbers of whole ones",
        )
    return _checked(f, z), z.flatten(1)


def _checked(f: Callable[[Tensor], object], z: Tensor) -> Decoder:
    shape = z.shape[1:]
    rows: Callable[[Tensor], object] = f
    if len(shape) > 1:  # a sequence of modules, so that layers are seen
        unflatten = nn.Unflatten(1, tuple(shape))
        rows = nn.Sequential(unflatten, f) if isinstance(f, nn.Module) else lambda x: f(unflatten(x))
    dtype = None if isinstance(f, nn.Module) else z.dtype

    def make() -> Decoder:
        at = tuple(shape) if len(shape) > 1 else ()
        try:
            return Decoder(rows, math.prod(shape), dtype=dtype, latent_shape=at)
        except ContractError:
            if not (len(z) and z.isfinite().all()):
                raise
        # it may be defined there and not everywhere: a logarithm, a root
        near = _around(z, 0.1)
        if not _is_defined(f, near.reshape(-1, *shape).to(z)):  # in a narrow place
            near = _around(z, 1e-3)
        return Decoder(rows, math.prod(shape), dtype=dtype, latent_shape=at, near=near)

    try:
        decoder = once_checked(f, rows, (tuple(shape), dtype), make)
    except ContractError as error:
        if z.ndim == 3 and not isinstance(error, LaidOutError) and _takes_rows(f, z[None]):
            raise ContractError(error.message, hint="z[None] is one map of latents in a batch") from None
        hint = _of_other_batches(f, z) if len(z) else None
        if hint is not None:
            raise ContractError(error.message, hint=hint) from None
        raise
    for note in decoder.notes:
        if note.spec in (OUTPUT_CHOSEN, WHOLE_VAE) and note.level == "warning":
            remedy = f"return one tensor, or give vaeprobe.Decoder(f, {decoder.latent_dim}, output=...)"
            warnings.warn(f"{note.message}; {remedy}", stacklevel=5)
    return decoder


def _around(z: Tensor, apart: float) -> Tensor:
    """Return `NEAR` latents near some of z, no two the same, that differ by a share of their size."""
    given = z.detach().flatten(1).double().cpu()
    noise = torch.from_numpy(stream(0, "near").standard_normal((NEAR, given.shape[1])))
    return given[cpu.arange(NEAR) % len(given)] * (1 + apart * noise)


def _is_defined(f: Callable[[Tensor], object], z: Tensor) -> bool:
    """Whether a function returns numbers at all of some latents."""
    try:
        with torch.no_grad():
            y = frozen(f)(z)
    except Exception:  # whatever a stranger's function raises
        return False
    return isinstance(y, Tensor) and bool(y.isfinite().all())


def _takes_rows(f: Callable[[Tensor], object], z: Tensor) -> bool:
    """Whether a function makes a row of a row."""
    if isinstance(f, nn.Module):
        z = z.to(next((p.dtype for p in f.parameters()), z.dtype))
    with torch.no_grad():
        try:
            y = frozen(f)(z.detach())  # a copy: trying it out changes nothing
        except Exception:  # whatever a stranger's function raises
            return False
    return isinstance(y, Tensor) and y.ndim > 0 and len(y) == len(z)


def _of_other_batches(f: Callable[[Tensor], object], z: Tensor) -> str | None:
    """Return how to give a function that takes these latents together, or a single one, and no other batch; None for others."""
    dtype = z.dtype
    if isinstance(f, nn.Module):
        dtype = next((p.dtype for p in f.parameters()), dtype)
    one = z[0].detach().to(dtype)
    # 3 rows, and as many more as tell them from the outputs of one
    many = one.expand(len(z[0].flatten()) + 3, *one.shape).clone()
    try:
        still = frozen(f)
    except ValueError:  # layers without shapes yet
        return None

    def given(rows: Tensor) -> Tensor | None:
        with torch.no_grad():
            try:
                y = still(rows)
            except Exception:  # whatever a stranger's function raises
                return None
        return y if isinstance(y, Tensor) else None

    y = given(many)
    if y is not None and len(many) in y.shape:
        return None
    if len(z) > 1 and one.ndim == 1:
        here = z.detach().to(dtype)
        elsewhere = torch.cat([here[:-1], here[-1:] + 1])  # a row more or less tells the others nothing
        y, moved = given(here), given(elsewhere)
        if (
            y is not None
            and moved is not None
            and y.shape[:1] == (len(z),)
            and torch.equal(y[:-1], moved[:-1])
        ):
            k = len(one)
            return (
                f"it takes {len(z)} latents and no other number: what it holds for each, c, goes in beside them:"
                f" lambda x: f(x[:, :{k}], x[:, {k}:]) of torch.cat([z, c], 1), columns=range({k})"
            )
    return None if given(one) is None else "it takes a single latent: torch.func.vmap(f) takes rows"


def _check_tensor(z: object, what: str) -> None:
    if not isinstance(z, Tensor):
        raise UsageError(
            f"{what} are a torch tensor, not {type(z).__name__}",
            hint="vaeprobe.engine takes no files: torch.from_numpy(numpy.load(...))"
            if isinstance(z, (str, os.PathLike))
            else "torch.as_tensor(...) makes one of an array or a list",
        )
    check_dense(z, what)
    if torch._C._functorch.is_functorch_wrapped_tensor(z):
        raise UsageError(
            f"{what} are inside a transform of torch.func, and vaeprobe.engine is not to be transformed",
            hint="give it all latents at once, outside of vmap, grad or jvp; results carry no graph",
        )


def check_chunk(chunk: object) -> None:
    """Refuse what is no number of latents.

    Raises:
        UsageError: it is none.
    """
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, Integral) or chunk < 1):
        raise UsageError(
            f"`chunk` is a number of latents, at least 1, not {chunk!r}",
            hint="leave it out: as many as are fast",
        )


def likelihood_of(decoder: Decoder, likelihood: Likelihood | str | None, z: Tensor) -> Likelihood | None:
    """Return a likelihood, by its name, held against the outputs at the first of latents z, or as it is given.

    Raises:
        UsageError: none has that name, the outputs are not its means, or it is something else.
    """
    if isinstance(likelihood, str):
        given = LikelihoodSettings(class_axis=decoder.class_axis)
        named = by_name(likelihood, tuple(decoder.output_shape), given)
        if decoder.parameter == "natural" or not len(z):
            return named
        with torch.no_grad():
            wrong = named.misfit(decoder.flat(z[:64].to(device=decoder.device, dtype=decoder.dtype)))
        if wrong is not None:
            raise UsageError(
                wrong,
                hint="of natural parameters (logits, log-rates), give vaeprobe.Decoder(f, "
                f'{decoder.latent_dim}, parameter="natural"); without `likelihood`, G = J^T J',
            )
        return named
    if likelihood is None or isinstance(likelihood, Likelihood):
        return likelihood
    raise UsageError(
        f"`likelihood` is a name or a Likelihood, not {type(likelihood).__name__}",
        hint='such as "bernoulli"; None for J^T J',
    )


def columns_of(decoder: Decoder, n: int, columns: object, *, blocks: bool) -> Tensor | None:
    """Return indices of columns at each of n latents, shape (n, s) or, of blocks, (n, b, s), in int64; None for all.

    Raises:
        UsageError: they are no such indices.
    """
    if columns is None:
        return None
    k = len(decoder.continuous)
    try:
        taken = cpu.as_tensor(columns)
    except (TypeError, ValueError, RuntimeError):
        taken = cpu.empty(())
    if not taken.numel():
        taken = taken.long()  # an empty list makes a tensor of floating numbers
    if (
        taken.ndim not in ((1, 2, 3) if blocks else (1, 2))
        or taken.is_floating_point()
        or taken.dtype == torch.bool
        or taken.is_complex()
    ):
        raise UsageError(
            "`columns` are indices of continuous latents, shape (s,)"
            + (", (n, s) or (n, blocks, s)" if blocks else " or (n, s)"),
            hint="such as torch.tensor([0, 2]), for these two at every latent",
        )
    taken = taken.long().cpu()
    if taken.ndim == 1:
        taken = taken.expand(n, -1)
    if len(taken) != n:
        raise UsageError(
            f"`columns` have shape {tuple(taken.shape)} for {n} latents",
            hint="one row of indices per latent, shape (n, s), or the same for all, shape (s,)",
        )
    if taken.numel() and not 0 <= int(taken.min()) <= int(taken.max()) < k:
        raise UsageError(
            f"`columns` go from {int(taken.min())} to {int(taken.max())}, and the continuous latents from 0 to {k - 1}"
        )
    return taken


def directions_of(decoder: Decoder, n: int, v: Tensor) -> tuple[Tensor, bool]:
    """Return directions, shape (s, n, k), and whether there were several: in rows, or in the shape of maps.

    Raises:
        UsageError: they fit neither the latents nor the decoder.
    """
    shape = decoder.latent_shape if len(decoder.continuous) == decoder.latent_dim else ()
    return _stacked(v, n, len(decoder.continuous), shape, "directions", "v")


def covectors_of(decoder: Decoder, n: int, w: Tensor) -> tuple[Tensor, bool]:
    """Return covectors, shape (s, n, data), and whether there were several: in rows, or in the outputs' shape.

    Raises:
        UsageError: they fit neither the latents nor the outputs.
    """
    return _stacked(w, n, decoder.data_dim, tuple(decoder.output_shape), "covectors", "w")


def _stacked(
    v: Tensor, n: int, width: int, shape: tuple[int, ...], what: str, name: str
) -> tuple[Tensor, bool]:
    _check_tensor(v, f"the {what}")
    if v.is_complex():
        raise UsageError(
            f"the {what} are complex numbers, and derivatives along real ones are taken",
            hint=f"J is linear: take {name}.real and {name}.imag, as two of several {what}",
        )
    for row in {(width,), shape or (width,)}:
        if v.shape == (n, *row):
            return v.detach().reshape(1, n, width), False
        if v.ndim == len(row) + 2 and v.shape[1:] == (n, *row):
            return v.detach().reshape(len(v), n, width), True
    raise UsageError(
        f"the {what} have shape {tuple(v.shape)}, and not ({n}, {width}) or (several, {n}, {width})",
        hint=f"one of {width} numbers per latent; {name}.expand({n}, -1) is the same at each"
        if v.ndim == 1
        else None,
    )

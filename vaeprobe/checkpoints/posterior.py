"""The posterior of somebody's own VAE: where its encoder is, and how to read means and variances off what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vaeprobe.checkpoints.beside import Conditioned, others
from vaeprobe.checkpoints.part_names import ENCODES, MEANS, SPREADS, named, word_of
from vaeprobe.checkpoints.programs.held import HeldInput
from vaeprobe.encoder import Encoder
from vaeprobe.files.source import quoted
from vaeprobe.findings import ENCODER_READ
from vaeprobe.frozen import MethodModule
from vaeprobe.report import Finding

__all__ = ["encoder_of"]


class _Posterior(nn.Module):
    """Reads means and log-variances off what an encoder returns.

    Args:
        encode: the part of a network that encodes.
        read: picks the two out of what that returns.
    """

    def __init__(self, encode: nn.Module, read: Callable[[object], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.encode = encode
        self.read = read

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, second = self.read(self.encode(x))
        return mean.flatten(1), second.flatten(1)


def encoder_of(
    whole: nn.Module,
    d: int,
    shape: tuple[int, ...],
    y: Tensor,
    at: Mapping[str, HeldInput] | None = None,
    row: tuple[int, ...] = (),
) -> tuple[Encoder | None, tuple[Finding, ...]]:
    """Return the encoder, where what it returns can be told to be means and variances of d latents.

    Arguments of the decoder that the encoder takes as well are held at the same values.  Latents that are maps have rows of
    the shape `row`.
    """
    seen: list[str] = []
    for name, part in named(whole, ENCODES):
        shared = {n: rows for n, rows in (at or {}).items() if n in others(part, dict.fromkeys(at or {}, 0))}
        encode = Conditioned(MethodModule(whole, name), shared) if shared else MethodModule(whole, name)
        for x in _rows(shape, y):
            try:
                with torch.no_grad():
                    first, again = encode(x), encode(x)
            except Exception:  # whatever foreign code raises on a shape that is not its own
                continue
            found = _reading(whole, first, again, d, row or (d,))
            if found is None:
                seen.append(f"`{name}` returns {_described(first)}")
                continue
            read, words = found
            function = _Posterior(encode, read).eval()
            note = Finding(ENCODER_READ, f"the posterior is read off {word_of(name, part)}: {words}")
            if shared:
                note = Finding(
                    ENCODER_READ,
                    f"{note.message}; it is held at the decoder's {' and '.join(map(quoted, shared))} as well",
                    hint="give it data of that alone",
                    level="warning",
                )
            return Encoder(function, d, input_shape=tuple(x.shape[1:]), dtype=x.dtype, device=y.device), (
                note,
            )
    if not any(named(whole, ENCODES)):
        return None, ()
    why = seen[0] if seen else f"no encoder takes data of shape {' x '.join(map(str, shape))}"
    message = f"no posterior was found in the network: {why}"
    return None, (Finding(ENCODER_READ, message, hint="input_shape=... says what it takes", level="warning"),)


def _rows(shape: tuple[int, ...], y: Tensor) -> Iterator[Tensor]:
    """Yield rows that an encoder of such outputs could take: numbers, and labels where their last or first axis is of classes."""
    for sizes in _shapes(shape):
        yield torch.rand(3, *sizes, dtype=y.dtype, device=y.device)
    for sizes in dict.fromkeys((shape[:-1], shape[1:])) if len(shape) > 1 else ():
        yield torch.zeros(3, *sizes, dtype=torch.long, device=y.device)


def _shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of one row that an encoder of such outputs could take."""
    flat = 1
    for n in shape:
        flat *= n
    out = [shape, (flat,)]
    if len(shape) == 1:
        for channels in (1, 3):
            side = round((flat / channels) ** 0.5)
            if channels * side * side == flat:
                out.append((channels, side, side))
    return list(dict.fromkeys(out))


PosteriorReading = tuple[Callable[[object], tuple[Tensor, Tensor]], str]


def _reading(
    whole: nn.Module, first: object, again: object, d: int, row: tuple[int, ...]
) -> PosteriorReading | None:
    """Return how to read means and log-variances, and the words for it."""
    inner = getattr(first, "latent_dist", first)
    if isinstance(inner, torch.distributions.Distribution) or hasattr(inner, "logvar"):
        return _distribution(inner is not first, inner)
    table = _fields(first)
    steady = {
        k: v for k, v in table.items() if _same(v, _fields(again).get(k)) and v.flatten(1).shape[1] == d
    }
    if len(steady) >= 2:
        names = list(steady)
        mean = next((k for k in names if "mean" in k or k.startswith(("mu", "loc", "embedding"))), names[0])
        second = next((k for k in names if k != mean), names[1])
        kind = next((kind for word, kind in SPREADS.items() if word == second), "log_variance")
        scale = 2.0 if kind == "log_sd" else 1.0
        words = f"output `{mean}` is the mean, `{second}` the {kind.replace('_', ' ')}"
        return lambda out: (_fields(out)[mean], scale * _fields(out)[second]), words
    if len(table) == 1:
        (alone,) = table.values()
        if tuple(alone.shape[1:]) == (2 * row[0], *row[1:]):
            words = f"its {2 * d} outputs are {d} means, then {d} log variances"
            return lambda out: _halved(next(iter(_fields(out).values()))), words
        return _heads(whole, alone, d)
    return None


def _distribution(wrapped: bool, inner: object) -> PosteriorReading:
    def take(out: Any) -> Any:  # somebody's class, with the attributes that it was seen to have
        return out.latent_dist if wrapped else out

    if hasattr(inner, "logvar"):
        return lambda out: (take(out).mean, take(out).logvar), "mean and log variance of its distribution"
    return lambda out: (take(out).mean, take(out).variance.log()), "mean and variance of its distribution"


def _heads(whole: nn.Module, features: Tensor, d: int) -> PosteriorReading | None:
    """Return the reading of two heads beside the encoder, on its features."""
    means, spreads = list(named(whole, MEANS)), list(named(whole, tuple(SPREADS)))
    if not means or not spreads:
        return None
    (mean_name, mean), (name, spread) = means[0], spreads[0]
    log_sd = SPREADS[name] == "log_sd"

    def read(out: object) -> tuple[Tensor, Tensor]:
        h = next(iter(_fields(out).values()))
        h = h.flatten(1) if isinstance(mean, nn.Linear) else h
        first, second = mean(h), spread(h)
        if not isinstance(first, Tensor) or not isinstance(second, Tensor):
            raise TypeError("the heads return no tensors")
        return first, 2 * second if log_sd else second

    try:
        with torch.no_grad():
            found = read(features)
    except Exception:  # heads of something else
        return None
    if any(t.flatten(1).shape[1] != d for t in found):
        return None
    return (
        read,
        f"its features go to the heads `{mean_name}` and `{name}`, the {SPREADS[name].replace('_', ' ')}",
    )


def _fields(out: object) -> dict[str, Tensor]:
    """Return the tensors of what an encoder returns, by name or place."""
    if isinstance(out, Tensor):
        return {"0": out}
    if isinstance(out, Mapping):
        table = dict(out)
    elif isinstance(out, (tuple, list)):
        table = dict(zip(getattr(out, "_fields", range(len(out))), out, strict=True))
    else:
        table = dict(getattr(out, "__dict__", {}))
    return {str(k): v for k, v in table.items() if isinstance(v, Tensor) and v.ndim >= 2}


def _halved(out: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = out.chunk(2, dim=1)
    return mean, log_variance


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and torch.equal(a, b)


def _described(out: object) -> str:
    table = _fields(out)
    shapes = [quoted(" x ".join(map(str, t.shape[1:]))) for t in table.values()]
    return (
        f"{len(table)} tensor{'s' * (len(table) != 1)} of shape {', '.join(shapes[:3])}"
        if table
        else type(out).__name__
    )

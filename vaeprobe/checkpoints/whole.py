"""Whole VAEs: which part of a network decodes, and which gives the posterior.

A class that somebody wrote for training takes images and returns a loss or a reconstruction; what is probed are its
halves.  They are looked for under the names that people give them, and tried out: nothing is decided by a name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vaeprobe.checkpoints.beside import Conditioned, conditioned, others
from vaeprobe.checkpoints.blueprint.condition import held
from vaeprobe.checkpoints.network.parts import Parts, at_conditions, unchosen
from vaeprobe.checkpoints.plain import latents_of, parts_of
from vaeprobe.checkpoints.programs.held import Held
from vaeprobe.checkpoints.scale import learned, with_variance
from vaeprobe.decoder import Decoder, Encoder
from vaeprobe.errors import ContractError, UsageError
from vaeprobe.files.source import quoted
from vaeprobe.findings import ENCODER_READ, WHOLE_VAE
from vaeprobe.frozen import Method, frozen, unwrapped
from vaeprobe.outputs import picked
from vaeprobe.report import Finding

__all__ = ["from_module", "halves", "is_whole", "latents_named", "parts"]

DECODES = ("decode", "decoder", "dec", "decoder_net", "decoder_network", "generator", "gen", "netG", "G")
ENCODES = (
    "encode",
    "encoder",
    "enc",
    "encoder_net",
    "encoder_network",
    "inference_net",
    "recognition",
    "q_z",
)
LATENTS = (
    *("latent_dim", "latent_size", "latent_dims", "n_latent", "n_latents", "num_latents", "latents"),
    *("z_dim", "zdim", "dim_z", "nz", "z_size", "code_dim", "latent_channels", "embedding_dim"),
)
# heads on an encoder's features: its mean, and the second output with what it is
MEANS = ("fc_mu", "fc_mean", "mu", "mean", "fc21", "to_mu", "to_mean", "mean_layer", "linear_mu", "z_mean")
SPREADS = {
    **dict.fromkeys(("fc_var", "fc_logvar", "fc_log_var", "logvar", "log_var", "fc22", "to_logvar"), "log_variance"),
    **dict.fromkeys(("to_var", "var", "logvar_layer", "linear_logvar", "z_log_var", "log_variance"), "log_variance"),
    **dict.fromkeys(("fc_logstd", "log_std", "logstd", "log_sigma", "fc_log_sigma", "logsigma"), "log_sd"),
}  # fmt: skip


def is_whole(module: object) -> bool:
    """Return whether a network has a part that decodes, and one that encodes or else nothing that it does as a whole."""
    if not isinstance(module, nn.Module) or next(_named(module, DECODES), None) is None:
        return False
    return next(_named(module, ENCODES), None) is not None or type(module).forward is nn.Module.forward


def latents_named(owner: object, settings: Mapping[str, object] | None = None) -> int | None:
    """Return the number of latents that an attribute of a network, or a setting of its making, says."""
    for name in LATENTS:
        value = (settings or {}).get(name, getattr(owner, name, None))
        if type(value) is int and value > 0:
            return value
    return None


def parts(
    module: nn.Module,
    *,
    latent_dim: int | None = None,
    input_shape: Sequence[int] | None = None,
    architecture: str = "",
    part: str | None = None,
    condition: Mapping[str, str | float] | None = None,
) -> Parts:
    """Return the halves of a whole VAE, a decoder whose other arguments are held, or the decoder that a network is.

    Args and errors: as for `halves` and `plain.parts_of`.
    """
    if part is not None or is_whole(module):
        return halves(
            module,
            latent_dim=latent_dim,
            input_shape=input_shape,
            architecture=architecture,
            part=part,
            condition=condition,
        )
    if others(module, condition):
        network = frozen(unwrapped(module))
        assert isinstance(network, nn.Module)
        return _conditional(network, None, latent_dim, condition or {}, architecture, input_shape)
    return parts_of(module, latent_dim=latent_dim or latents_named(module), architecture=architecture)


def halves(
    module: nn.Module,
    *,
    latent_dim: int | None = None,
    input_shape: Sequence[int] | None = None,
    architecture: str = "",
    part: str | None = None,
    condition: Mapping[str, str | float] | None = None,
) -> Parts:
    """Return the decoder of a whole VAE, and its encoder where its posterior can be told.

    Args:
        module: has a part that decodes, a method or a submodule.
        latent_dim: number of latents, where the network does not tell.
        input_shape: shape of one data row; by default that of the decoder's output.
        architecture: how the network was known, in words.
        part: the name of the part that decodes, where it has no usual one.
        condition: what arguments beside the latents are held at, by name.

    Raises:
        UsageError: the number of latents cannot be told, or a condition is no argument.
        ContractError: no part takes latents alone, or with arguments that can be held.
    """
    whole = frozen(unwrapped(module))
    assert isinstance(whole, nn.Module)
    names = [part] if part is not None else [name for name, _ in _named(whole, DECODES)]
    for name in names:
        if others(getattr(whole, name), condition):
            return _conditional(whole, name, latent_dim, condition or {}, architecture, input_shape)
    failures: list[str] = []
    for name in names:
        decode = getattr(whole, name)
        for d in _sizes(whole, decode, latent_dim):
            try:
                with torch.no_grad():
                    y = picked(decode(_zeros(whole, d)))
            except Exception as error:  # whatever foreign code raises on a size that is not its own
                failures.append(f"`{name}` on {d} latents: {(str(error).splitlines() or [''])[0][:120]}")
                continue
            encoder, notes = _encoder(whole, d, tuple(input_shape or y.shape[1:]), y)
            said = Finding(WHOLE_VAE, f"the network is a whole VAE, of which {_word(name, decode)} is probed")
            return Parts(
                decoder=decode,
                latent_dim=d,
                encoder=encoder,
                architecture=architecture,
                notes=(said, *notes),
            )
    if not failures:
        raise UsageError(
            "the network does not tell how many latents its decoder takes",
            hint="say it: --latent-dim (latent_dim=...)",
        )
    raise ContractError(
        f"no part of the network decodes latents: {failures[0]}",
        hint="name it: --submodule PART, --latent-dim D",
    )


def _conditional(
    whole: nn.Module,
    name: str | None,
    given: int | None,
    values: Mapping[str, str | float],
    architecture: str,
    input_shape: Sequence[int] | None,
) -> Parts:
    """Return a decoder whose arguments beside the latents are held.

    Raises:
        UsageError: the number of latents cannot be told, or a condition is no argument.
        ContractError: nothing that a class or a number can be is taken.
    """
    decode = whole if name is None else getattr(whole, name)
    word = "the network" if name is None else _word(name, decode)
    known = [given] if given is not None else [d for d in (latents_named(whole), *_means(whole)) if d]
    if not known:
        raise UsageError(
            f"{word} takes more than latents and does not tell how many of these",
            hint="say it: --latent-dim (latent_dim=...)",
        )
    found = conditioned(whole, name, list(dict.fromkeys(known)), values)
    if found is None:
        names = " and ".join(f"`{n}`" for n in others(decode, values))
        raise ContractError(
            f"{word} takes {names} beside the latents: neither a class, a one-hot vector nor a number for each",
            hint="write a factory that returns a decoder of latents alone: def decoder(): ...",
        )
    d, decoder, conditions = found
    said: list[Finding] = []
    encoder = None
    if name is not None:
        with torch.no_grad():
            y = picked(decoder(_zeros(whole, d)))
        encoder, notes = _encoder(whole, d, tuple(input_shape or y.shape[1:]), y, decoder.others)
        said = [Finding(WHOLE_VAE, f"the network is a whole VAE, of which {word} is probed"), *notes]
    return Parts(
        decoder=decoder,
        latent_dim=d,
        encoder=encoder,
        architecture=at_conditions(architecture, conditions),
        notes=(*said, *unchosen(conditions)),
        conditions=conditions,
    )


def _means(whole: nn.Module) -> Iterator[int]:
    """Yield the number of means that a head of the encoder gives."""
    yield from (head.out_features for _, head in _named(whole, MEANS) if isinstance(head, nn.Linear))


def from_module(
    module: nn.Module,
    latent_dim: int | None = None,
    *,
    likelihood: str | None = None,
    input_shape: Sequence[int] | None = None,
    part: str | None = None,
    condition: Mapping[str, str | float] | None = None,
    **settings: Any,
) -> Decoder:
    """Return the decoder of a network in memory, with its encoder where it is a whole VAE.

    Args:
        module: a VAE with parts that decode and encode (methods or submodules, under their usual names), or a decoder.
        latent_dim: number of latents, where the network does not tell.
        likelihood: gaussian, bernoulli, poisson or categorical, as it was trained with.
        input_shape: shape of one data row, where it is not that of the decoder's output.
        part: the name of the part that decodes, where it has no usual one.
        condition: what arguments that it takes beside latents are held at: {"label": 3}.
        settings: as for `Decoder`.

    Raises:
        UsageError: the number of latents cannot be told.
        ContractError: no part takes latents alone, or it is no decoder (see `Decoder`).

    Example:
        >>> class VAE(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        >>> from_module(VAE()).latent_dim
        2
    """
    dtype = settings.get("dtype")
    if dtype is not None:
        module = frozen(module, dtype)  # type: ignore[assignment]
    found = parts(
        module,
        latent_dim=latent_dim,
        input_shape=input_shape,
        architecture="module",
        part=part,
        condition=condition,
    )
    held(found.conditions, condition or {})  # what was asked for and is not there is refused
    found = with_variance(replace(found, likelihood=likelihood), learned(unwrapped(module).state_dict()))
    return Decoder(
        found.decoder,
        latent_dim or found.latent_dim,
        natural=found.natural,
        encoder=found.encoder,
        likelihood=likelihood,
        notes=found.notes,
        **({"sigma2": found.sigma2} | settings),
    )


# -- parts by name ------------------------------------------------------------------------------------


def _named(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the parts of a network that have one of these names and can be called."""
    for name in names:
        found = getattr(module, name, None)
        if callable(found) and not isinstance(found, type):
            yield name, found


def _word(name: str, part: object) -> str:
    return f"the submodule `{name}`" if isinstance(part, nn.Module) else f"the method `{name}`"


def _sizes(whole: nn.Module, decode: object, given: int | None) -> list[int]:
    """Return the numbers of latents that could be, the likeliest first."""
    if given is not None:
        return [given]
    named = latents_named(whole)
    first = latents_of(decode)[0] if isinstance(decode, nn.Module) else None
    known = [d for d in (named, first) if d is not None]
    if known:
        return list(dict.fromkeys(known))
    takes = [m.in_features for m in whole.modules() if isinstance(m, nn.Linear)]
    takes += [m.in_channels for m in whole.modules() if isinstance(m, nn.ConvTranspose2d)]
    return sorted(set(takes))


def _zeros(module: nn.Module, d: int) -> Tensor:
    first = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros(2, d, dtype=first.dtype, device=first.device)


# -- the posterior ------------------------------------------------------------------------------------


class _Posterior(nn.Module):
    """Reads means and log-variances off what an encoder returns.

    Args:
        encode: the part of a network that encodes.
        read: picks the two out of what that returns.
    """

    def __init__(self, encode: nn.Module, read: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.encode = encode
        self.read = read

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, second = self.read(self.encode(x))
        return mean.flatten(1), second.flatten(1)


def _encoder(
    whole: nn.Module, d: int, shape: tuple[int, ...], y: Tensor, at: Mapping[str, Held] | None = None
) -> tuple[Encoder | None, tuple[Finding, ...]]:
    """Return the encoder, where what it returns can be told to be means and variances of d latents.

    Arguments of the decoder that the encoder takes as well are held at the same values.
    """
    seen: list[str] = []
    for name, part in _named(whole, ENCODES):
        shared = {n: rows for n, rows in (at or {}).items() if n in others(part, dict.fromkeys(at or {}, 0))}
        encode = Conditioned(Method(whole, name), shared) if shared else Method(whole, name)
        for input_shape in _shapes(shape):
            x = torch.rand(3, *input_shape, dtype=y.dtype, device=y.device)
            try:
                with torch.no_grad():
                    first, again = encode(x), encode(x)
            except Exception:  # whatever foreign code raises on a shape that is not its own
                continue
            found = _reading(whole, first, again, d)
            if found is None:
                seen.append(f"`{name}` returns {_described(first)}")
                continue
            read, words = found
            function = _Posterior(encode, read).eval()
            note = Finding(ENCODER_READ, f"the posterior is read off {_word(name, part)}: {words}")
            if shared:
                note = Finding(
                    ENCODER_READ,
                    f"{note.message}; it is held at the decoder's {' and '.join(map(quoted, shared))} as well",
                    hint="give it data of that alone",
                    level="warning",
                )
            return Encoder(function, d, input_shape=input_shape, dtype=y.dtype, device=y.device), (note,)
    if not any(_named(whole, ENCODES)):
        return None, ()
    why = seen[0] if seen else f"no encoder takes data of shape {' x '.join(map(str, shape))}"
    message = f"no posterior was found in the network: {why}"
    return None, (Finding(ENCODER_READ, message, hint="input_shape=... says what it takes", level="warning"),)


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


Reading = tuple[Callable[[Any], tuple[Tensor, Tensor]], str]


def _reading(whole: nn.Module, first: object, again: object, d: int) -> Reading | None:
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
        if alone.flatten(1).shape[1] == 2 * d and alone.ndim == 2:
            words = f"its {2 * d} outputs are {d} means, then {d} log variances"
            return lambda out: _halved(next(iter(_fields(out).values()))), words
        return _heads(whole, alone, d)
    return None


def _distribution(wrapped: bool, inner: object) -> Reading:
    def take(out: Any) -> Any:
        return out.latent_dist if wrapped else out

    if hasattr(inner, "logvar"):
        return lambda out: (take(out).mean, take(out).logvar), "mean and log variance of its distribution"
    return lambda out: (take(out).mean, take(out).variance.log()), "mean and variance of its distribution"


def _heads(whole: nn.Module, features: Tensor, d: int) -> Reading | None:
    """Return the reading of two heads beside the encoder, on its features."""
    means, spreads = list(_named(whole, MEANS)), list(_named(whole, tuple(SPREADS)))
    if not means or not spreads:
        return None
    (mean_name, mean), (name, spread) = means[0], spreads[0]
    log_sd = SPREADS[name] == "log_sd"

    def read(out: object) -> tuple[Tensor, Tensor]:
        h = next(iter(_fields(out).values()))
        h = h.flatten(1) if isinstance(mean, nn.Linear) else h
        second = spread(h)
        return mean(h), 2 * second if log_sd else second

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

"""Which tensor of what a network returns is its output."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from vaeprobe.errors import ContractError, UsageError, did_you_mean
from vaeprobe.findings import DISTRIBUTION_OUTPUT, OUTPUT_CHOSEN, WHOLE_VAE
from vaeprobe.report import Finding

__all__ = ["Stacked", "Totalled", "likelihood_of", "names_of", "picked", "returned"]

# names under which people return a reconstruction, the likeliest first
RECONSTRUCTION = re.compile(
    r"recon|(^|_)rec($|_)|x_?(hat|tilde)|(hat|tilde)_?x|decoded|generated", re.IGNORECASE
)
PLAIN = ("sample", "output", "out", "logits")
# a decoder's mean, beside its spread; beside anything else it may be the posterior's
MEANS = ("mean", "loc", "mu", "x")
SPREAD = re.compile(r"var|std|scale|sigma|sd$|precision", re.IGNORECASE)
# the distribution that a network returns -> the likelihood it was trained with
LIKELIHOODS = {
    "Normal": "gaussian",
    "Bernoulli": "bernoulli",
    "Poisson": "poisson",
    "Categorical": "categorical",
}


def picked(out: object, chosen: int | str | None = None) -> Tensor:
    """Return the output tensor: the one `chosen`, else one of a usual name, else the first.

    A distribution is taken by its mean, a categorical one by its probabilities, classes on axis 1.

    Raises:
        ContractError: there is no tensor in it, or a distribution without a mean.
        UsageError: there is no output `chosen`.
    """
    if isinstance(out, Tensor):
        return out
    if isinstance(out, torch.distributions.Distribution):
        return _mean(out)
    table = _table(out)
    if chosen is not None and str(chosen) not in table:
        raise UsageError(
            f"the decoder returns no output `{chosen}`",
            hint=did_you_mean(str(chosen), table) or f"it returns {_names(table)}",
        )
    if any(map(_is_output, table.values())) or chosen is not None:
        return picked(table[_name(table, chosen)])
    if not table:
        raise ContractError(
            f"the decoder returns {type(out).__name__}, not a tensor",
            hint="wrap it in a function that returns the tensor to probe",
        )
    what = "dict" if isinstance(out, Mapping) else type(out).__name__
    raise ContractError(
        f"the decoder returns a {what} with keys {sorted(table)}, and no tensor in it",
        hint="wrap it in a function that returns the tensor to probe",
    )


def names_of(out: object) -> tuple[str, ...]:
    """Return the names of the outputs of a network that returns several, nothing for one."""
    if isinstance(out, (Tensor, torch.distributions.Distribution)):
        return ()
    return tuple(k for k, v in _table(out).items() if _is_output(v))


def returned(out: object, chosen: int | str | None = None, latents: int = 0) -> Iterator[Finding]:
    """Yield what to say where a network returns more, or something else, than one tensor.

    Args:
        out: what it returned for a batch.
        chosen: the output that was asked for.
        latents: how many numbers one row of its input has; 0 where that is not to be looked at.

    Raises:
        ContractError: it returns a distribution without a mean.
    """
    if isinstance(out, torch.distributions.Distribution):
        name = type(_plain(out)).__name__
        if bool(torch.isnan(_mean(out)).all()):
            raise _meanless(out)
        what = "probabilities are" if LIKELIHOODS.get(name) == "categorical" else "mean is"
        yield Finding(
            DISTRIBUTION_OUTPUT,
            f"the decoder returns a distribution ({name}): its {what} probed",
        )
    if isinstance(out, (Tensor, torch.distributions.Distribution)):
        return
    table = _table(out)
    name = _name(table, chosen)
    if chosen is None and sum(map(_is_output, table.values())) > 1:
        place = f"the first, `{name}`," if name == next(iter(table)) else f"`{name}`"
        yield Finding(
            OUTPUT_CHOSEN,
            f"the decoder returns {len(table)} outputs, {_names(table)}: {place} was probed",
            hint="choose another with --output-name (in Python, output=)",
            level="note" if _is_told(name, table) else "warning",
        )
    if chosen is None and latents and _reconstructs(table, name, latents):
        yield Finding(
            WHOLE_VAE,
            f"`{name}` has as many numbers as the input, {latents}, and two other outputs have fewer: is this a whole"
            " VAE, and its input data?",
            hint="give its decoder alone; of a network in memory, vaeprobe.from_module(vae) takes it",
            level="warning",
        )
    yield from returned(table[name])


def likelihood_of(out: object, chosen: int | str | None = None) -> str | None:
    """Return the likelihood whose distribution a network returns, None where it returns tensors."""
    if isinstance(out, torch.distributions.Distribution):
        return LIKELIHOODS.get(type(_plain(out)).__name__)
    if isinstance(out, Tensor):
        return None
    table = _table(out)
    return likelihood_of(table[_name(table, chosen)])


def _name(table: Mapping[str, object], chosen: int | str | None) -> str:
    """Return the name of the output to take."""
    if chosen is not None:
        return str(chosen)
    return min((k for k in table if _is_output(table[k])), key=_rank)  # the first of equals


def _rank(name: str) -> int:
    """Return how unlikely a name is that of a reconstruction."""
    if "loss" in name.lower():
        return len(PLAIN) + len(MEANS) + 2
    if RECONSTRUCTION.search(name):
        return 0
    usual = [*PLAIN, *MEANS]
    return 1 + (usual.index(name) if name in usual else len(usual))


def _reconstructs(table: Mapping[str, object], name: str, latents: int) -> bool:
    """Return whether outputs look like a reconstruction beside the parameters of a posterior of fewer numbers."""
    sizes = {k: v[0].numel() for k, v in table.items() if isinstance(v, Tensor) and v.ndim > 1 and len(v)}
    fewer = [n for k, n in sizes.items() if k != name and n < latents]
    return sizes.get(name) == latents and any(fewer.count(n) >= 2 for n in fewer)


def _is_told(name: str, table: Mapping[str, object]) -> bool:
    """Return whether a name alone says that its output is the reconstruction."""
    if name in MEANS:
        return all(SPREAD.search(k) for k in table if k != name and _is_output(table[k]))
    return _rank(name) <= len(PLAIN)


def _mean(out: torch.distributions.Distribution) -> Tensor:
    plain = _plain(out)
    if isinstance(plain, (torch.distributions.Categorical, torch.distributions.OneHotCategorical)):
        probabilities: Tensor = plain.probs
        return probabilities.movedim(-1, 1)
    try:
        mean = out.mean
    except (NotImplementedError, AttributeError):
        raise _meanless(out) from None
    if not isinstance(mean, Tensor):
        raise _meanless(out)
    return mean


def _meanless(out: torch.distributions.Distribution) -> ContractError:
    return ContractError(
        f"the decoder returns a distribution, `{type(_plain(out)).__name__}`, that has no mean to probe",
        hint="wrap the decoder in a function that returns the tensor to probe",
    )


def _plain(out: torch.distributions.Distribution) -> torch.distributions.Distribution:
    while isinstance(out, torch.distributions.Independent):
        out = out.base_dist
    return out


def _is_output(value: object) -> bool:
    if isinstance(value, (tuple, list, Mapping)):
        return any(map(_is_output, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, (Tensor, torch.distributions.Distribution))


def _table(out: object) -> dict[str, object]:
    """Return the outputs by name: keys, positions, or the fields of an object."""
    if isinstance(out, Mapping):
        return {str(k): v for k, v in out.items()}
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return dict(zip(out._fields, out, strict=True))
    if isinstance(out, Sequence) and not isinstance(out, (str, bytes)):
        return {str(k): v for k, v in enumerate(out)}
    if dataclasses.is_dataclass(out) and not isinstance(out, type):
        return {f.name: getattr(out, f.name) for f in dataclasses.fields(out)}
    found = {k: getattr(out, k, None) for k in ("reconstruction", "recon_x", *PLAIN, *MEANS)}
    return {k: v for k, v in found.items() if _is_output(v)} or {
        k: v for k, v in getattr(out, "__dict__", {}).items() if _is_output(v)
    }


def _names(table: Mapping[str, object], limit: int = 6) -> str:
    shown = ", ".join(f"`{k}`" for k in list(table)[:limit])
    return shown + (f" and {len(table) - limit} more" if len(table) > limit else "")


class Totalled(nn.Module):
    """Latents and the logarithm of a total -> the outputs, the one called so multiplied by the total."""

    def __init__(self, function: Callable[[Tensor], object], latents: int, name: str) -> None:
        super().__init__()
        self.function = function
        self.latents = latents
        self.name = name

    def forward(self, z: Tensor) -> object:
        out = self.function(z[:, : self.latents])
        y = picked(out, self.name or None)
        y = y * z[:, self.latents].exp().reshape(-1, *[1] * (y.ndim - 1))
        return {**out, self.name: y} if isinstance(out, Mapping) else y


class Stacked(nn.Module):
    """z -> the outputs called so, each a row, stacked on axis 1."""

    def __init__(self, function: Callable[[Tensor], object], names: tuple[str, ...]) -> None:
        super().__init__()
        self.function = function
        self.names = names

    def forward(self, z: Tensor) -> Tensor:
        out = self.function(z)
        return torch.stack([picked(out, name).flatten(1) for name in self.names], 1)

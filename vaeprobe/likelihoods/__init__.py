"""Likelihoods p(x | theta), one file each: the metric A^2 of Eq. 7, means, log-densities, and what beta makes of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module

from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.likelihoods.bernoulli import Bernoulli
from vaeprobe.likelihoods.categorical import Categorical
from vaeprobe.likelihoods.gaussian import Gaussian
from vaeprobe.likelihoods.likelihood import Likelihood, LikelihoodSettings, Parameter
from vaeprobe.likelihoods.multinomial import Multinomial
from vaeprobe.likelihoods.negative_binomial import NegativeBinomial
from vaeprobe.likelihoods.poisson import Poisson
from vaeprobe.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "LikelihoodSettings",
    "Likelihood",
    "Multinomial",
    "NegativeBinomial",
    "Parameter",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "by_name",
    "classes",
]


def classes() -> dict[str, type[Likelihood]]:
    """Return every likelihood of this folder, by its name, which is that of its file."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "likelihood":
            members = vars(import_module(f"{__name__}.{module.name}")).values()
            found[module.name] = next(
                c
                for c in members
                if isinstance(c, type) and issubclass(c, Likelihood) and vars(c).get("name") == module.name
            )
    return found


def class_of(name: str) -> type[Likelihood] | None:
    """Return the likelihood of a name or an alias, which its settings are not needed for, or None."""
    return next((cls for own, cls in classes().items() if name.lower() in (own, *cls.aliases)), None)


def activations(name: str | None) -> frozenset[str]:
    """Return the layers that make means of natural parameters: that of a likelihood, those of all where none is named."""
    asked = [class_of(name)] if name else [*classes().values()]
    return frozenset(cls.activation for cls in asked if cls and cls.activation)


def by_name(name: str, shape: Sequence[int] = (2,), given: LikelihoodSettings | None = None) -> Likelihood:
    """Return the likelihood called `name`.

    Args:
        shape: shape of one output; its first axis runs over the classes of a categorical likelihood unless `given` names another.
        given: settings beside the name.

    Raises:
        UsageError: no likelihood has that name, or a setting is out of its range.
    """
    if cls := class_of(name):
        return cls.of(shape, given or LikelihoodSettings())
    known = classes()
    raise UsageError(
        f"no likelihood is called `{name}`",
        hint=did_you_mean(name, known) or f"one of {', '.join(known)}",
    )

"""The waist of the house: every format becomes a `Decoder`, and every probe takes one."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vaeprobe import contract, cpu
from vaeprobe.autograd import (
    device_named,
    differentiable_kernels,
    full_precision,
    keep_large_memory,
    keep_memory,
)
from vaeprobe.budget import budget
from vaeprobe.derivatives import Differentiation, check_derivatives
from vaeprobe.encoder import Encoder
from vaeprobe.errors import ContractError, UsageError, VaeprobeError
from vaeprobe.files import limits
from vaeprobe.findings import CAST_UP, LEARNED_PRIOR, LOW_PRECISION, REVERSE_MODE, TRAINING_MODE
from vaeprobe.foreign import foreign, said, uncompiled
from vaeprobe.frozen import buffers_of, frozen, tensors_of, whole_of, written_in
from vaeprobe.given import check_fields, check_least
from vaeprobe.intervals import stream
from vaeprobe.likelihoods import Likelihood, Parameter, class_of
from vaeprobe.likelihoods.categorical import axis_of_classes
from vaeprobe.outputs import Stacked, Totalled, likelihood_of, names_of, picked, returned
from vaeprobe.prior import InPriorUnits, LearnedPrior
from vaeprobe.progress import counted, foretell
from vaeprobe.recipe import Recipe
from vaeprobe.report import Artifact, Finding

__all__ = ["Decoder", "Group"]


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive latents with one prior: `normal` (N(0, 1) each) or `onehot` (a uniform categorical).

    `held` ones are N(0, 1) too, and given: they are drawn, and no derivative is taken along them.  `total` is one number,
    the logarithm of a data row's total, which multiplies the outputs (see `Decoder.at_totals`).
    """

    kind: Literal["normal", "onehot", "held", "total"]
    size: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_least(1, size=self.size)


LARGE = 4_000_000
"""Numbers that a network computes for one output beyond which it is checked at few latents: a tenth of a second of a core."""
VAST = 1 << 25
"""The same from which on latents are taken one at a time: a decoding takes about a second, and tensors over 32 MB."""
# latents that checks of what few of them meet take, and numbers that they decode to at once: a branch that 1 in 10 takes is
# met by 1 - 0.9^20 = 88 % of such checks
MORE, AT_ONCE = 20, 32_000_000
# the part of the time that is left, where it is limited, up to which one such check is worth a decoding of these
IN_TIME = 0.01
DECODINGS = 33
"""What the checks of a vast decoder take after the first two calls, with those that choose how to differentiate it, in decodings."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A deterministic, differentiable map from latents to data, checked once at the door.

    The contract: rows are independent, two calls agree, outputs are finite real numbers, and forward- and
    reverse-mode derivatives agree (`<w, J v> = <J^T w, v>`) on three successive calls.  After that nothing
    downstream checks again.

    Args:
        function: takes latents, shape (n, latent_dim), returns outputs, shape (n, ...); an `nn.Module`, a
            method or a partial application of one is probed as a copy in eval mode that shares its tensors.
        latent_dim: number of latent dimensions d.
        name: how to call it in reports.
        dtype: what to compute in: the network's copy is cast to it; by default its own, at least float32, and
            for other functions float64 where they take it and float32 where not.
        device: by default that of the module's parameters, else the CPU.
        prior: groups of latents in order; by default all N(0, 1).
        learned: prior of the continuous latents, where it is not N(0, I).
        parameter: what the output is to a likelihood, its mean or its natural parameter (logits, log-rates).
        natural: the same map without its last activation, where the output is a mean and it is known.
        likelihood: name of the likelihood the decoder was trained with, where known.
        output: which output to take where the function returns a tuple or a dict.
        encoder: the encoder of the same checkpoint.
        artifact: the file it came from.
        notes: what the loader wants the reader to know.
        latent_shape: (channels, height, width), where the latents are a map, for names and places: `function` takes rows
            none the less, so that a network of maps follows `nn.Unflatten(1, latent_shape)` in an `nn.Sequential`.
        units: mean and standard deviation of each latent, where latents are counted from the one in the other.
        recipe: what the loss of its family says of beta, where that is known.
        dispersion: inverse dispersions of a negative binomial likelihood, where the file holds them.
        class_axis: axis of the outputs, shape (n, ...), that runs over the classes of a categorical likelihood; by default
            the one over which they are probabilities, None where there is none.
        sigma2: variance of a Gaussian likelihood, where it was learned and is known.
        totalled: the output ("" for the only one) that the total of a data row multiplies, where the function holds that
            total at 1 because nobody chose another.
        near: latents, shape (n, latent_dim), at which the contract is checked, for a function that is not defined
            everywhere: many, and no two the same.  N(0, I) without them.

    A module's parameters and buffers are shared: the decoder is that of the module as it is by then.  Buffers that a call
    of it writes to (counters, running means) are the decoder's own, as they were when it was made.

    Attributes:
        output_shape: shape of one output, without the batch.
        differentiation: "forward", or "reverse" where forward mode is not to be had.
        returns: names of the outputs, where the function returns several.
        numbers: how many numbers the network's operations return for one latent, as far as they can be seen.
        seconds: how long it took to return them, about.

    Raises:
        ContractError: the function breaks the contract.
        UsageError: latent_dim and prior disagree, or the encoder is no `Encoder`.

    Example:
        >>> decoder = Decoder(lambda z: z @ torch.eye(3, 2, dtype=z.dtype).T, latent_dim=2)
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    function: Callable[[Tensor], object]
    latent_dim: int
    _: KW_ONLY
    name: str = "decoder"
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    prior: tuple[Group, ...] = ()
    learned: LearnedPrior | None = None
    parameter: Parameter = "mean"
    natural: Callable[[Tensor], object] | None = None
    likelihood: str | None = None
    output: int | str | None = None
    encoder: Encoder | None = None
    artifact: Artifact | None = None
    notes: tuple[Finding, ...] = ()
    latent_shape: tuple[int, ...] = ()
    units: tuple[Tensor, Tensor] | None = None
    recipe: Recipe | None = None
    dispersion: Tensor | None = None
    class_axis: int | None = None
    sigma2: float | None = None
    totalled: str | None = None
    near: Tensor | None = None
    output_shape: torch.Size = field(init=False)
    differentiation: Differentiation = field(init=False, default="forward")
    returns: tuple[str, ...] = field(init=False, default=())
    numbers: int = field(init=False, default=0)
    seconds: float = field(init=False, default=0.0, compare=False)
    _made: dict[object, Decoder] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.encoder is not None and not isinstance(self.encoder, Encoder):
            raise UsageError(
                f"the encoder is a {type(self.encoder).__name__}, and its means and variances could be anything",
                hint=f"Encoder(function, {self.latent_dim}), of a function from data to means and log-variances",
            )
        check_fields(self)
        if self.latent_dim < 1:
            raise UsageError(f"a decoder needs at least one latent, not {self.latent_dim}")
        limits.check_memory(f"{self.latent_dim} latents", 8 * self.latent_dim, "are there as many?")
        if self.dtype is not None and not self.dtype.is_floating_point:
            raise UsageError(
                f"`dtype` is {contract.word(self.dtype)}, which has no derivatives",
                hint="torch.float32 or torch.float64",
            )
        near = self.near
        if near is not None and (near.ndim != 2 or not len(near) or near.shape[1] != self.latent_dim):
            raise UsageError(f"`near` are latents of shape (n, {self.latent_dim}), not {tuple(near.shape)}")
        prior = self.prior or (Group("normal", self.latent_dim),)
        if sum(g.size for g in prior) != self.latent_dim:
            raise UsageError(
                f"the prior's groups have {sum(g.size for g in prior)} latents, the decoder {self.latent_dim}"
            )
        self._set("prior", prior)
        if self.learned is not None:
            self._check_learned(self.learned)
        whole = whole_of(self.function)
        if getattr(whole, "training", False):  # which frozen TorchScript has not
            self._note(Finding(TRAINING_MODE, "the module was in training mode: probed in eval mode"))
        contract.check_weights(self.function)
        self._set("device", _device(self.device) if self.device else _device_of(self.function))
        with said(), uncompiled():
            self._check_contract()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _note(self, found: Finding) -> None:
        """Add a note, once: a decoder made of another has those of the other."""
        if found not in self.notes:
            self._set("notes", (*self.notes, found))

    def __repr__(self) -> str:
        """Return one line: its name, what it maps to what, and whether it has an encoder."""
        return f"<Decoder {self.name!r}: {self.shapes}{', with an encoder' * (self.encoder is not None)}>"

    # -- calling ---------------------------------------------------------------------------------

    def __call__(self, z: Tensor) -> Tensor:
        """Return the outputs, shape (n, *output_shape), of latents of shape (n, latent_dim), whatever autocast is on."""
        with full_precision(), foreign("decoder"):
            out = self.function(self._taken(z))
        return picked(out, self.output)

    def flat(self, z: Tensor) -> Tensor:
        """Return the outputs as rows, shape (n, data_dim)."""
        return self(z).reshape(len(z), -1)

    def natural_flat(self, z: Tensor) -> Tensor:
        """Return the natural parameters as rows, shape (n, data_dim), where they are known.

        Raises:
            UsageError: only the mean is known (`has_natural` is False).
        """
        if self.parameter == "natural":
            return self.flat(z)
        if self.natural is None:
            raise UsageError("the natural parameter of this decoder is not known")
        with full_precision(), foreign("decoder"):
            out = self.natural(self._taken(z))
        return picked(out, self.output).reshape(len(z), -1)

    def _taken(self, z: Tensor) -> Tensor:
        """Return latents as the function takes them: a copy, for it may write to its argument, at some latents alone, too."""
        z = z.to(device=self.device, dtype=self.dtype)
        return z.clone()

    @property
    def has_natural(self) -> bool:
        """Whether `natural_flat` can be called."""
        return self.parameter == "natural" or self.natural is not None

    def natural_for(self, likelihood: Likelihood | None) -> bool:
        """Whether a likelihood's metric is taken on the natural parameter rather than on the output.

        Not for a Gaussian, whose natural parameter is its mean, nor where the last activation belongs to
        another likelihood (the logits of a Bernoulli are no log-rates).
        """
        if likelihood is None or likelihood.mean_is_natural:
            return False
        return self.has_natural and self.likelihood in (None, likelihood.name)

    def more_rows(self) -> Tensor | None:
        """Return latents for checks that see what few of them meet; None where that costs too much, or a part of the time set."""
        n = min(MORE, AT_ONCE // max(1, self.numbers))
        if self.large or n <= contract.ROWS or n * self.seconds > IN_TIME * budget().left:
            return None
        return self._probe_rows(n).to(device=self.device, dtype=self.dtype)

    def parameter_of(self, natural: bool) -> Parameter:
        """Return what an output is to a likelihood: of the natural parameter's map, or as the decoder gives it."""
        return "natural" if natural else self.parameter

    @property
    def large(self) -> bool:
        """Whether one output costs so much that checks make do with few of them."""
        return self.numbers > LARGE

    @property
    def vast(self) -> bool:
        """Whether one output costs so much that latents are taken one at a time."""
        return self.numbers > VAST

    @property
    def data_dim(self) -> int:
        """Number of outputs m."""
        return math.prod(self.output_shape)

    @property
    def continuous(self) -> list[int]:
        """Indices of the latents with a density: those that a derivative makes sense for."""
        return self._of_kind("normal")

    @property
    def gaussian(self) -> list[int]:
        """Indices of the latents with a normal prior: the continuous ones, and those that are held."""
        return self._of_kind("normal", "held")

    def _of_kind(self, *kinds: str) -> list[int]:
        out: list[int] = []
        start = 0
        for group in self.prior:
            if group.kind in kinds:
                out.extend(range(start, start + group.size))
            start += group.size
        return out

    def holding_all_but(self, columns: Sequence[int]) -> Decoder:
        """Return the same map with fewer continuous latents: the others are drawn from their prior, and given.

        Args:
            columns: which stay continuous, as positions in `continuous`.

        Raises:
            UsageError: none of them stays.
        """
        if not len(columns):
            raise UsageError("a decoder needs a latent that is not held")
        free = self.continuous
        stay = {free[i] for i in columns}
        owners = [(k, group.kind) for k, group in enumerate(self.prior) for _ in range(group.size)]
        labels = [
            (k, "held" if kind == "normal" and i not in stay else kind) for i, (k, kind) in enumerate(owners)
        ]
        runs = [(kind, len(list(run))) for (_, kind), run in itertools.groupby(labels)]
        prior = tuple(Group(kind, size) for kind, size in runs)
        return self._once(prior, lambda: replace(self, prior=prior))

    @property
    def latent_names(self) -> tuple[str, ...]:
        """One name for each continuous latent: `z0` is column 0 of the latents, one-hot codes counted.

        Latents of a map also say their channel and place: `z17[1,0,1]` is channel 1, row 0, column 1.
        """
        return tuple(f"z{i}{self._place(i)}" for i in self.continuous)

    @property
    def is_map(self) -> bool:
        """Whether the latents have places: `latent_shape` is channels and a size beyond one place."""
        shape = self.latent_shape
        return math.prod(shape[1:]) > 1 and math.prod(shape) == self.latent_dim

    def _place(self, i: int) -> str:
        if not self.is_map:
            return ""
        at = []
        for n in reversed(self.latent_shape):
            i, place = divmod(i, n)
            at.append(str(place))
        return f"[{','.join(reversed(at))}]"

    @property
    def module(self) -> nn.Module | None:
        """The network, where the decoder is one."""
        return self.function if isinstance(self.function, nn.Module) else None

    def with_function(self, function: Callable[[Tensor], object], **changes: Any) -> Decoder:
        """Return a decoder with another map and the same settings (rotated, restricted, ...)."""
        return replace(self, function=function, **changes)

    def _check_learned(self, learned: LearnedPrior) -> None:
        k = len(self.gaussian)
        if learned.latents != k:
            raise UsageError(f"the prior has {learned.latents} latents, the decoder {k} continuous ones")
        self._note(Finding(LEARNED_PRIOR, f"the prior is {learned.words}: latents are drawn from it"))

    def standardised(self, *, of: str = "") -> Decoder:
        """Return the decoder in units of its prior, in which that is N(0, I): u to f(mean + scale u), encoder likewise.

        Only a learned normal prior changes anything.  Under a mixture no units make latents N(0, I).

        Args:
            of: the question that needs N(0, I); "" for one that only draws latents.

        Raises:
            UsageError: the question needs N(0, I), and the prior is a mixture.
        """
        learned = self.learned
        if learned is None:
            return self
        if learned.components > 1:
            if of:
                raise UsageError(
                    f"{of} holds latents against N(0, I), and the prior of this decoder is {learned.words}",
                    hint="orthogonality and trace draw latents from it; a Decoder without `learned` is held against N(0, I)",
                )
            return self
        return self._once("standardised", lambda: self._in_units_of(learned))

    def _in_units_of(self, learned: LearnedPrior) -> Decoder:
        mean, scale = cpu.zeros(self.latent_dim).double(), cpu.ones(self.latent_dim).double()
        mean[self.gaussian], scale[self.gaussian] = learned.mean[0], learned.scale[0]
        mean, scale = mean.to(self.device, self.dtype), scale.to(self.device, self.dtype)
        words = "latents are counted from the mean of the learned prior, in its standard deviations"
        notes = tuple(note for note in self.notes if note.spec is not LEARNED_PRIOR)
        return replace(
            self,
            function=InPriorUnits(self.function, mean, scale),
            natural=None if self.natural is None else InPriorUnits(self.natural, mean, scale),
            encoder=None
            if self.encoder is None
            else self.encoder.in_units(learned.mean[0], learned.scale[0]),
            learned=None,
            units=(mean.double().cpu(), scale.double().cpu()),
            notes=(*notes, Finding(LEARNED_PRIOR, words)),
        )

    @property
    def shapes(self) -> str:
        """What it maps to what, in words: `10 latents -> 1 x 32 x 32, bernoulli`."""
        count = " x ".join(map(str, self.latent_shape)) if self.is_map else str(self.latent_dim)
        latents = f"{count} latent{'s' * (self.latent_dim > 1)}"
        outputs = " x ".join(map(str, self.output_shape))
        if len(self.output_shape) == 1:
            outputs += " output" if self.data_dim == 1 else " outputs"
        return f"{latents} -> {outputs}" + (f", {self.likelihood}" if self.likelihood else "")

    def at_totals(self) -> Decoder:
        """Return the decoder that takes the logarithm of a row's total as one more latent, which is given, not inferred.

        That is what counts of cells of unlike sizes ask for; any decoder without totals is returned as it is.
        """
        if self.totalled is None:
            return self
        totalled = Totalled(self.function, self.latent_dim, self.totalled)
        return self._once(
            "at totals",
            lambda: self.with_function(
                totalled,
                latent_dim=self.latent_dim + 1,
                prior=(*self.prior, Group("total", 1)),
                natural=None,
                totalled=None,
            ),
        )

    def under(self, likelihood: str | None) -> Decoder:
        """Return the decoder of all outputs that a likelihood's density depends on.

        A zero-inflated likelihood has two numbers for each count: where the network returns them apart, they are stacked
        on axis 1, shape (n, 2, counts).  For any other likelihood, or network, that is the decoder itself.
        """
        cls = class_of(likelihood) if likelihood else None
        names = cls.outputs if cls else ()
        if not names or not set(names) <= set(self.returns):
            return self
        stacked = Stacked(self.function, names)
        return self._once(
            names, lambda: self.with_function(stacked, output=None, natural=None, parameter="mean")
        )

    def _once(self, what: object, make: Callable[[], Decoder]) -> Decoder:
        """Return the same decoder each time, by which what was measured of it is remembered."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    # -- the contract ----------------------------------------------------------------------------

    def _probe_rows(self, n: int) -> Tensor:
        rng = stream(0, "contract")
        if self.near is not None:
            return self.near.detach().double().cpu()[cpu.arange(n) % len(self.near)]
        z = torch.from_numpy(rng.standard_normal((n, self.latent_dim)))
        start = 0
        for group in self.prior:
            if group.kind == "onehot":
                code = cpu.arange(n) % group.size
                z[:, start : start + group.size] = torch.nn.functional.one_hot(code, group.size).double()
            start += group.size
        return z

    def _check_contract(self) -> None:
        z = self._probe_rows(contract.FIRST)
        with torch.no_grad(), differentiable_kernels():
            out = self._first_call(z)
            y = picked(out, self.output)
            for found in returned(out, self.output, self.latent_dim):
                self._note(found)
            self._set("returns", names_of(out))
            self._set("likelihood", self.likelihood or likelihood_of(out, self.output))
            contract.one_a_latent(y, len(z))
            y = y[:, None] if y.ndim == 1 else y
            self._set("output_shape", y.shape[1:])
            if y.layout != torch.strided:
                raise ContractError(
                    f"the decoder's output is {contract.word(y.layout)}",
                    hint="return a dense tensor: y.to_dense()",
                )
            contract.check_kind(y)
            if not y.is_floating_point():
                raise ContractError(
                    f"the decoder's output is {contract.word(y.dtype)}, which has no derivative",
                    hint="probe the real numbers before it: --submodule, or a wrapper with --arch (in Python, submodule= or arch=)",
                )
            limits.check_output(y[0].nbytes)
            contract.check_finite(y)
            if self.class_axis is None and self.parameter == "mean":
                self._set("class_axis", axis_of_classes(y))
            last = z[-1:].to(device=self.device, dtype=self.dtype)
            start = time.monotonic()
            precision, numbers, alone = contract.watched(self, last, y[-1:])
            self._set("seconds", time.monotonic() - start)
            self._set("numbers", numbers)
            keep_memory()
            if self.vast:
                keep_large_memory()
                seconds = DECODINGS * self.seconds
                foretell(f"checks of {self.name}", seconds, numbers * precision.itemsize, least=seconds)
            if not self.large:
                z = self._probe_rows(contract.ROWS)
                y = contract.again(self, z).reshape(-1, *y.shape[1:])
            contract.check_rows(self, z, y, precision, self.function, alone, self.in_double)
        if self.artifact is not None:
            self._set("artifact", replace(self.artifact, maps=self.shapes))
        mode, why = check_derivatives(
            counted(self.flat, "derivatives held against differences", 6) if self.vast else self.flat,
            z.to(device=self.device, dtype=self.dtype),
            y.flatten(1),
            1 if self.large else len(z),
            self.continuous,
            precision,
            self.in_double,
            contract.mixing(self.function),
            self.more_rows(),
        )
        if mode != "forward" and self.large:  # its modes may differ since it changes from call to call
            with torch.no_grad(), differentiable_kernels():
                contract.check_again(self, z, y, precision, self.function)
        self._set("differentiation", mode)
        if why:
            self._note(Finding(REVERSE_MODE, f"the decoder {why}: reverse mode is used, which is slower"))
        if precision.itemsize < 4:
            self._note(
                Finding(
                    LOW_PRECISION,
                    f"the network computes in {contract.word(precision)}: its numbers are good to about 1 percent",
                    hint="switch off the autocast inside it, or cast the network to float32",
                )
            )

    def _first_call(self, z: Tensor) -> object:
        """Call once, and settle the copy to call and its type."""
        original, natural = self.function, self.natural
        attempts = self._attempts()
        for cast, dtype in attempts:
            trial = frozen(original, cast, apart=buffers_of(original).values())
            self._set("function", trial)
            self._set("dtype", dtype)
            try:
                out = trial(self._taken(z))
            except VaeprobeError:
                raise
            except Exception as error:
                if (cast, dtype) != attempts[-1]:
                    continue
                rows = lambda few, trial=trial: picked(trial(self._taken(few)), self.output)  # noqa: E731
                raise contract.not_callable(original, z, error, rows) from error
            # counters, running means: those of the original stay as they are
            apart = written_in(original, trial)
            self._set("function", frozen(original, cast, apart=apart))
            self._set("natural", frozen(natural, cast, apart=apart) if natural is not None else None)
            if cast is not None and cast != _dtype_of(original):
                before = contract.word(_dtype_of(original))
                self._note(Finding(CAST_UP, f"{before} weights were cast to {contract.word(cast)}"))
            return out
        raise AssertionError("unreachable")

    def _attempts(self) -> list[tuple[torch.dtype | None, torch.dtype]]:
        """Return what to cast the network to and which latents to give it, the best first."""
        own = _dtype_of(self.function)
        if self.dtype is not None:
            return (
                [(None, self.dtype)]
                if own in (None, self.dtype)
                else [(self.dtype, self.dtype), (None, self.dtype)]
            )
        if own is None:
            return [(None, torch.float64), (None, torch.float32)]
        # derivatives in half precision are good to a percent: numbers worth having need the cast
        return [(torch.float32, torch.float32), (None, own)] if own.itemsize < 4 else [(None, own)]

    def in_double(self, *, natural: bool = False) -> Callable[[Tensor], Tensor] | None:
        """Return the map in float64, with the same weights cast up; None where that cannot be had.

        Args:
            natural: latents to natural parameters instead of outputs.
        """
        given = self.natural if natural and self.parameter != "natural" else self.function
        if given is None or whole_of(given) is None:
            return None
        function = frozen(given, torch.float64)

        def wide(z: Tensor) -> Tensor:
            with foreign("decoder"):
                out = function(z.clone())
            return picked(out, self.output).reshape(len(z), -1)

        return wide


def _dtype_of(function: object) -> torch.dtype | None:
    return next((t.dtype for t in tensors_of(function) if t.is_floating_point()), None)


def _device(device: torch.device | str) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError:  # which lists whatever torch knows
        return device_named(device)


def _device_of(function: object) -> torch.device:
    return next((t.device for t in tensors_of(function)), torch.device("cpu"))

"""One program, whatever wrote it: a list of operators on one input, run in order by Python.

`.pt2`, ONNX and Keras files are three ways to write such a list.  A front end checks everything in its file first and turns
operators into functions from a list of harmless ones; after that a program can do nothing but mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint import Blueprint, Condition
from vaeprobe.checkpoints.network.parts import Parts, assumptions_of, at_conditions, layers_unused, unchosen
from vaeprobe.checkpoints.weights import spec_of
from vaeprobe.contract import squeezed_away
from vaeprobe.decoder import Group
from vaeprobe.errors import InputError, ResourceError, UsageError, out_of_memory
from vaeprobe.files.limits import more_than_there_is, with_more_memory
from vaeprobe.files.source import quoted
from vaeprobe.files.tensors import nonfinite_finding
from vaeprobe.findings import CAST_UP, FIXED_BATCH
from vaeprobe.likelihoods import activations
from vaeprobe.outputs import picked
from vaeprobe.prior import LearnedPrior
from vaeprobe.report import Finding

__all__ = [
    "LINKS",
    "RUN_ERRORS",
    "UNDER_AUTOCAST",
    "Here",
    "Program",
    "Step",
    "Value",
    "example",
    "flat",
    "parts_of",
    "rehearse",
    "run_steps",
]

MOST_STEPS = 20_000  # large decoders have some thousands
# what torch and Python raise on a program that does not fit its input
RUN_ERRORS = (
    RuntimeError, TypeError, ValueError, IndexError, KeyError, NotImplementedError, AttributeError, OverflowError, ZeroDivisionError,
)  # fmt: skip
UNDER_AUTOCAST = Finding(
    CAST_UP, "part of the program asks for autocast: it is computed in the precision of the rest"
)
# the same numbers in another shape: an activation before them is the last one all the same
SHAPES_ALONE = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous",
    "clone", "alias", "identity", "cast", "to", "_to_copy",
}  # fmt: skip
# activations of likelihoods that are one operator of one value
LINKS = frozenset({"sigmoid", "exp"})
# what asks for sizes alone and does not care for the numbers
SIZES = {"shape", "size", "sym_size", "sym_numel", "numel", "dim"}


class PlaceError(InputError):
    """A program takes a place of an axis that the axis does not have."""


@dataclass(frozen=True)
class Value:
    """A reference to something computed earlier."""

    name: str


@dataclass(frozen=True)
class Here:
    """In the place of a device: that of the input."""


# names of what an operator returns: nested as that is, None where nothing takes a part
Names: TypeAlias = "str | list[Names] | None"


@dataclass(frozen=True)
class Step:
    """One operator of a program.

    Attributes:
        operator: its name, as the file's format says it ("sigmoid"), in lower case.
        function: what it computes.
        args, kwargs: constants, `Value`s, and lists of them.
        outputs: names of what it returns; nested where an operator returns a list among others.
        mutates: whether it may write into its arguments.
    """

    operator: str
    function: Callable[..., object]
    args: tuple[object, ...]
    kwargs: Mapping[str, object] = field(default_factory=dict)
    outputs: tuple[Names, ...] = ()
    mutates: bool = False

    def uses(self) -> Iterator[str]:
        """Yield the names of the values that it takes."""
        return (value.name for value in _values([*self.args, *self.kwargs.values()]))

    def gives(self) -> Iterator[str]:
        """Yield the names of the values that it makes."""
        return (name for name in flat(self.outputs) if isinstance(name, str))


class Program(nn.Module):
    """A list of operators on one input.

    Args:
        state: tensors by the name that the steps give them.
        steps: in order.
        source: name of the input.
        output: a `Value`, or a list or dictionary of them.
        row: shape of one input row; (-1,) where any length will do.
        batch: the one batch size it takes; 0 where it takes any.
        batched: whether the first axis of the input is the batch; if not, rows go in one at a time.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        steps: Sequence[Step],
        source: str,
        output: object,
        row: tuple[int, ...],
        batch: int = 0,
        batched: bool = True,
    ) -> None:
        super().__init__()
        if len(steps) > MOST_STEPS:
            raise ResourceError(
                f"the program has {len(steps):,} steps, and {MOST_STEPS:,} are run at most",
                hint="is it the decoder alone?",
            )
        self.slots = {name: f"tensor_{i}" for i, name in enumerate(state)}
        for name, tensor in state.items():
            self.register_buffer(self.slots[name], tensor)
        self.steps = tuple(steps)
        self.source = source
        self.output = output
        self.row = row
        self.batch = batch
        self.batched = batched
        self.mutates = any(step.mutates for step in steps)
        self.spent = _last_uses(self.steps, output)
        self.eval()  # a program has no other mode

    def forward(self, z: Tensor) -> object:
        """Return the outputs for latents of shape (n, latent)."""
        x = z.reshape(z.shape[0], *self.row)
        if not self.batched:
            return _joined([self.run(r) for r in x], torch.stack)
        if not self.batch:
            return self.run(x)
        blocks = []
        for start in range(0, len(x), self.batch):
            block = x[start : start + self.batch]
            missing = self.batch - len(block)
            full = torch.cat([block, block[-1:].expand(missing, *block.shape[1:])]) if missing else block
            blocks.append(self.run(full))
        if self.batch == 1 and picked(blocks[0]).shape[:1] != (1,):
            raise squeezed_away()
        return _joined(blocks, lambda outs: torch.cat(outs)[: len(x)])

    def run(self, x: Tensor, check: Callable[[object], None] | None = None) -> object:
        """Run the program once; `check` is called on what every step returns."""
        values: dict[str, object] = dict(self.state())
        values[self.source] = x.clone() if self.mutates else x
        run_steps(self.steps, values, x.device, check, self.spent)
        return _known(self.output, values, x.device)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by the name that the steps give them."""
        return {name: getattr(self, slot) for name, slot in self.slots.items()}

    def with_steps(self, steps: Sequence[Step]) -> Program:
        """Return the program with other steps on the same tensors."""
        return Program(self.state(), steps, self.source, self.output, self.row, self.batch, self.batched)

    def notes(self) -> Iterator[Finding]:
        """Yield what a reader should know of how the program runs."""
        if self.batch:
            yield Finding(
                FIXED_BATCH,
                f"the program takes batches of {self.batch} only: latents are padded to that, which is slow",
                hint="export it with dynamic_shapes=({0: torch.export.Dim('batch')},)",
            )

    def natural(self, bp: Blueprint) -> Program | None:
        """Return the program of the natural parameter, where the last activation is that of the likelihood."""
        found = (self.without_last(operator) for operator in LINKS & activations(bp.likelihood))
        return next((program for program in found if program is not None), None)

    def without_last(self, operator: str) -> Program | None:
        """Return the program without its last activation, if that is `operator` and makes the only output."""
        if not isinstance(self.output, Value):
            return None
        makers = {
            step.outputs[0]: i
            for i, step in enumerate(self.steps)
            if len(step.outputs) == 1 and isinstance(step.outputs[0], str)
        }
        uses = [name for step in self.steps if step.operator not in SIZES for name in step.uses()]
        name = self.output.name
        while name in makers and uses.count(name) <= 1:
            i = makers[name]
            step = self.steps[i]
            if not step.args or not isinstance(step.args[0], Value):
                return None
            if step.operator.rstrip("_") == operator:
                plain = replace(step, operator="identity", function=_identity, args=step.args[:1], kwargs={})
                return self.with_steps([*self.steps[:i], plain, *self.steps[i + 1 :]])
            if step.operator not in SHAPES_ALONE:
                return None
            name = step.args[0].name
        return None


def _identity(x: Tensor) -> Tensor:
    return x


def run_steps(
    steps: Sequence[Step],
    values: dict[str, object],
    device: torch.device,
    check: Callable[[object], None] | None = None,
    spent: Sequence[Sequence[str]] = (),
) -> None:
    """Run steps in order, each reading from and writing to `values`.

    Args:
        check: called on what every step returns.
        spent: for each step, the values that nothing after it takes, which are let go.
    """
    for i, step in enumerate(steps):
        args = [_known(a, values, device) for a in step.args]
        out = step.function(*args, **{k: _known(v, values, device) for k, v in step.kwargs.items()})
        if check:
            check(out)
        _assign(values, step.outputs[0] if len(step.outputs) == 1 else list(step.outputs), out)
        del args, out
        for name in spent[i] if spent else ():
            values.pop(name, None)


def _last_uses(steps: Sequence[Step], output: object) -> list[list[str]]:
    """Return for each step the values that neither a later step nor the output takes."""
    kept = {v.name for v in _values(output)}
    spent: list[list[str]] = []
    for step in reversed(steps):
        names = {*step.uses(), *step.gives()} - kept
        kept |= names
        spent.append(sorted(names))
    return spent[::-1]


def _values(output: object) -> Iterator[Value]:
    if isinstance(output, Value):
        yield output
    elif isinstance(output, (list, dict)):
        for item in output.values() if isinstance(output, dict) else output:
            yield from _values(item)


def _known(arg: object, values: Mapping[str, object], device: torch.device) -> object:
    if isinstance(arg, Value):
        return values[arg.name]
    if isinstance(arg, Here):
        return device
    if isinstance(arg, dict):
        return {name: _known(a, values, device) for name, a in arg.items()}
    return [_known(a, values, device) for a in arg] if isinstance(arg, list) else arg


def _assign(values: dict[str, object], name: Names, out: object) -> None:
    if isinstance(name, str):
        values[name] = out
    elif name is not None:
        if name and not isinstance(out, (list, tuple)):
            raise InputError("the program takes apart what an operator returns whole")
        for n, part in zip(name, out if isinstance(out, (list, tuple)) else (), strict=False):
            _assign(values, n, part)


def _joined(outs: Sequence[object], how: Callable[[list[Tensor]], Tensor]) -> object:
    """Return what several runs returned as one, output by output."""
    if isinstance(outs[0], dict):
        named = [out for out in outs if isinstance(out, dict)]
        return {name: how([_first(out[name]) for out in named]) for name in outs[0]}
    if isinstance(outs[0], list):
        listed = [out for out in outs if isinstance(out, list)]
        return [how([_first(part) for part in parts]) for parts in zip(*listed, strict=True)]
    return how([_first(out) for out in outs])


def _first(out: object) -> Tensor:
    tensor = out[0] if isinstance(out, list) else next(iter(out.values())) if isinstance(out, dict) else out
    if not isinstance(tensor, Tensor):
        raise InputError("the program does not return a tensor")
    return tensor


def example(program: Program, d: int, rows: int) -> Tensor:
    """Return latents to try a program on, shape (rows, d)."""
    dtype = next((b.dtype for b in program.buffers() if b.is_floating_point()), torch.float32)
    return cpu.randn(rows, d, generator=torch.Generator().manual_seed(0), dtype=dtype)


def rehearse(program: Program, d: int, what: str) -> Tensor:
    """Run a program whose operators charge for their sizes once, and return its (first) output for two latents.

    Raises:
        InputError: it does not run, or returns no tensor.
    """
    try:
        with torch.no_grad():
            out = program(example(program, d, 2))
    except (*RUN_ERRORS, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        if out_of_memory(error):
            raise ResourceError(
                f"{what} takes, for two latents, {more_than_there_is()}",
                hint=with_more_memory("free some memory"),
            ) from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = PlaceError if isinstance(error, IndexError) else InputError
        raise kind(
            f"{what} cannot run: {quoted(reason)}",
            hint="export the decoder alone to .pt2 with torch.export.save, or give its weights and a blueprint",
        ) from None
    return _first(out)


def flat(items: Iterable[object]) -> Iterator[object]:
    """Yield the items of nested lists."""
    for item in items:
        if isinstance(item, list):
            yield from flat(item)
        else:
            yield item


def parts_of(
    decoder: nn.Module,
    natural: nn.Module | None,
    bp: Blueprint,
    d: int,
    notes: Iterable[Finding],
    conditions: Sequence[Condition] = (),
    row: tuple[int, ...] = (),
) -> Parts:
    """Return what a checkpoint gives to a decoder, from a checked program.

    Args:
        natural: the same without its last activation, or None.
        bp: latents, likelihood and parameter, without layers.
        d: number of latents.
        notes: of the front end.
        conditions: what inputs besides the latents are held at.
        row: shape of one row of latents, channels first.
    """
    return Parts(
        decoder=decoder,
        natural=natural if bp.parameter == "mean" else None,
        latent_dim=d,
        prior=tuple(Group(kind, size) for kind, size in bp.latents) or (Group("normal", d),),
        learned=_learned(bp),
        parameter=bp.parameter,
        likelihood=bp.likelihood,
        architecture=at_conditions("self-contained", conditions),
        notes=(*notes, *_broken(decoder), *unchosen(conditions), *layers_unused(bp), *assumptions_of(bp)),
        blueprint=bp,
        conditions=tuple(conditions),
        latent_shape=row if len(row) > 1 and max(row[1:]) > 1 else (),
    )


def _broken(decoder: nn.Module) -> tuple[Finding, ...]:
    """Return the finding that counts NaN and infinite weights of a program, if there are any.

    An interpreted script has it from its archive.  One number that is infinite is a bound or a filling, and no weight.
    """
    state = decoder.state() if isinstance(decoder, Program) else {}
    weights = {name: t for name, t in state.items() if t.numel() > 1 or bool(t.isnan().any())}
    return nonfinite_finding({name.removeprefix(":"): spec_of(t) for name, t in weights.items()})


def _learned(bp: Blueprint) -> LearnedPrior | None:
    """Return the prior that a blueprint says in numbers: a program's tensors have names of its writer's.

    Raises:
        UsageError: it names tensors.
    """
    if bp.prior is None:
        return None
    if bp.prior.names:
        raise UsageError(
            f"`{bp.origin}` names the tensor {quoted(bp.prior.names[0])} as a prior, and this program names none",
            hint="give the numbers themselves: [prior] mean = [...] and scale = [...]",
        )
    return bp.prior.made({})

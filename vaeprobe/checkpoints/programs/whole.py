"""Whole VAEs as programs: data in, a reconstruction out; the decoder is cut out of them behind the draw of the latents.

A value parts a program where nothing that the reconstruction needs reaches round it to the data or to a draw.  The first
such value behind a normal draw is what the decoder takes; without a draw, the first that an output of fewer numbers (the
means) leads to, and of a program from images to images of the same shape, the narrowest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from vaeprobe import cpu
from vaeprobe.checkpoints.programs.program import SIZES, Program, Step, Value, flat, run_steps
from vaeprobe.encoder import Encoder
from vaeprobe.errors import InputError
from vaeprobe.findings import ENCODER_READ, WHOLE_VAE
from vaeprobe.report import Finding

__all__ = [
    "DRAWS",
    "Call",
    "ProgramHalves",
    "Noise",
    "cut",
    "halves",
    "made_of",
    "needed",
    "not_parted",
    "partings",
    "posterior",
    "rows_of",
    "said",
    "suspected",
]

# normal draws of aten
CutKind: TypeAlias = Literal["normal draw", "code", "narrowest value"]
DRAWS = ("randn", "randn_like", "normal_", "normal_functional")
Row = tuple[int, ...]


class Noise:
    """In the place of a normal draw: the same number everywhere.

    Args:
        operator: which of `DRAWS`.
        fill: the number.
    """

    def __init__(self, operator: str, fill: float = 0.0) -> None:
        self.operator = operator
        self.fill = fill

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        like = args[0] if args else None
        if isinstance(like, Tensor):
            return like.fill_(self.fill) if self.operator == "normal_" else torch.full_like(like, self.fill)
        if not isinstance(like, (list, tuple)):
            raise InputError("the program draws noise and does not say how much")
        return cpu.full([int(n) for n in like], self.fill)


@dataclass(frozen=True)
class Call:
    """An operator of a run: the names of what it takes and gives, and whether it draws."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    draws: bool = False


@dataclass(frozen=True)
class ProgramHalves:
    """The decoder cut out of a whole VAE, its encoder where the draw tells the posterior, and what to say of it.

    The decoder is None where the program is only suspected to be one: from rows to as many numbers through fewer.
    """

    decoder: Program | None
    encoder: Encoder | None
    row: Row
    notes: tuple[Finding, ...]


def cut(
    calls: Sequence[Call], source: str, outputs: Sequence[str], rows: Mapping[str, Row]
) -> tuple[str, CutKind] | None:
    """Return the value that parts encoder and decoder, and what it is; None where no value surely does.

    Args:
        calls: in the order of the run.
        source: the name of the data.
        outputs: the reconstruction first.
        rows: shape of one row of each value that has rows.
    """
    recon, data = outputs[0], rows.get(source, ())
    m = math.prod(data)
    drawn = {name for call in calls if call.draws for name in call.gives}
    if not drawn & needed(calls, recon, ""):
        drawn = set()
    codes = [k for k in outputs[1:] if 0 < math.prod(rows.get(k, (0,))) < m]
    same = rows.get(recon) == data
    if not data or not (drawn or same):
        return None
    behind = made_of(calls, drawn or codes)
    parting = [v for v in partings(calls, source, recon) if 0 < math.prod(rows.get(v, (0,))) < m]
    if not drawn and not codes:
        narrowest = min((math.prod(rows[v]) for v in parting), default=0)
        parting = [v for v in parting if math.prod(rows[v]) == narrowest]
    else:
        parting = [v for v in parting if v in behind]
    kind: CutKind = "normal draw" if drawn else "code" if codes else "narrowest value"
    return (parting[0], kind) if parting else None


def made_of(calls: Sequence[Call], given: Iterable[str]) -> set[str]:
    """Return the names of values and of all that is made of them."""
    out = set(given)
    for call in calls:
        if out & set(call.takes):
            out.update(call.gives)
    return out


def partings(calls: Sequence[Call], source: str, recon: str) -> list[str]:
    """Return the values that part the data from what is made of it, in the order in which they are made.

    A value does where all that `recon` needs of the data or of draws goes through it: when it has been made, no other
    value of theirs is still to be taken, and nothing is drawn any more. One look at every call tells all of them.

    Args:
        calls: in the order of the run, every value given once.
    """
    wanted, kept = {recon}, list[Call]()
    for call in reversed(calls):
        if wanted & set(call.gives):
            wanted.update(call.takes)
            kept.append(call)
    kept.reverse()
    last = {name: i for i, call in enumerate(kept) for name in call.takes} | {recon: len(kept)}
    drawn_until = max((i for i, call in enumerate(kept) if call.draws), default=-1)
    out: list[str] = []
    tainted = {source}
    alive = {source} & last.keys()
    for i, call in enumerate([Call((), (source,)), *kept], start=-1):
        if call.draws or tainted & set(call.takes):
            tainted.update(call.gives)
            alive.update(name for name in call.gives if name in last)
        alive.difference_update([name for name in call.takes if last[name] <= i])
        if len(alive) == 1 and i > drawn_until and alive <= set(call.gives):
            out.extend(alive - {recon})
    return out


def needed(calls: Sequence[Call], output: str, given: str) -> set[str]:
    """Return the names of all that an output needs, where one value is given."""
    names = {output}
    for call in reversed(calls):
        if names & (set(call.gives) - {given}):
            names.update(call.takes)
    return names


# -- programs of steps ----------------------------------------------------------------------------------


def halves(program: Program, rows: Mapping[str, Row]) -> ProgramHalves | None:
    """Return the halves of a program that is a whole VAE, None of any other.

    Args:
        rows: shape of one row of each of its values.

    Raises:
        InputError: it draws numbers, and no value parts it.
    """
    given = program.output.values() if isinstance(program.output, dict) else [program.output]
    outputs = [v.name for v in flat(given) if isinstance(v, Value)]
    calls = [_call(step) for step in program.steps]
    draws = any(call.draws for call in calls)
    found = cut(calls, program.source, outputs, rows)
    if found is None:
        if draws:
            raise not_parted()
        return None
    value, kind = found
    row, data = rows[value], rows[program.source]
    if kind == "narrowest value" and len(data) == 1:
        return ProgramHalves(None, None, data, (suspected(data[0], math.prod(row)),))
    encoder = _encoder(program, value, data, math.prod(row)) if kind == "normal draw" else None
    decoder = _part(program, _rewired(program, value), value, outputs[0], row)
    return ProgramHalves(decoder, encoder, row, said(row, kind, encoder is not None))


def rows_of(program: Program) -> dict[str, Row]:
    """Return the shape of one row of every value of a program, by running it once."""
    n = program.batch or 3
    dtype = next((b.dtype for b in _floats(program)), torch.float32)
    x = cpu.rand(n, *program.row, dtype=dtype, generator=torch.Generator().manual_seed(0))
    values: dict[str, object] = {**program.state(), program.source: x}
    with torch.no_grad():
        run_steps(program.steps, values, x.device)
    return {
        k: tuple(v.shape[1:])
        for k, v in values.items()
        if isinstance(v, Tensor) and v.ndim > 1 and len(v) == n
    }


def not_parted() -> InputError:
    """Return the error of a program that draws, and that no value parts."""
    return InputError(
        "the program draws random numbers, and no value in it is the latents alone: it is no decoder",
        hint="export what decodes by itself: torch.export.export(vae.decoder, (z,)), with z the latents",
    )


def suspected(d: int, narrow: int) -> Finding:
    """Return what to say of a program from rows to as many numbers through fewer."""
    message = (
        f"{d} numbers go in and as many come out, through {narrow}: is this a whole VAE, and its input data?"
    )
    hint = "export what decodes by itself: torch.export.export(vae.decoder, (z,)), with z the latents"
    return Finding(WHOLE_VAE, message, hint=hint, level="warning")


def said(row: Row, kind: CutKind, posterior: bool) -> tuple[Finding, ...]:
    """Return what to say of a decoder that was cut out."""
    d = " x ".join(map(str, row))
    message = f"the program is a whole VAE, of which the part behind its {kind}, of {d} numbers, is probed"
    cause = "it is surer to export what decodes by itself"
    found = [
        Finding(WHOLE_VAE, message, hint=cause, level="warning" if kind == "narrowest value" else "note")
    ]
    if posterior:
        found.append(
            Finding(ENCODER_READ, "the posterior is read off its draw: what is drawn at noise 0 and 1")
        )
    return tuple(found)


def _call(step: Step) -> Call:
    takes = () if _asks_rows(step) else tuple(step.uses())
    return Call(takes, tuple(step.gives()), isinstance(step.function, Noise))


def _rewired(program: Program, value: str) -> list[Step]:
    """Return steps that ask the latents, not the data, how many rows there are."""
    out = []
    for step in program.steps:
        of_data = _asks_rows(step) and step.args[:1] == (Value(program.source),)
        out.append(replace(step, args=(Value(value), *step.args[1:])) if of_data else step)
    return out


def _asks_rows(step: Step) -> bool:
    """Return whether a step takes nothing of a value but how many rows it has: its size, or an input that is held."""
    return step.operator == "held" or (step.operator in SIZES and list(step.args[1:]) == [0])


def _part(program: Program, steps: Sequence[Step], source: str, output: str, row: Row) -> Program:
    """Return the program of the steps between a value and another."""
    wanted, kept = {output}, []
    for step in reversed(steps):
        gives = set(step.gives()) - {source}
        if gives & wanted:
            kept.append(step)
            wanted.update(step.uses())
    state = {name: tensor for name, tensor in program.state().items() if name in wanted}
    return Program(state, kept[::-1], source, Value(output), row, program.batch, program.batched)


def _encoder(program: Program, value: str, row: Row, d: int) -> Encoder | None:
    """Return the posterior that a draw tells, None where it is not linear in the noise."""
    at = []
    for fill in (0.0, 1.0, 2.0):
        steps = [
            replace(s, function=Noise(s.function.operator, fill)) if isinstance(s.function, Noise) else s
            for s in program.steps
        ]
        at.append(_part(program, steps, program.source, value, row))
    return posterior(at[0], at[1], at[2], row, d)


class Drawn(nn.Module):
    """The mean and log-variance of a draw, from what is drawn at noise 0 and 1."""

    def __init__(self, zero: nn.Module, one: nn.Module) -> None:
        super().__init__()
        self.zero, self.one = zero, one

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.zero(x).flatten(1)
        sd = (self.one(x).flatten(1) - mean).abs()
        return mean, 2 * sd.clamp_min(torch.finfo(sd.dtype).tiny).log()


def posterior(zero: nn.Module, one: nn.Module, two: nn.Module, row: Row, d: int) -> Encoder | None:
    """Return the encoder whose draw is given at noise 0, 1 and 2; None where the draw is not linear in the noise."""
    dtype = next((b.dtype for b in _floats(zero)), torch.float32)
    x = cpu.rand(3, *row, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, once, twice = (part(x) for part in (zero, one, two))
    step = once - z
    if not torch.allclose(twice - z, 2 * step, rtol=1e-3, atol=1e-5) or not bool((step.abs() > 0).all()):
        return None
    return Encoder(Drawn(zero, one).eval(), d, input_shape=row, dtype=dtype)


def _floats(module: nn.Module) -> Iterator[Tensor]:
    return (b for b in module.buffers() if b.is_floating_point())

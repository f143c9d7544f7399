"""A TorchScript archive as a decoder: which module, how many latents, what its last operator is."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vaeprobe import cpu
from vaeprobe.checkpoints.blueprint import Blueprint, BlueprintError
from vaeprobe.checkpoints.blueprint.condition import Condition, held
from vaeprobe.checkpoints.network.parts import Parts
from vaeprobe.checkpoints.programs import whole
from vaeprobe.checkpoints.programs.held import HeldInput, condition_of, kinds_of
from vaeprobe.checkpoints.programs.inputs import NoFlatRowsError, UnsupportedError, latents_of
from vaeprobe.checkpoints.programs.program import LINKS, RUN_ERRORS, UNDER_AUTOCAST, parts_of
from vaeprobe.checkpoints.programs.torchscript.archive import Instance, Library, objects
from vaeprobe.checkpoints.programs.torchscript.interpreter import BUDGET
from vaeprobe.checkpoints.programs.torchscript.script import Cut, Script
from vaeprobe.contract import BATCHES, FIXED_BATCH
from vaeprobe.encoder import Encoder
from vaeprobe.errors import (
    InputError,
    ResourceError,
    UnsafeError,
    UsageError,
    VaeprobeError,
    did_you_mean,
    out_of_memory,
)  # fmt: skip
from vaeprobe.files.limits import more_than_there_is, with_more_memory
from vaeprobe.files.source import quoted
from vaeprobe.files.zips import Archive
from vaeprobe.findings import LATENTS_INFERRED
from vaeprobe.likelihoods import activations
from vaeprobe.outputs import picked
from vaeprobe.report import Finding

SIDES = (28, 32, 64, 16, 8, 96, 128, 48, 24, 40, 80, 224, 256)  # of square images, the commonest first
ROWS = 3
FEW_TRIED = 8  # numbers of latents that batch sizes are tried on
MOST_WEIGHTS = 64  # whose sizes are compared
MOST = 3  # inputs beside the latents that are tried out together
SMALL = 16  # pixels: images are rarely smaller


def read(
    archive: Archive,
    *,
    blueprint: Blueprint | None = None,
    latent_dim: int | None = None,
    submodule: str | None = None,
    latent_size: tuple[int, ...] | None = None,
    conditions: Mapping[str, str | float] | None = None,
) -> Parts:
    """Return the decoder that a TorchScript archive holds.

    Args:
        archive: a checked zip archive.
        blueprint: latents, likelihood and parameter, without layers.
        latent_dim: number of latents; by default the first size of the program's weights that it runs with.
        submodule: dotted name of the module that is the decoder.
        latent_size: size of the maps of latents that it takes, which TorchScript does not record.
        conditions: values at which inputs besides the latents are held, by name; whole numbers choose a class.

    Raises:
        UnsafeError: its code would do more than mathematics on tensors.
        InputError: it is damaged, or no map from one tensor to outputs.
        ResourceError: it would loop without end, or make an absurdly large tensor.
        BlueprintError: the latents asked for are not those that it takes.
    """
    library = Library(archive)
    library.refuse_harm()
    root, tensors, notes = objects(archive, library)
    for name in filter(None, (submodule or "").split(".")):
        if not isinstance(root, Instance) or not isinstance(root.attributes.get(name), Instance):
            known = (
                [k for k, v in root.attributes.items() if isinstance(v, Instance)]
                if isinstance(root, Instance)
                else []
            )
            raise BlueprintError(f"the program has no module {quoted(name)}", hint=did_you_mean(name, known))
        root = root.attributes[name]
    if not isinstance(root, Instance) or library.method(root.kind, "forward") is None:
        raise InputError(
            "the archive holds no module with a `forward`", hint="torch.jit.save a module, not a function"
        )
    bp = blueprint or Blueprint()
    asked = latent_dim or bp.latent_dim
    script, beyond = Script(library, root, tensors), 0
    d, inferred = 0, False
    row: tuple[int, ...] = ()
    at: tuple[Condition, ...] = ()
    try:
        at = _hold(script, asked, latent_size, conditions or {})
        d, row, inferred = _latents(script, asked, latent_size)
        if inferred and row == (-1,):
            d, beyond = _fewest(script, d)
        data = row if row != (-1,) else (d,)
    except (NoFlatRowsError, BlueprintError, UnsupportedError):
        beside = script.inputs_beside(conditions or {})
        data, at = _held_whole(script, beside, conditions or {}) if beside else (_image(script), ())
        if not data:
            if script.refused is not None:
                raise script.refused from None
            raise
    encoder = None
    try:
        parting = _parting(script, data)
    except VaeprobeError:
        raise
    except RUN_ERRORS as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NoFlatRowsError(
            f"the program runs with 2 rows of {math.prod(data)} latents, and not with {ROWS}: {quoted(reason)}",
            hint=f"{FIXED_BATCH}; where that is not it, --latent-dim D says the number of latents",
        ) from None
    if parting is not None and parting[1] == "narrowest value" and len(data) == 1:
        notes.append(whole.suspected(d, math.prod(parting[0].row)))
    elif parting is not None:
        cut, kind = parting
        d, row, inferred = latents_of(cut.row, asked), cut.row, False
        if kind == "normal draw":
            encoder = _posterior(script, library, root, tensors, cut)
        script.cut = cut
        notes.extend(whole.said(row, kind, encoder is not None))
    elif latent_size is None and len(data) == 3 and data[1:] != (1, 1):
        raise NoFlatRowsError(
            f"the program takes images of {' x '.join(map(str, data))}, and no value in it is surely the latents of a whole VAE",
            hint="save what decodes by itself: torch.jit.trace(vae.decoder, z).save(path), with z the latents",
        )
    script.row = row
    if inferred:
        notes.append(_inferred(script, d, row, beyond, latent_size))
    last = script.last_operator(d)
    if library.autocast:
        notes.append(UNDER_AUTOCAST)
    natural = None
    if last in LINKS & activations(bp.likelihood):
        natural = Script(library, root, tensors, row=row, without=last)
        natural.cut, natural.others = script.cut, script.others
    parts = parts_of(script, natural, bp, d, notes, at, row=() if row == (-1,) else row)
    return replace(parts, encoder=encoder) if encoder is not None else parts


def state_of(archive: Archive) -> tuple[Mapping[str, Tensor], list[Finding]]:
    """Return the tensors of a TorchScript archive by name, and what is to be said of them; its code is read and not run.

    Raises:
        UnsafeError: its code would do more than mathematics on tensors.
        InputError: it is damaged.
    """
    library = Library(archive)
    library.refuse_harm()
    _, tensors, notes = objects(archive, library)
    return {name.removeprefix("."): tensor for name, tensor in tensors.items()}, notes


def _inferred(
    script: Script, d: int, row: tuple[int, ...], beyond: int, size: tuple[int, ...] | None
) -> Finding:
    """Return how the number of latents, or their shape, was inferred."""
    number = "TorchScript does not record the number of latents: "
    if beyond:
        return Finding(
            LATENTS_INFERRED,
            f"{number}it runs with {beyond} as well, and {d} were taken",
            hint=f"--latent-dim {d} makes it sure, and another number says another",
            level="warning",
        )
    if size is None and row[1:] == (1, 1) and _small(script, d):
        return Finding(
            LATENTS_INFERRED,
            f"TorchScript does not record the shape of latents: {d} channels of one place were taken, and the output is small",
            hint="--latent-size 8x8 says the size of the maps that it takes, 1x1 that it is right",
            level="warning",
        )
    return Finding(
        LATENTS_INFERRED,
        f"{number}{d} is the first size of its weights that it runs with",
        hint=f"--latent-dim {d} makes it sure",
    )


def _image(script: Script) -> tuple[int, ...]:
    """Return the shape of the images of which a program makes images of the same shape, () where it makes none."""
    dtype = next((b.dtype for b in script.buffers() if b.is_floating_point()), torch.float32)
    channels = next((b.shape[1] for b in script.buffers() if b.ndim == 4), 0)
    for side in SIDES if channels else ():
        x = cpu.zeros(2, channels, side, side, dtype=dtype)
        try:
            with torch.no_grad():
                _, outputs, values = script.recorded(x)
        except (InputError, *RUN_ERRORS):
            continue
        if outputs and outputs[0] in values and values[outputs[0]].shape == x.shape:
            return tuple(x.shape[1:])
    return ()


def _parting(script: Script, data: tuple[int, ...]) -> tuple[Cut, whole.CutKind] | None:
    """Return where a program is cut that is a whole VAE, None of another.

    Raises:
        InputError: it draws numbers, and no value parts it.
    """
    dtype = next((b.dtype for b in script.buffers() if b.is_floating_point()), torch.float32)
    x = cpu.rand(ROWS, *data, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        calls, outputs, values = script.recorded(x)
    rows = {k: tuple(v.shape[1:]) for k, v in values.items() if v.ndim > 1 and len(v) == ROWS}
    found = whole.cut(calls, "data", outputs, rows) if outputs else None
    if found is None and any(call.draws for call in calls):
        raise whole.not_parted()
    if found is None or found[0] == "data":
        return None
    return Cut.at(found[0], data, rows[found[0]]), found[1]


def _posterior(
    decoder: Script, library: Library, root: Instance, tensors: Mapping[str, Tensor], cut: Cut
) -> Encoder | None:
    at = []
    for noise in (0.0, 1.0, 2.0):
        script = Script(library, root, tensors, row=cut.data)
        script.until, script.noise, script.others = cut, noise, decoder.others
        at.append(script)
    return whole.posterior(at[0], at[1], at[2], cut.data, math.prod(cut.row))


def _hold(
    script: Script, asked: int | None, size: tuple[int, ...] | None, values: Mapping[str, str | float]
) -> tuple[Condition, ...]:
    """Hold the inputs beside the latents, whose kinds TorchScript does not record: the first is taken that it runs with.

    Raises:
        InputError: the number of latents is not known, or the program runs with none of the kinds.
        UsageError: it takes no such class.
    """
    names = script.inputs_beside(values)
    if not names:
        return ()
    words = " and ".join(map(quoted, names))
    if asked is None:
        raise NoFlatRowsError(
            f"the program's `forward` takes {words} beside the latents, and TorchScript does not record how many latents",
            hint="say it: --latent-dim D; .pt2 and ONNX record it",
        )
    takes = [b.shape[1] for b in script.buffers() if b.ndim >= 2]
    reason = None
    for chosen in itertools.product(*(list(kinds_of(takes, asked, values.get(n))) for n in names[:MOST])):
        kinds = dict(zip(names, chosen, strict=False))
        script.others = {name: HeldInput(dtype, row, 0) for name, (dtype, row, _) in kinds.items()}
        row, why = _row(script, asked, size)
        reason = reason or why
        if row is None:
            continue
        at = held(tuple(condition_of(n, shape, kind) for n, (_, shape, kind) in kinds.items()), values)
        script.others = {c.name: replace(script.others[c.name], value=c.value) for c in at}
        row, why = _row(script, asked, size)
        if row is None:
            raise UsageError(
                f"the program takes no {' and '.join(map(str, at))}: {quoted(why or '')}",
                hint="give a class that it knows, counted from 0",
            )
        return at
    if script.refused is not None:
        raise script.refused
    raise NoFlatRowsError(
        f"the program's `forward` takes {words} beside the latents, and does not run on {asked} of these with a class, a"
        f" one-hot vector or a number for each: {quoted(reason or '')}",
        hint="is the number of latents right? else trace a wrapper that fixes them, or export the decoder as .pt2 or ONNX, which record what they take",
    )


def _held_whole(
    script: Script, names: Sequence[str], values: Mapping[str, str | float]
) -> tuple[tuple[int, ...], tuple[Condition, ...]]:
    """Hold the inputs beside the data of a whole VAE, and return the shape of a row of data and what they are held at.

    Neither shape nor kinds are recorded: the first are taken with which data of a shape come out in the same shape, and a
    draw or an output of means tells the latents. ((), ()) where there are none: a decoder would run with many.

    Raises:
        UsageError: it takes no such class.
    """
    for data in _shapes_of_data(script):
        takes = [b.shape[1] for b in script.buffers() if b.ndim >= 2]
        kinds = [list(kinds_of(takes, math.prod(data), values.get(n), _extra(script))) for n in names[:MOST]]
        for chosen in itertools.product(*kinds):
            if script.steps > 4 * BUDGET:
                return (), ()
            inputs = {n: (dtype, row, kind) for n, (dtype, row, kind) in zip(names, chosen, strict=False)}
            script.others = {n: HeldInput(dtype, row, 0) for n, (dtype, row, _) in inputs.items()}
            if not _is_whole(script, data):
                continue
            at = held(tuple(condition_of(n, row, kind) for n, (_, row, kind) in inputs.items()), values)
            script.others = {c.name: replace(script.others[c.name], value=c.value) for c in at}
            if not _is_whole(script, data):
                raise UsageError(
                    f"the program takes no {' and '.join(map(str, at))}",
                    hint="give a class that it knows, counted from 0",
                )
            return data, at
    script.others = {}
    return (), ()


def _shapes_of_data(script: Script) -> Iterator[tuple[int, ...]]:
    """Yield what a row of data may be, by the weights: as many numbers as one returns, and images of the usual sides."""
    weights = [b for b in script.buffers() if b.ndim == 2]
    yield from ((n,) for n in dict.fromkeys([b.shape[0] for b in reversed(weights)]))
    convolutions = [b for b in script.buffers() if b.ndim == 4]
    channels = dict.fromkeys([*(b.shape[1] for b in convolutions[:1]), 1, 3] if convolutions else [])
    yield from ((c, side, side) for side in SIDES for c in channels)


def _extra(script: Script) -> list[int]:
    """Return how many numbers layers take more than others return, the commonest first: a condition enters both halves."""
    weights = [b for b in script.buffers() if b.ndim == 2][:MOST_WEIGHTS]
    differences = Counter(a.shape[1] - b.shape[0] for a in weights for b in weights)
    return [n for n, times in differences.most_common() if n > 1 and times > 1][:FEW_TRIED]


def _is_whole(script: Script, data: tuple[int, ...]) -> bool:
    """Whether a program is a whole VAE of such data, as it is held: they come back in their shape, from latents that are told."""
    x = cpu.zeros(ROWS, *data, dtype=_dtype(script))
    try:
        with torch.no_grad():
            _, outputs, values = script.recorded(x)
            if not outputs or outputs[0] not in values or values[outputs[0]].shape != x.shape:
                return False
            found = _parting(script, data)
    except (InputError, *RUN_ERRORS) as error:
        if isinstance(error, UnsupportedError):
            script.refused = script.refused or error
        return False
    return found is not None and found[1] != "narrowest value"


def _latents(
    script: Script, asked: int | None, size: tuple[int, ...] | None = None
) -> tuple[int, tuple[int, ...], bool]:
    """Return the number of latents, the shape of one input row, and whether the number was inferred.

    Maps of a given size have as many channels as are asked for, in all, or as the weights suggest.

    Raises:
        InputError: the program runs with no number of latents that its weights suggest.
        UnsupportedError: it does not, and uses what is not supported.
        BlueprintError: it does not run with the number asked for.
    """
    weights = [b for b in script.buffers() if b.ndim >= 2]
    suggested = list(dict.fromkeys(n for b in weights for n in (b.shape[1], b.shape[0])))[:64]
    reason = None
    places = math.prod(size or ())
    one = [1] if size else []
    counts = [*one, *suggested] if _takes_tokens(script, size) else [*suggested, *one]
    tried = [asked] if asked else [places * n for n in dict.fromkeys(counts)]
    for d in tried:
        row, why = _row(script, d, size)
        if row is not None:
            return d, row, not asked and row != size  # a size that is the whole row says the number
        reason = reason or why
    if script.refused is not None:
        raise script.refused
    if not asked and size is None:  # latents that no weight takes as they are: a spatial broadcast decoder
        others = [
            (d, row) for d in range(1, 65) if d not in suggested and (row := _row(script, d)[0]) is not None
        ]
        if len(others) == 1:
            return (*others[0], True)
    if fixed := _fixed_batch(script, tried[:FEW_TRIED], size, BATCHES if asked else BATCHES[:2]):
        raise NoFlatRowsError(
            f"the program runs with {fixed} row{'s' * (fixed > 1)} of latents at a time, and not with 2",
            hint=FIXED_BATCH,
        )
    if asked:
        raise BlueprintError(
            f"the program does not take {asked} latents: {quoted(reason or '')}",
            hint="is the number of latents right? --latent-size 4x4 says the size of maps, 6x8 that of 6 tokens of 8 numbers",
        )
    raise NoFlatRowsError(
        f"the program cannot be run on latents: {quoted(reason or 'it has no weights')}",
        hint="add --latent-dim D, --latent-size 4x4 of maps (2x4x4 of films, 6x8 of 6 tokens of 8 numbers), or --submodule NAME"
        " (in Python, latent_dim=, latent_size=, submodule=)",
    )


def _fixed_batch(
    script: Script, tried: Sequence[int], size: tuple[int, ...] | None, batches: Sequence[int]
) -> int:
    """Return the number of rows that a program runs with where it does not run with two, 0 where none was found."""
    return next((n for n in batches for d in tried if _returns_rows(script, d, size, n)), 0)


def _returns_rows(script: Script, d: int, size: tuple[int, ...] | None, batch: int) -> bool:
    """Whether a program runs with so many rows, and returns as many."""
    if _row(script, d, size, batch)[0] is None:
        return False
    with torch.no_grad():
        y = picked(script(cpu.zeros(batch, d, dtype=_dtype(script))))
    return y.shape[:1] == (batch,)


def _fewest(script: Script, d: int) -> tuple[int, int]:
    """Return the fewest latents of d that a program runs with which hold all that it reads, and more that it runs with (0: none)."""
    if _row(script, d + 1)[0] != (-1,):
        return d, 0
    low, high = _read(script, d), d
    while low < high:  # where slices are whole they are so with more latents, too
        middle = (low + high) // 2
        low, high = (low, middle) if _row(script, middle)[0] == (-1,) else (middle + 1, high)
    return high, d if high < d else d + 1


def _read(script: Script, d: int) -> int:
    """Return how many of the first latents a program reads, of d that it runs with."""
    z = cpu.randn(2, d, dtype=_dtype(script), generator=torch.Generator().manual_seed(0))

    def unread(first: int) -> bool:
        other = z.clone()
        other[:, first:] = -3 * other[:, first:]
        return torch.equal(picked(script(z)), picked(script(other)))

    low, high = 1, d  # what is after the first `high` is not read
    try:
        with torch.no_grad():
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if unread(middle) else (middle + 1, high)
    except (VaeprobeError, *RUN_ERRORS):
        return d  # whoever calls it next says what is wrong
    return high


def _dtype(script: Script) -> torch.dtype:
    return next((b.dtype for b in script.buffers() if b.is_floating_point()), torch.float32)


def _row(
    script: Script, d: int, size: tuple[int, ...] | None = None, batch: int = 2
) -> tuple[tuple[int, ...] | None, str | None]:
    """Return the shape of one input row with which a program runs on d latents, or None and why it does not."""
    dtype = _dtype(script)
    reason = None
    rows = [(-1,), (d, 1, 1)]
    if size is not None:
        channels, rest = divmod(d, math.prod(size))
        if rest:
            return None, f"{d} numbers are no maps of {' x '.join(map(str, size))}"
        rows = [size] if channels == 1 and _takes_tokens(script, size) else [(channels, *size)]
    for row in rows:
        if script.steps > 4 * BUDGET:
            raise ResourceError(
                "the program takes too many steps to find its number of latents", hint="add --latent-dim D"
            )
        script.row = row
        try:
            with torch.no_grad():
                script(cpu.zeros(batch, d, dtype=dtype))
        except (UnsafeError, ResourceError):
            raise
        except InputError as error:
            reason = reason or error.message
            if isinstance(error, UnsupportedError):
                script.refused = script.refused or error
        except (*RUN_ERRORS, MemoryError) as error:
            if out_of_memory(error):
                raise ResourceError(
                    f"the program takes, for two latents, {more_than_there_is()}",
                    hint=with_more_memory("free some memory"),
                ) from None
            reason = reason or (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:
            return row, None
    return None, reason


def _takes_tokens(script: Script, size: tuple[int, ...] | None) -> bool:
    """Whether a size is that of tokens and their numbers, not of maps: no weight is of a convolution in the plane."""
    return size is not None and len(size) == 2 and all(b.ndim < 4 for b in script.buffers())


def _small(script: Script, d: int) -> bool:
    """Whether one place of the map of latents makes an output that few images are as small as."""
    with torch.no_grad():
        y = picked(script(cpu.zeros(2, d, dtype=_dtype(script))))
    return y.ndim == 4 and max(y.shape[2:]) < SMALL

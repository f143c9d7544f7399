"""From TOML to the fields of a blueprint, with errors that say where."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from vaeprobe.checkpoints.blueprint.condition import Condition
from vaeprobe.checkpoints.blueprint.kinds import ALIASES, KINDS, Accepts, Kind, number, pair, whole
from vaeprobe.checkpoints.blueprint.layer import EncoderPlan, LatentGroups, Layer, toml_key, toml_value
from vaeprobe.checkpoints.blueprint.prior import SPREADS, WEIGHTS, Numbers, PriorPlan
from vaeprobe.errors import BlueprintError, ResourceError, did_you_mean
from vaeprobe.likelihood_names import LIKELIHOODS

__all__ = ["fields"]

LARGEST = 1 << 20  # characters of TOML: a blueprint of a thousand layers has a tenth of this
MOST_LAYERS = 5_000
SECOND_OUTPUTS = ("log_variance", "log_sd", "variance", "sd", "softplus_variance", "softplus_sd")
HEADS = ("log_variance", "log_sd", "variance", "sd")


def fields(text: str, origin: str) -> dict[str, Any]:
    """Return the fields of the blueprint that a TOML text describes.

    Raises:
        BlueprintError: the text is no TOML, or says something a blueprint cannot say.
        ResourceError: it has more than `MOST_LAYERS` layers.
    """
    if len(text) > LARGEST:
        raise BlueprintError(f"`{origin}` has {len(text):,} characters: too long for a blueprint")
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise BlueprintError(
            f"`{origin}` is no TOML: {str(error).splitlines()[0][:200]}",
            hint='for example: latents = 20, and below [decoder]: layers = [{ linear = "fc3" }, "relu", { linear = "fc4" }, "sigmoid"]',
        ) from None
    try:
        found = _Reader(origin).fields(table)
    except RecursionError:
        raise BlueprintError(f"`{origin}` nests its layers too deeply") from None
    count = _count(cast(tuple[Layer, ...], found["layers"]))
    if count > MOST_LAYERS:
        raise ResourceError(
            f"`{origin}` has {count:,} layers, and a blueprint may have {MOST_LAYERS:,}",
            hint="is it the blueprint of this file?",
        )
    return found


def _count(layers: Sequence[Layer]) -> int:
    return sum(1 + _count(layer.inner) for layer in layers)


def _is_shape(v: object) -> bool:
    return isinstance(v, list) and 1 <= len(v) <= 5 and all(map(whole(1), v))


@dataclass(frozen=True)
class _Reader:
    """Turns a parsed TOML table into a blueprint, and says where it is wrong."""

    origin: str

    def fail(self, message: str, hint: str | None = None) -> BlueprintError:
        return BlueprintError(f"`{self.origin}`: {message}", hint=hint)

    def known(self, table: Mapping[str, object], keys: Sequence[str], place: str) -> None:
        for key in table:
            if key not in keys:
                raise self.fail(
                    f"{place} has no setting `{key}`",
                    did_you_mean(key, keys)
                    or (f"known settings: {', '.join(f'`{k}`' for k in keys)}" if keys else "it takes none"),
                )

    def text(
        self, table: Mapping[str, object], key: str, default: str, place: str, words: Sequence[str] = ()
    ) -> str:
        value = table.get(key, default)
        if not isinstance(value, str):
            raise self.fail(f"`{key}` of {place} must be a text, not {toml_value(value)}")
        if words and value not in words and value != default:
            raise self.fail(
                f"`{key}` of {place} cannot be `{value}`",
                did_you_mean(value, words) or f"one of {', '.join(words)}",
            )
        return value

    def fields(self, table: Mapping[str, object]) -> dict[str, object]:
        place = "the blueprint"
        self.known(
            table,
            (
                "name",
                "latents",
                "likelihood",
                "parameter",
                "dispersion",
                "assumptions",
                "prior",
                "condition",
                "decoder",
                "encoder",
            ),
            place,
        )
        decoder = self.table(table, "decoder")
        self.known(decoder, ("prefix", "layers"), "[decoder]")
        assumptions = table.get("assumptions", [])
        if not isinstance(assumptions, list) or not all(isinstance(a, str) for a in assumptions):
            raise self.fail("`assumptions` must be a list of texts")
        if "decoder" in table and not decoder.get("layers"):
            raise self.fail(
                "[decoder] has no `layers`", 'write them as layers = [{ linear = "fc1" }, "relu", ...]'
            )
        conditions = self.conditions(self.table(table, "condition"))
        layers = self.layers(decoder.get("layers", []), "the decoder")
        self.entered(layers, {c.name for c in conditions})
        return {
            "layers": layers,
            "conditions": conditions,
            "latents": self.latents(table.get("latents")),
            "prior": self.prior(self.table(table, "prior")) if "prior" in table else None,
            "likelihood": self.text(table, "likelihood", "", place, LIKELIHOODS) or None,
            "parameter": cast(
                Literal["mean", "natural"], self.text(table, "parameter", "mean", place, ("mean", "natural"))
            ),
            "dispersion": self.text(table, "dispersion", "", place),
            "prefix": self.text(decoder, "prefix", "", "[decoder]"),
            "encoder": self.encoder(self.table(table, "encoder")) if "encoder" in table else None,
            "name": self.text(table, "name", "", place),
            "assumptions": tuple(assumptions),
        }

    def prior(self, table: Mapping[str, object]) -> PriorPlan:
        place = "[prior]"
        self.known(table, ("mean", *SPREADS, *WEIGHTS), place)
        spreads, weights = [k for k in SPREADS if k in table], [k for k in WEIGHTS if k in table]
        if "mean" not in table or len(spreads) != 1 or len(weights) > 1:
            raise self.fail(
                f"{place} needs `mean` and one of {', '.join(SPREADS)}, and of a mixture may have weights or logits",
                'name tensors of the file, mean = "prior.mean", or give numbers: mean = [0, 1], scale = 1;'
                " means of a mixture are a list of lists",
            )
        for key, value in table.items():
            if not _is_numbers(value):
                raise self.fail(
                    f"`{key}` of {place} must be numbers or a tensor's name, not {toml_value(value)}"
                )
        return PriorPlan(
            mean=_frozen(table["mean"]),
            second=_frozen(table[spreads[0]]),
            spread=spreads[0],
            third=_frozen(table[weights[0]]) if weights else None,
            mixing=weights[0] if weights else "weights",
        )

    def conditions(self, table: Mapping[str, object]) -> tuple[Condition, ...]:
        return tuple(self.condition(name, self.table(table, name)) for name in table)

    def condition(self, name: str, table: Mapping[str, Any]) -> Condition:
        place = f"condition `{name}`"
        self.known(table, ("onehot", "embedding", "number", "value", "names"), place)
        kinds = [k for k in ("onehot", "embedding", "number") if k in table]
        if len(kinds) != 1:
            raise self.fail(
                f"{place} must be one of onehot, embedding, number",
                'onehot = 10, embedding = "NAME" or number = 1.0',
            )
        kind, first = kinds[0], table[kinds[0]]
        checks: Mapping[str, Accepts] = {
            "onehot": whole(2),
            "embedding": lambda v: isinstance(v, str),
            "number": number,
        }
        wants = {
            "onehot": "a number of classes, at least 2",
            "embedding": "a tensor's name",
            "number": "a number",
        }
        if not checks[kind](first):
            raise self.fail(f"`{kind}` of {place} must be {wants[kind]}, not {toml_value(first)}")
        names = table.get("names", [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise self.fail(f"`names` of {place} must be a list of texts")
        if kind == "number":
            if "value" in table:
                raise self.fail(
                    f"{place} is a number, and `value` has nothing to say", "write number = VALUE"
                )
            return Condition(name, "number", value=float(first))
        value = table.get("value", 0)
        if not whole(0)(value) or (kind == "onehot" and value >= first):
            raise self.fail(f"`value` of {place} must be a class, counted from 0, not {toml_value(value)}")
        if kind == "onehot":
            return Condition(name, "onehot", first, value=value, names=tuple(names), chosen="value" in table)
        return Condition(
            name, "embedding", key=first, value=value, names=tuple(names), chosen="value" in table
        )

    def entered(self, layers: Sequence[Layer], names: set[str]) -> None:
        """Check that layers name conditions that there are."""
        for layer in layers:
            self.entered(layer.inner, names)
            if KINDS[layer.kind].main == "condition" and layer.key not in names:
                raise self.fail(
                    f"`{layer}` names no condition",
                    did_you_mean(layer.key or "", names)
                    or f"add [condition.{toml_key(layer.key or 'NAME')}]",
                )

    def table(self, table: Mapping[str, object], key: str) -> dict[str, object]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"`{key}` must be a table", f"write [{key}] on a line of its own")
        return value

    def latents(self, value: Any) -> LatentGroups:
        hint = "write latents = 10, or latents = [{ normal = 10 }, { onehot = 4 }]"
        if value is None:
            return ()
        if whole(1)(value):
            return (("normal", value),)
        if not isinstance(value, list) or not value:
            raise self.fail(f"`latents` cannot be {toml_value(value)}", hint)
        groups = []
        for group in value:
            if not isinstance(group, dict) or len(group) != 1:
                raise self.fail(f"`latents` cannot hold {toml_value(group)}", hint)
            ((kind, size),) = group.items()
            if kind not in ("normal", "onehot") or not whole(1)(size):
                raise self.fail(
                    f"`latents` cannot hold {toml_value(group)}",
                    did_you_mean(kind, ("normal", "onehot")) or hint,
                )
            groups.append((kind, size))
        return tuple(groups)

    def encoder(self, table: Mapping[str, object]) -> EncoderPlan:
        place = "[encoder]"
        self.known(table, ("prefix", "input", "layers", "output", "second", "limits", "mean", *HEADS), place)
        shape = table.get("input")
        if whole(1)(shape):
            shape = [shape]
        if not _is_shape(shape):
            raise self.fail(
                "[encoder] needs `input`, the shape of one data row", "for example input = [1, 28, 28]"
            )
        heads = [h for h in HEADS if h in table]
        if ("mean" in table) != bool(heads) or len(heads) > 1:
            raise self.fail(
                "two heads are `mean` and one of log_variance, log_sd, variance, sd",
                'or leave them out and say output = "chunked" or "interleaved"',
            )
        if heads and ("output" in table or "second" in table):
            raise self.fail(
                "[encoder] has heads, so `output` and `second` have nothing to say", "take them out"
            )
        if not heads and "output" not in table:
            raise self.fail(
                "[encoder] does not say where the mean and the log variance are",
                'output = "chunked", output = "interleaved", or heads: mean = [...] and log_variance = [...]',
            )
        output = "heads" if heads else self.text(table, "output", "", place, ("interleaved", "chunked"))
        return EncoderPlan(
            layers=self.layers(table.get("layers", []), "the encoder"),
            input=tuple(cast(list[int], shape)),
            output=cast(Literal["interleaved", "chunked", "heads"], output),
            second=heads[0] if heads else self.text(table, "second", "log_variance", place, SECOND_OUTPUTS),
            mean=self.layers(table.get("mean", []), "the encoder's mean"),
            spread=self.layers(table[heads[0]], f"the encoder's {heads[0]}") if heads else (),
            prefix=self.text(table, "prefix", "", place),
            limits=self.limits(table.get("limits")),
        )

    def limits(self, value: Any) -> tuple[float, float] | None:
        if value is not None and not pair(value):
            raise self.fail(f"`limits` of [encoder] must be [low, high], not {toml_value(value)}")
        return None if value is None else (value[0], value[1])

    def layers(self, value: object, place: str) -> tuple[Layer, ...]:
        if not isinstance(value, list):
            raise self.fail(
                f"the layers of {place} must be a list", 'for example [{ linear = "fc1" }, "relu"]'
            )
        return tuple(self.layer(item, f"layer {i} of {place}") for i, item in enumerate(value, start=1))

    def layer(self, item: object, place: str) -> Layer:
        if isinstance(item, str):
            name = self.kind([item], place)
            if not KINDS[name].bare:
                wants = {
                    "key": '"NAME"',
                    "condition": '"NAME"',
                    "layers": "[...]",
                    "branches": "[[...], [...]]",
                }.get(KINDS[name].main or "", "...")
                raise self.fail(f"{place}: `{name}` alone says too little", f"write {{ {name} = {wants} }}")
            return Layer(name)
        if not isinstance(item, dict) or not item:
            raise self.fail(
                f"{place} cannot be {toml_value(item)}", 'a layer is "relu" or { linear = "NAME" }'
            )
        given = {ALIASES.get(k, k): v for k, v in cast(dict[str, Any], item).items()}
        name = self.kind(list(item), place)
        kind = KINDS[name]
        main = given.pop(name)
        own = kind.main or ""
        nested = {"layers": ("skip", "prefix"), "branches": ("prefix",)}.get(own, ())
        beside = [o for o in kind.options if o != kind.main or main is True]
        self.known(given, (*beside, *nested), f"{place} (`{name}`)")
        if kind.main == "key?" and main is True:
            return Layer(name, options=self.options(kind, given, place))
        if kind.weighted or kind.main == "condition":
            if not isinstance(main, str):
                raise self.fail(
                    f"{place}: `{name}` takes the name of {'a condition' if kind.main == 'condition' else 'its tensors'}, not {toml_value(main)}"
                )
            return Layer(name, key=main, options=self.options(kind, given, place))
        if kind.main == "layers":
            return Layer(
                name,
                body=self.layers(main, place),
                skip=self.layers(given.get("skip", []), f"the skip of {place}"),
                prefix=self.text(given, "prefix", "", place),
            )
        if kind.main == "branches":
            return self.parallel(main, given, place)
        if own and not (main is True and (own in given or kind.options[own].default is not None)):
            given = {own: main, **given}
        elif main is not True:
            raise self.fail(f"{place}: `{name}` takes no value", f'write "{name}"')
        return Layer(name, options=self.options(kind, given, place))

    def parallel(self, main: Any, given: dict[str, object], place: str) -> Layer:
        named = isinstance(main, dict)
        branches = list(main.items()) if named else [("", v) for v in main] if isinstance(main, list) else []
        if len(branches) < 2 or not all(isinstance(v, list) for _, v in branches):
            raise self.fail(
                f"{place}: `parallel` takes two lists of layers or more, not {toml_value(main)}",
                "{ parallel = [[...], [...]] } joins them, { parallel = { mean = [...], scale = [...] } } returns them by name",
            )
        bad = next((k for k, _ in branches if named and not k.isidentifier()), None)
        if bad is not None or (named and "join" in given):
            what = (
                "joins nothing: its branches have names" if bad is None else f"cannot call a branch `{bad}`"
            )
            raise self.fail(f"{place}: `parallel` {what}")
        prefix = self.text(given, "prefix", "", place)
        given.pop("prefix", None)
        return Layer(
            "parallel",
            options=self.options(KINDS["parallel"], given, place),
            branches=tuple(
                (k, self.layers(v, f"branch {i} of {place}")) for i, (k, v) in enumerate(branches, 1)
            ),
            prefix=prefix,
        )

    def kind(self, words: Sequence[str], place: str) -> str:
        words = [ALIASES.get(w, w) for w in words]
        found = [w for w in words if w in KINDS]
        if len(found) != 1:
            what = " and ".join(f"`{w}`" for w in found) if found else f"`{words[0]}`"
            message = f"{place} is {what} at once" if found else f"{place}: no layer is called {what}"
            raise self.fail(
                message,
                None if found else did_you_mean(words[0], KINDS) or f"known layers: {', '.join(KINDS)}",
            )
        return found[0]

    def options(self, kind: Kind, given: Mapping[str, object], place: str) -> dict[str, object]:
        for name, value in given.items():
            if not kind.options[name].check(value):
                raise self.fail(
                    f"{place}: `{name}` must be {kind.options[name].wants}, not {toml_value(value)}"
                )
        for name, option in kind.options.items():
            if option.default is None and name not in given:
                raise self.fail(f"{place} needs `{name}`, {option.wants}")
        return {
            k: given[k]
            for k, option in kind.options.items()
            if given.get(k, option.default) != option.default
        }


def _is_numbers(value: object, depth: int = 0) -> bool:
    if isinstance(value, list) and depth < 2:
        return bool(value) and all(_is_numbers(v, depth + 1) and not isinstance(v, str) for v in value)
    return number(value) or (isinstance(value, str) and depth == 0)


def _frozen(value: Any) -> Numbers:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value

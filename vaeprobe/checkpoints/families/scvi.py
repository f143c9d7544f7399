"""scVI and its linear-decoder variant LDVAE (scvi-tools): mean counts = library size x proportions of genes.

What the decoder takes beside its latents (batch, covariates, library size) is held; class names come from the file's registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaeprobe.checkpoints.blueprint import Blueprint, Condition, EncoderPlan, Layer
from vaeprobe.checkpoints.families import family as f
from vaeprobe.recipe import Mistake, Recipe

EPS = 1e-3
WARM_UP = 400  # epochs over which the KL weight rises to 1
SOFTMAX = Layer("softmax")
LIKELIHOODS = {
    "zinb": "zero_inflated_negative_binomial",
    "nb": "negative_binomial",
    "poisson": "poisson",
    "normal": "gaussian",
}


@dataclass(frozen=True)
class Inputs:
    """What enters beside the latents: `once` into the first layer, `always` into every one."""

    once: tuple[Condition, ...] = ()
    always: tuple[Condition, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return sum(c.size for c in self.always)


def recognise(clues: f.Clues) -> f.Recognised | None:
    """Return what the clues hold."""
    for linear, anchor in (
        (False, "decoder.px_scale_decoder.0.weight"),
        (True, "decoder.factor_regressor.fc_layers.Layer 0.0.weight"),
    ):
        for prefix in f.prefixes(clues.shapes, anchor):
            found = _at(clues, prefix, linear)
            if found is not None:
                return found
    return None


def _at(clues: f.Clues, prefix: str, linear: bool) -> f.Recognised | None:
    own = f.below(clues.shapes, prefix)
    told = clues.table("attr_dict")
    settings = _settings(told)
    stack = f"decoder.{'factor_regressor' if linear else 'px_decoder'}.fc_layers.Layer"
    n = _depth(own, stack)
    d = own.get("z_encoder.mean_encoder.weight", (0,))[0]
    if not n or not d or (linear and n != 1):
        return None
    inputs = _inputs(told, own, stack, d, n, prefix)
    if inputs is None:
        return None
    wanted: dict[str, str] = {}
    layers: list[Layer] = [SOFTMAX] if settings.get("latent_distribution") == "ln" else []
    layers += [Layer("concat", c.name) for c in inputs.once]
    head: list[Layer] = []  # from the trunk to the mean; the zeros of another cause have a head of their own
    zeros: list[Layer] = []
    for i in range(n):
        key, out = f"{stack} {i}", "g" if linear else "h"
        into = head if linear else layers
        layers += [Layer("concat", c.name) for c in inputs.always]
        wanted[f"{key}.0"] = f"linear {out} i{i}" + (" -" if linear else "")
        into.append(f.linear(f"{key}.0"))
        if f"{key}.1.weight" in own:
            wanted[f"{key}.1"] = f"batch_norm {out}"
            into.append(f.batch_norm(f"{key}.1", EPS))
        if settings.get("use_layer_norm") in ("both", "decoder"):
            into.append(Layer("layer_norm"))
        if not linear:
            into.append(f.RELU)
    if linear:
        drop = "decoder.px_dropout_decoder.fc_layers.Layer 0"
        wanted[f"{drop}.0"] = "linear g i0 -"
        zeros.append(f.linear(f"{drop}.0"))
        if f"{drop}.1.weight" in own:
            wanted[f"{drop}.1"] = "batch_norm g"
            zeros.append(f.batch_norm(f"{drop}.1", EPS))
    else:
        wanted |= {
            f"decoder.{k}": "linear g h" for k in ("px_scale_decoder.0", "px_r_decoder", "px_dropout_decoder")
        }
        head.append(f.linear("decoder.px_scale_decoder.0"))
        zeros.append(f.linear("decoder.px_dropout_decoder"))
    found = f.solve({k: v for k, v in own.items() if k.startswith("decoder.")}, wanted)
    if found is None or any(found[f"i{i}"] != found["h"] + inputs.width for i in range(1, n)):
        return None
    sized = bool(_registry(told).get("size_factor", {}).get("state_registry"))
    head += [Layer("softplus") if sized else SOFTMAX, Layer("multiply", "library")]
    likelihood = settings.get("gene_likelihood", "nb" if linear else "zinb")
    if likelihood == "zinb":
        outputs = (("mean", tuple(head)), ("zero_logits", tuple(zeros)))
        layers.append(Layer("parallel", branches=outputs))
    else:
        layers += head
    conditions = (*inputs.once, *inputs.always, Condition("library", "number", value=1.0))
    bp = Blueprint(
        layers=tuple(layers),
        latents=f.normal(d),
        prefix=prefix,
        likelihood=LIKELIHOODS.get(str(likelihood)),
        encoder=_encoder(own, prefix, settings, d, found["g"]),
        conditions=conditions,
    )
    scope = tuple(f"{prefix}{key}." for key in wanted if "dropout" not in key and "px_r_" not in key)
    return f.Recognised(
        bp,
        scope,
        (f"{prefix}z_encoder.",),
        assumed=inputs.assumed,
        recipe=_recipe(told),
        log_dispersion=f"{prefix}px_r" if own.get("px_r", ())[:1] == (found["g"],) else "",
        dispersion_of="batch" if len(own.get("px_r", ())) == 2 else "",
        warnings=tuple(_warnings(str(likelihood), settings, linear, sized)),
        total="" if sized else "library",
    )


def _warnings(likelihood: str, settings: Mapping[str, object], linear: bool, sized: bool) -> list[str]:
    names = {
        "zinb": "zero-inflated negative-binomial",
        "nb": "negative-binomial",
        "poisson": "Poisson",
        "normal": "normal",
    }
    known = names.get(likelihood, likelihood)
    by = "" if settings else " by default"
    library = "a cell's library is the sum of its counts: `beta` and `posterior` take each cell's own unless one is chosen"
    if sized:
        library = "a cell's library is a size factor of the user's, which the file does not hold: choose one"
    elif not settings.get("use_observed_lib_size", not linear):
        library += "; in training it was inferred, by an encoder of its own, and the sum stands for that"
    out = [
        f"its counts are {known}{by}; the data are raw counts, and their dispersions stand in `px_r`; "
        + library
    ]
    if likelihood == "zinb":
        out.append(
            "its map is of means; the logits of the zeros of another cause are a second output, which the likelihood takes in"
        )
    return out


def _depth(own: f.Shapes, stack: str) -> int:
    n = 0
    while f"{stack} {n}.0.weight" in own:
        n += 1
    return n


def _settings(told: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments that the module was made with."""
    out: dict[str, object] = {}
    params = told.get("init_params_")
    for group in params.values() if isinstance(params, dict) else ():
        if isinstance(group, dict):
            for key, value in group.items():
                out |= value if isinstance(value, dict) else {key: value}
    return out


def _registry(told: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    registry = told.get("registry_")
    fields = registry.get("field_registries") if isinstance(registry, dict) else None
    return {k: v for k, v in fields.items() if isinstance(v, dict)} if isinstance(fields, dict) else {}


def _inputs(
    told: Mapping[str, object], own: f.Shapes, stack: str, d: int, n: int, prefix: str
) -> Inputs | None:
    """Return what enters beside the latents, as the registry or, without one, the widths of the layers tell."""
    extra = own[f"{stack} 0.0.weight"][-1] - d
    fields = _registry(told)
    if not fields:
        if extra == 0:
            return Inputs()
        repeated = own[f"{stack} 1.0.weight"][-1] - own[f"{stack} 0.0.weight"][0] if n > 1 else extra
        if extra < 2 or repeated != extra:
            return None
        assumed = f"the {extra} inputs beside the latents are a one-hot batch"
        return Inputs(always=(Condition("batch", "onehot", extra),), assumed=(assumed,))
    continuous = _texts(_state(fields, "extra_continuous_covs").get("columns"))
    once = [Condition(name, "number", value=0.0) for name in continuous]
    always: list[Condition] = []
    names = _texts(_state(fields, "batch").get("categorical_mapping"))
    if "_embeddings_dict.batch.weight" in own:
        width = own["_embeddings_dict.batch.weight"][1]
        once.append(Condition("batch", "embedding", key=f"{prefix}_embeddings_dict.batch", names=names))
    else:
        width = 0
        stats = fields.get("batch", {}).get("summary_stats")
        count = stats.get("n_batch", len(names)) if isinstance(stats, Mapping) else len(names)
        if not isinstance(count, int):
            return None
        always += [Condition("batch", "onehot", count, names=names)] if count > 1 else []
    mappings = _state(fields, "extra_categorical_covs").get("mappings")
    for name, values in mappings.items() if isinstance(mappings, dict) else ():
        classes = _texts(values)
        always += [Condition(name, "onehot", len(classes), names=classes)] if len(classes) > 1 else []
    inputs = Inputs(tuple(once), tuple(always))
    return inputs if extra == len(continuous) + width + inputs.width else None


def _state(fields: Mapping[str, Mapping[str, object]], name: str) -> Mapping[str, object]:
    state = fields.get(name, {}).get("state_registry")
    return state if isinstance(state, dict) else {}


def _texts(values: object) -> tuple[str, ...]:
    values = getattr(values, "values", values)
    return tuple(map(str, values)) if isinstance(values, (list, tuple)) else ()


def _encoder(
    own: f.Shapes, prefix: str, settings: Mapping[str, object], d: int, genes: int
) -> EncoderPlan | None:
    """Return the encoder of log(1 + counts), with variance e^h + 1e-4."""
    stack, wanted = "z_encoder.encoder.fc_layers.Layer", dict[str, str]()
    layers: list[Layer] = [Layer("log1p")]
    n = _depth(own, stack)
    for i in range(n):
        wanted[f"{stack} {i}.0"] = f"linear h {genes if i == 0 else 'h'}"
        layers.append(f.linear(f"{stack} {i}.0"))
        if f"{stack} {i}.1.weight" in own:
            wanted[f"{stack} {i}.1"] = "batch_norm h"
            layers.append(f.batch_norm(f"{stack} {i}.1", EPS))
        if settings.get("use_layer_norm") in ("both", "encoder"):
            layers.append(Layer("layer_norm"))
        layers.append(f.RELU)
    wanted |= {f"z_encoder.{k}": f"linear {d} h" for k in ("mean_encoder", "var_encoder")}
    mine = {k: v for k, v in own.items() if k.startswith("z_encoder.")}
    if not n or f.solve(mine, wanted) is None:
        return None
    floor = (Layer("exp"), Layer("shift", options={"amount": 1e-4}))
    return EncoderPlan(
        tuple(layers),
        (genes,),
        "heads",
        "variance",
        mean=(f.linear("z_encoder.mean_encoder"),),
        spread=(f.linear("z_encoder.var_encoder"), *floor),
        prefix=prefix,
    )


def _recipe(told: Mapping[str, object]) -> Recipe:
    """Return the KL weight of the last epoch, (E - 1) / 400 up to 1."""
    epochs, assumes = _epochs(told)
    if epochs is None:
        return Recipe(1.0, f"1 after {WARM_UP} epochs of warm-up", "default settings, and that many epochs")
    mistakes = (
        Mistake(
            0.0, 0.5, "too few epochs for the warm-up of its KL weight, the more so the more cells there are"
        ),
    )
    return Recipe(min(1.0, (epochs - 1) / WARM_UP), f"({epochs} epochs - 1) / {WARM_UP}", assumes, mistakes)


def _epochs(told: Mapping[str, object]) -> tuple[int | None, str]:
    """Return the number of epochs trained: rows of the history, or the default for so many cells."""
    history = told.get("history_")
    losses = (
        history.get("train_loss", next(iter(history.values()), None)) if isinstance(history, dict) else None
    )
    rows = _longest(losses)
    if rows:
        return rows, "default settings of the warm-up"
    stats = _registry(told).get("X", {}).get("summary_stats")
    cells = stats.get("n_cells") if isinstance(stats, Mapping) else None
    if not isinstance(cells, int) or cells < 1:
        return None, ""
    return max(1, min(400, round(400 * 20000 / cells))), f"the default number of epochs for {cells} cells"


def _longest(value: object) -> int:
    """Return the largest axis of any array inside."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return max(shape, default=0)
    if isinstance(value, dict):
        return max(map(_longest, value.values()), default=0)
    return max(map(_longest, value), default=0) if isinstance(value, (list, tuple)) else 0


FAMILY = f.Family(
    name="scvi",
    title="scVI and LDVAE of scvi-tools",
    source="scverse/scvi-tools 93dc4fa, BSD-3; doi:10.1038/s41592-018-0229-2",
    recognise=recognise,
)

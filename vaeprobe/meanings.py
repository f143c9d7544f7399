"""What numbers, findings and errors mean, as text: `vaeprobe explain` and the README's table of metrics."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from vaeprobe.report import MetricSpec


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a finding's or error's code means, and what to do about it."""

    what: str
    remedy: str


# codes of errors (vaeprobe.errors) and findings; a test holds this against the code
CODES: dict[str, Meaning] = {
    "usage": Meaning(
        "An option, argument, policy or blueprint is wrong (exit code 2).",
        "The hint names the nearest valid name or form; `vaeprobe COMMAND --help` lists all.",
    ),
    "missing-extra": Meaning(
        "A feature needs a package that is not installed (exit code 2).",
        "Run the pip command in the hint.",
    ),
    "blueprint": Meaning(
        "A blueprint is malformed, or its layers do not fit the tensors of the file (exit code 2).",
        "The message names the layer and both shapes, the hint the nearest fix. `vaeprobe inspect MODEL` lists the tensors; `--draft-blueprint OUT` writes a first version.",
    ),
    "unsafe": Meaning(
        "The file asks for something that could run code, write files or reach outside itself, and is refused (exit code 4).",
        "Ask its author for safetensors with a blueprint, or for a bare state_dict. Do not load a file from a stranger by other means: what it would import is named in the message.",
    ),
    "unreadable": Meaning(
        "The file is missing, damaged, empty, or in no format that vaeprobe reads (exit code 5).",
        "The message says what was found. A git-LFS pointer wants `git lfs pull`; a web page saved by mistake wants another download.",
    ),
    "architecture": Meaning(
        "The file holds weights alone, and nothing says which network they belong to (exit code 5).",
        "Write a blueprint (`vaeprobe inspect MODEL --draft-blueprint OUT` makes a marked draft), or name your own code with --arch.",
    ),
    "contract": Meaning(
        "The network is no decoder in vaeprobe's sense: deterministic, rows independent, finite, differentiable (exit code 5).",
        "The message says which property fails and what usually causes it. Wrap the network so that it returns the mean instead of a sample.",
    ),
    "resources": Meaning(
        "The run would take, or took, more memory or time than allowed (exit code 6).",
        "Fewer --samples, a smaller --chunk, or only some components.",
    ),
    "internal": Meaning(
        "A bug of vaeprobe (exit code 70).",
        "Run again with VAEPROBE_DEBUG=1 and report the traceback with the smallest file that shows it.",
    ),
    "training-mode": Meaning(
        "The module was saved or passed in training mode; it is probed in eval mode, on a copy that shares its weights.",
        "Nothing, unless the model is meant to be used in training mode. Save it after .eval() to silence this.",
    ),
    "reverse-mode": Meaning(
        "Forward-mode derivatives are missing or wrong for this network, so reverse mode is used.",
        "Results are the same; it is slower by about the number of outputs over the number of latents. A blueprint instead of a compiled program usually gives forward mode back.",
    ),
    "cast-up": Meaning(
        "Weights stored in half precision (or integers) were cast to the precision of the computation.",
        "Nothing; the values are exact.",
    ),
    "nonfinite-weights": Meaning(
        "Some weights are NaN or infinite.",
        "Take an earlier checkpoint: training diverged, or a cast to half precision overflowed.",
    ),
    "chosen-entry": Meaning(
        "The file holds several candidates, and the likeliest was taken.",
        "Choose another with --key.",
    ),
    "unread-objects": Meaning(
        "One entry was read alone; other parts of the file would import foreign code and were not read.",
        "Nothing, if the entry is the right one.",
    ),
    "unused-tensors": Meaning(
        "Some tensors of the file have no place in the architecture.",
        "Usually an encoder, an optimiser or a discriminator; if a decoder layer is among them, the blueprint misses it.",
    ),
    "unused-layers": Meaning(
        "The file is a program that holds its own layers; those of the blueprint beside it were not used.",
        "Nothing, if the blueprint's latents and likelihood are right; else take its [decoder] out.",
    ),
    "draft-blueprint": Meaning(
        "The architecture is a guess from names and shapes: activations, strides and reshapes are not recorded in weights.",
        "Write the draft with `vaeprobe inspect MODEL --draft-blueprint OUT`, check every marked line, and pass it with --blueprint.",
    ),
    "foreign-classes": Meaning(
        "A pickled module is built of classes that vaeprobe does not know and will not run.",
        "Take a part made of torch's own layers with --submodule, or describe the whole with --blueprint or --arch.",
    ),
    "reshaped-latents": Meaning(
        "The network takes latents with extra axes (such as d x 1 x 1); vaeprobe adds them.",
        "Nothing.",
    ),
    "latents-inferred": Meaning(
        "The format does not record the number of latents; it was found by trying.",
        "Say it with --latent-dim.",
    ),
    "fixed-batch": Meaning(
        "The program takes batches of one fixed size; latents are padded to it.",
        "Export it with a dynamic batch axis for speed.",
    ),
    "rounded": Meaning(
        "Numbers of a wider type were rounded to the precision of the computation.",
        "Nothing, or --dtype float64.",
    ),
    "trailing-bytes": Meaning(
        "The file has bytes after its content. They were ignored.",
        "Find out who appended them: nothing should.",
    ),
    "wide-matrix": Meaning(
        "A matrix has fewer outputs than latents; it may be stored transposed.",
        "A decoder is outputs x latents. scikit-learn's components_ are the transpose of that.",
    ),
    "code-was-run": Meaning(
        "The file was unpickled on request, so its own code ran.",
        "Convert it to safetensors once (`vaeprobe convert`), and never need that again.",
    ),
    "encoder-left-out": Meaning(
        "A conversion kept the decoder and not its encoder.",
        "Write to .safetensors to keep both.",
    ),
    "factorise-undefined": Meaning(
        "Factorisation is undefined here: fewer than two active latents, or rank-deficient columns.",
        "See the reason given; collapse is the usual cause.",
    ),
    "undecided": Meaning(
        "The samples allowed do not decide some tests.",
        "Raise --max-samples, or choose a margin that matters to you with --margin.",
    ),
    "not-smooth": Meaning(
        "The network is piecewise linear (ReLU): derivatives of J are zero almost everywhere and say nothing of its kinks.",
        "Rely on the frozen-coordinate differences of C2, which work for every network.",
    ),
    "tied-seams": Meaning(
        "Some seams have equal singular values and are not identified one by one.",
        "They are tested as one block.",
    ),
    "trace-scheme": Meaning(
        "Which scheme traced the seams, and to what tolerance.",
        "Nothing; --scheme and --tolerance choose.",
    ),
    "trace-components": Meaning(
        "Components of smaller singular values were not traced.",
        "Choose them with --components.",
    ),
    "trace-no-picture": Meaning(
        "No picture was written, since no seam has any length.",
        "Start elsewhere, or see why the decoder collapses there.",
    ),
    "trace-outside": Meaning(
        "Some starting points lie outside the radius in which seams are followed.",
        "Raise --radius or leave it out.",
    ),
    "trace-not-finite": Meaning(
        "Some seams stop where the decoder is not finite.",
        "Lower --radius, or --dtype float64.",
    ),
    "trace-steps": Meaning(
        "Some seams end at the step limit.",
        "Raise --tolerance, or use --scheme rough.",
    ),
    "trace-not-reproducible": Meaning(
        "Seams traced back to their start miss it by more than 0.05: single paths depend on the tolerance.",
        "Read the means over seams. A smaller --tolerance or a shorter --length brings paths back; on a network with many kinks the directions change by jumps.",
    ),
    "trace-collapse": Meaning(
        "Some seams stop where the output no longer changes along them.",
        "Nothing: there is no density to follow there.",
    ),
    "beta-unknown": Meaning(
        "Beta could not be estimated from the encoder, and 1 was assumed.",
        "Give the trained value with --beta.",
    ),
    "large-residual": Meaning(
        "The residual term of Eq. 7, which the Gauss-Newton form drops, is a large part of the curvature.",
        "Read the Stein columns; ask whether the likelihood is the one the model was trained with.",
    ),
    "other-variance": Meaning(
        "At the variance given, the encoder asks for another beta; by Theorem 3 only their product is identified.",
        "Give the trained --sigma2, or read the product.",
    ),
    "collapsed": Meaning(
        "Every posterior equals the prior.",
        "A smaller beta or sigma^2, or a KL warm-up.",
    ),
    "collapsed-latents": Meaning(
        "Some latents tell less about the data than the prior does and carry no weight in the estimate.",
        "Nothing; the table shows which.",
    ),
    "not-at-optimum": Meaning(
        "The active latents ask for different betas: no single beta explains this encoder, so it is not at the optimum of a beta-ELBO.",
        "Early stopping, capacity annealing, a total-correlation term or another likelihood do this. Treat the estimate as an effective value.",
    ),
    "no-curvature": Meaning(
        "The likelihood has no positive curvature where the encoder puts its posteriors, so nothing can be recovered.",
        "Check that encoder, decoder and data belong together.",
    ),
    "other-beta": Meaning(
        "The nominal beta lies outside the interval of the recovered one.",
        "Trust the recovered one for what the encoder does; see not-at-optimum for causes.",
    ),
    "no-better-than-chance": Meaning(
        "Reconstructions are no better than the mean image: the encoder's layout, the data or their scale are wrong.",
        "Check the blueprint's encoder output (interleaved, chunked), and the scale of the data.",
    ),
    "scaled": Meaning(
        "Values were scaled when they were read (8-bit images by 1/255).",
        "--scale none keeps them.",
    ),
    "latent-dim": Meaning(
        "How the number of latents was chosen.",
        "Give it with --latent-dim.",
    ),
    "flattened": Meaning(
        "Rows with several axes (images) were flattened to columns.",
        "Nothing; the shape is kept in the saved model.",
    ),
    "dropped-rows": Meaning(
        "Rows with NaN or infinite values were left out, as asked, or have no value at all.",
        "Find out where they come from; `--missing em` uses rows that are incomplete.",
    ),
    "missing-values": Meaning(
        "Some values are missing and were treated as unknown by EM.",
        "Nothing, if they are missing at random.",
    ),
    "collapse": Meaning(
        "Some latents collapse: their eigenvalue does not exceed beta sigma^2.",
        "Fewer latents, or a smaller beta or sigma^2.",
    ),
    "tied-eigenvalues": Meaning(
        "Eigenvalues are equal within their error, so only the block of their directions is identified.",
        "Do not interpret these columns one by one; more rows may separate them.",
    ),
    "randomized": Meaning(
        "Eigenpairs were found by a randomized method, to the error stated.",
        "--solver exact, where time and memory allow.",
    ),
    "float32": Meaning(
        "Moments were computed in float32.",
        "Pass float64 data where the last digits matter.",
    ),
    "nothing-checked": Meaning(
        "No rule applies to a model, and a run that checks nothing never passes.",
        "Add rules to the policy, or take the model out of the list.",
    ),
    "same-artifact": Meaning(
        "The model is byte for byte the baseline's.",
        "Nothing.",
    ),
    "waiver-expired": Meaning(
        "A waiver is past its date, and the rule counts again.",
        "Fix the model, or renew the waiver with a reason.",
    ),
    "approximate-p-value": Meaning(
        "The rotation test is exact when the latents' distribution does not change under rotations, as N(0, I) "
        "does not. Latents from posteriors, a grid or a file have no such symmetry.",
        "Read the p-value as a description, or take --latents prior.",
    ),
    "borderline-latents": Meaning(
        "Mean column norms of these latents lie within a factor 1.25 of the line between active and inactive, "
        "so that another sample may count them on the other side, and every contrast moves with it.",
        "Look at the bars and put --active-threshold in a gap; compare models at the same set of latents.",
    ),
    "few-latents": Meaning(
        "The rotation R* has d (d - 1) / 2 angles, and there are few latents to fit them on: R* follows the "
        "sample, and the contrast on held-out latents does not fall as far as it could.",
        "Draw more latents (--samples).",
    ),
    "ill-conditioned": Meaning(
        "The columns, scaled to unit length, are so nearly dependent that the rounding of the network's own "
        "precision shows in contrasts and singular vectors.",
        "Run in double precision: --dtype float64.",
    ),
    "inactive-latents": Meaning(
        "These latents hardly move the output: their Jacobian columns are under 5 % of the longest, on average. "
        "The direction of such a column means nothing, so it is left out of cosines and contrasts.",
        "Many of them mean posterior collapse. --active-threshold moves the line.",
    ),
    "not-converged": Meaning(
        "The search for the best rotation was stopped while it still improved.",
        "Its contrast is an upper bound. Another --restarts or --seed may end earlier.",
    ),
    "not-finite": Meaning(
        "The Jacobian overflows or is NaN at some latents, which are left out of every number.",
        "Use --dtype float64; a decoder that overflows at prior samples often has an exponential output.",
    ),
    "rank-deficient": Meaning(
        "At some latents a column of the Jacobian is zero or depends on others, so that log det G is -inf and the "
        "ima contrast infinite. ReLU and saturated outputs do that. The contrast is averaged over the rest.",
        "Read the mean-field gap, which is finite everywhere, beside it.",
    ),
    "saturated": Meaning(
        "Some outputs are exactly 0 or 1 in the decoder's precision. A Bernoulli has no variance there, so they "
        "carry no weight in the likelihood's metric.",
        "Describe the last activation in the blueprint: the natural parameter does not saturate.",
    ),
    "tied-singular-values": Meaning(
        "Singular values of J coincide at some latents. Singular vectors are arbitrary within such a block, and "
        "are rotated to the nearest axes before they are compared with them.",
        "Use numbers that do without V: cosines, contrast, alignment.",
    ),
}


def _wrap(text: str, indent: str = "  ") -> str:
    return textwrap.fill(" ".join(text.split()), width=79, initial_indent=indent, subsequent_indent=indent)


def of_metric(spec: MetricSpec) -> str:
    """Return the page of a metric."""
    better = {"lower": "lower is better", "higher": "higher is better", None: "descriptive"}[spec.better]
    unit = f", {spec.unit}" if spec.unit else ""
    parts = [f"{spec.id}: {spec.title} ({better}{unit})"]
    fields = {
        "formula": spec.formula,
        "range": spec.range,
        "source": spec.source,
        "how to read it": spec.meaning,
        "how it misleads": spec.misleads,
        "what to do": spec.remedy,
        "limit on the command line": spec.option or "",
    }
    parts += [f"{name}\n{_wrap(text)}" for name, text in fields.items() if text]
    return "\n\n".join(parts) + "\n"


def of_code(name: str, meaning: Meaning) -> str:
    """Return the page of a finding or error code."""
    return f"{name}\n\n{_wrap(meaning.what)}\n\nwhat to do\n{_wrap(meaning.remedy)}\n"


def index(specs: Mapping[str, MetricSpec]) -> str:
    """Return the list of everything that can be explained."""
    width = max(len(name) for name in [*specs, *CODES])
    metrics = [f"  {id.ljust(width)}  {spec.title}" for id, spec in specs.items()]
    codes = [
        f"  {name.ljust(width)}  {textwrap.shorten(m.what, 60, placeholder=' …')}"
        for name, m in sorted(CODES.items())
    ]
    return "\n".join(["metrics", *metrics, "", "findings and errors", *codes]) + "\n"


def markdown_table(specs: Mapping[str, MetricSpec]) -> str:
    """Return the README's table of metrics."""
    from vaeprobe.render.markdown import grid

    better = {"lower": "lower", "higher": "higher", None: ""}
    return grid(
        ["metric", "what it is", "range", "better", "source"],
        [[f"{s.id}", s.title, s.range, better[s.better], s.source] for s in specs.values()],
    )

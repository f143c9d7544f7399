"""What vaeprobe may find worth saying: each code once, with its level, its meaning and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from vaeprobe.errors import UnsafeError

Level: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class FindingSpec:
    """What a kind of finding means; `vaeprobe explain CODE` shows it.

    Attributes:
        code: the name in documents and on the page.
        level: how much it matters, where the one who finds it does not say otherwise.
        meaning: what was found.
        remedy: what to do about it.
    """

    code: str
    level: Level
    meaning: str
    remedy: str


UNSAFE = FindingSpec(UnsafeError.code, "error", UnsafeError.meaning, UnsafeError.remedy)
TRAINING_MODE = FindingSpec(
    "training-mode",
    "note",
    "The module was saved or passed in training mode; it is probed in eval mode, on a copy that shares "
    "its weights.",
    "Nothing, unless the model is meant to be used in training mode. Save it after .eval() to silence this.",
)
REVERSE_MODE = FindingSpec(
    "reverse-mode",
    "note",
    "Forward-mode derivatives are missing or wrong for this network, so reverse mode is used.",
    "Results are the same; it is slower by about the number of outputs over the number of latents. A "
    "blueprint instead of a compiled program usually gives forward mode back.",
)
LOW_PRECISION = FindingSpec(
    "low-precision",
    "warning",
    "The network computes in half precision inside (autocast, or a cast in its code), whatever its outputs are.",
    "Every number of the report is good to about 1 percent. Switch the cast off, or probe the float32 network.",
)
OUTPUT_CHOSEN = FindingSpec(
    "output-chosen",
    "warning",
    "The network returns several outputs, and one of them was probed.",
    "If it is not the reconstruction, choose another with --output-name (output= in Python).",
)
DISTRIBUTION_OUTPUT = FindingSpec(
    "distribution-output",
    "note",
    "The network returns a distribution; its mean is probed (of a categorical one, the probabilities).",
    "Nothing, if the mean is what you want to know about.",
)
CAST_UP = FindingSpec(
    "cast-up",
    "note",
    "Weights stored in half precision (or integers) were cast to the precision of the computation, and parts of a program "
    "under autocast are computed in it.",
    "Nothing; the values are exact.",
)
NONFINITE_WEIGHTS = FindingSpec(
    "nonfinite-weights",
    "error",
    "Some weights are NaN or infinite.",
    "Take an earlier checkpoint: training diverged, or a cast to half precision overflowed.",
)
CHOSEN_ENTRY = FindingSpec(
    "chosen-entry",
    "note",
    "The file holds several candidates, and the likeliest was taken.",
    "Choose another with --key.",
)
CONDITION_HELD = FindingSpec(
    "condition-held",
    "warning",
    "The network takes more than latents; what it takes besides is held at one value.",
    "Choose the value with --condition NAME=VALUE, and compare several.",
)
LOOKS_LIKE_ENCODER = FindingSpec(
    "looks-like-encoder",
    "warning",
    "The network takes more numbers, in the shape of an image, than it returns: it is an encoder, by its looks.",
    "Give the decoder's file. What is printed of this one is the geometry of the encoder.",
)
TWO_SETS_OF_WEIGHTS = FindingSpec(
    "two-sets-of-weights",
    "note",
    "The file holds the weights twice: as they were trained last, and averaged over training (EMA). The average "
    "is what models are published and used with, so it is taken.",
    "Nothing, if the average is meant; --weights raw takes the others.",
)
LEARNED_PRIOR = FindingSpec(
    "learned-prior",
    "note",
    "The prior of the latents is not N(0, I) but learned, or a mixture. Latents are drawn from it. Under a learned mean and "
    "scale per latent the probes count latents in units of it, in which it is N(0, I): u = (z - mean) / scale.",
    "Read latents, and steps along them, in those units; rows of a file of latents are converted.",
)
WHOLE_VAE = FindingSpec(
    "whole-vae",
    "note",
    "The network takes data and gives a reconstruction; its part that decodes was found by its name and probed.",
    "Nothing, if it is the right part; --submodule names another.",
)
ENCODER_READ = FindingSpec(
    "encoder-read",
    "note",
    "The encoder was found in the network by name, and what it returns was told to be means and log variances.",
    "Check that it is so; `beta` and `posterior` warn where the numbers speak against it.",
)
UNREAD_OBJECTS = FindingSpec(
    "unread-objects",
    "warning",
    "One entry was read alone; other parts of the file would import foreign code and were not read.",
    "Nothing, if the entry is the right one.",
)
UNUSED_TENSORS = FindingSpec(
    "unused-tensors",
    "note",
    "Some tensors of the file have no place in the architecture.",
    "Usually an encoder, an optimiser or a discriminator; if a decoder layer is among them, the blueprint "
    "misses it.",
)
UNUSED_LAYERS = FindingSpec(
    "unused-layers",
    "note",
    "The file is a program that holds its own layers; those of the blueprint beside it were not used.",
    "Nothing, if the blueprint's latents and likelihood are right; else take its [decoder] out.",
)
DRAFT_BLUEPRINT = FindingSpec(
    "draft-blueprint",
    "warning",
    "The architecture is a guess from names and shapes: activations, strides and reshapes are not "
    "recorded in weights.",
    "Write the draft with `vaeprobe inspect MODEL --draft-blueprint OUT`, check every marked line, and "
    "pass it with --blueprint.",
)
ASSUMED = FindingSpec(
    "assumed",
    "note",
    "The file is of a known family, and something about its network is not in the tensors: the groups of a "
    "normalisation, the size of a map of latents.",
    "Compare it with the model's config; --latent-size chooses the size of the map.",
)
IMPLIED_BETA = FindingSpec(
    "implied-beta",
    "note",
    "What the loss of this family of models implies for beta, by its published code and settings, beside the reading.",
    "A reading far from it was left by other settings than those, by annealing or early stopping, or by a known "
    "mistake that is named.",
)
FAMILY_WARNING = FindingSpec(
    "family-warning",
    "note",
    "Something known of this family of models that bears on what the numbers mean.",
    "Read it before comparing this model with one of another family.",
)
FOREIGN_CLASSES = FindingSpec(
    "foreign-classes",
    "warning",
    "A pickled module is built of classes that vaeprobe does not know and will not run.",
    "Take a part made of torch's own layers with --submodule, or describe the whole with --blueprint or "
    "--arch.",
)
RESHAPED_LATENTS = FindingSpec(
    "reshaped-latents",
    "note",
    "The network takes latents with extra axes (such as d x 1 x 1); vaeprobe adds them.",
    "Nothing.",
)
LATENTS_INFERRED = FindingSpec(
    "latents-inferred",
    "note",
    "The format does not record the number of latents; it was found by trying.",
    "Say it with --latent-dim.",
)
LATENTS_OPEN = FindingSpec(
    "latents-open",
    "warning",
    "The file does not record what latents the program takes, and trying did not tell.",
    "Say their number with --latent-dim, or the size of their maps with --latent-size.",
)
FIXED_BATCH = FindingSpec(
    "fixed-batch",
    "note",
    "The program takes batches of one fixed size; latents are padded to it.",
    "Export it with a dynamic batch axis for speed.",
)
ROUNDED = FindingSpec(
    "rounded",
    "note",
    "Numbers of a wider type were rounded to the precision of the computation.",
    "Nothing, or --dtype float64.",
)
TRAILING_BYTES = FindingSpec(
    "trailing-bytes",
    "warning",
    "The file has bytes after its content. They were ignored.",
    "Find out who appended them: nothing should.",
)
WIDE_MATRIX = FindingSpec(
    "wide-matrix",
    "warning",
    "A matrix has fewer outputs than latents; it may be stored transposed.",
    "A decoder is outputs x latents. scikit-learn's components_ are the transpose of that.",
)
CODE_WAS_RUN = FindingSpec(
    "code-was-run",
    "warning",
    "The file was unpickled on request, so its own code ran.",
    "Convert it to safetensors once (`vaeprobe convert`), and never need that again.",
)
ENCODER_LEFT_OUT = FindingSpec(
    "encoder-left-out",
    "warning",
    "A conversion kept the decoder and not its encoder.",
    "Write to .safetensors to keep both.",
)
FACTORISE_UNDEFINED = FindingSpec(
    "factorise-undefined",
    "warning",
    "Factorisation is undefined here: fewer than two active latents, or rank-deficient columns.",
    "See the reason given; collapse is the usual cause.",
)
UNDECIDED = FindingSpec(
    "undecided",
    "warning",
    "The samples allowed do not decide some tests, and the verdict stays undetermined. Zero takes some 3,600 "
    "latents to establish: a column that doubles at latents too rare for fewer to show would count.",
    "Raise --max-samples, or choose a margin that matters to you with --margin.",
)
NOT_ONE_TO_ONE = FindingSpec(
    "not-one-to-one",
    "warning",
    "Other latents have the same output: the decoder is not one-to-one (injective), and the density of an output is "
    "a sum over all its latents, its sheets. What is said from one Jacobian holds on each sheet by itself.",
    "Read `factorise.true_gap`, which sums over sheets. Periodic latents and even functions fold the latent space; a "
    "prior that covers one period, or one side, would not.",
)
DISCONTINUOUS = FindingSpec(
    "discontinuous",
    "warning",
    "The decoder's output jumps between neighbouring latents. Derivatives do not see jumps: everything that "
    "rests on the Jacobian holds apart from them.",
    "Find the rounding, comparison or hard choice in the network; a decoder without it has a density.",
)
NOT_SMOOTH = FindingSpec(
    "not-smooth",
    "note",
    "The network is piecewise linear (ReLU): derivatives of J are zero almost everywhere and say nothing "
    "of its kinks.",
    "Rely on the frozen-coordinate differences of C2, which work for every network.",
)
TIED_SEAMS = FindingSpec(
    "tied-seams",
    "note",
    "Some seams have equal singular values and are not identified one by one.",
    "They are tested as one block.",
)
TRACE_SCHEME = FindingSpec(
    "trace-scheme",
    "note",
    "Which scheme traced the seams, and to what tolerance.",
    "Nothing; --scheme and --tolerance choose.",
)
TRACE_COMPONENTS = FindingSpec(
    "trace-components",
    "note",
    "Components of smaller singular values were not traced.",
    "Choose them with --components.",
)
TRACE_NO_PICTURE = FindingSpec(
    "trace-no-picture",
    "warning",
    "No picture was written, since no seam has any length.",
    "Start elsewhere, or see why the decoder collapses there.",
)
TRACE_OUTSIDE = FindingSpec(
    "trace-outside",
    "note",
    "Some starting points lie outside the radius in which seams are followed.",
    "Raise --radius or leave it out.",
)
TRACE_NOT_FINITE = FindingSpec(
    "trace-not-finite",
    "warning",
    "Some seams stop where the decoder is not finite.",
    "Lower --radius, or --dtype float64.",
)
TRACE_STEPS = FindingSpec(
    "trace-steps",
    "warning",
    "Some seams end at the step limit.",
    "Raise --tolerance, or use --scheme rough.",
)
TRACE_SLIDING = FindingSpec(
    "trace-sliding",
    "note",
    "Some seams stop at a kink into which the directions on both sides of it run: no seam leaves it.",
    "--scheme rough steps along the kink; the seam before it is sound.",
)
TRACE_NOT_REPRODUCIBLE = FindingSpec(
    "trace-not-reproducible",
    "warning",
    "Seams traced back to their start miss it by more than 0.05: single paths depend on the tolerance.",
    "Read the means over seams. A smaller --tolerance or a shorter --length brings paths back; on a "
    "network with many kinks the directions change by jumps.",
)
TRACE_COLLAPSE = FindingSpec(
    "trace-collapse",
    "note",
    "Some seams stop where the output no longer changes along them.",
    "Nothing: there is no density to follow there.",
)
BETA_UNKNOWN = FindingSpec(
    "beta-unknown",
    "warning",
    "Beta could not be estimated from the encoder, and 1 was assumed.",
    "Give the trained value with --beta.",
)
LARGE_RESIDUAL = FindingSpec(
    "large-residual",
    "warning",
    "The residual term of Eq. 7, which the Gauss-Newton form drops, is a large part of the curvature.",
    "Read the Stein columns; ask whether the likelihood is the one the model was trained with.",
)
OTHER_VARIANCE = FindingSpec(
    "other-variance",
    "note",
    "At the variance given, the encoder asks for another beta; by Theorem 3 only their product is "
    "identified.",
    "Give the trained --sigma2, or read the product.",
)
COLLAPSED = FindingSpec(
    "collapsed",
    "warning",
    "Every posterior equals the prior.",
    "A smaller beta or sigma^2, or a KL warm-up.",
)
COLLAPSED_LATENTS = FindingSpec(
    "collapsed-latents",
    "note",
    "The posteriors of some latents say nothing that the prior does not: a KL under 0.01 nats, or a variance that "
    "cannot be told from 1. They carry no weight in the estimate.",
    "Nothing; the table shows which.",
)
NOT_AT_OPTIMUM = FindingSpec(
    "not-at-optimum",
    "warning",
    "The active latents ask for different betas: no single beta explains this encoder, so it is not at "
    "the optimum of a beta-ELBO.",
    "Early stopping, capacity annealing, a total-correlation term or another likelihood do this. Treat "
    "the estimate as an effective value.",
)
LATENTS_APART = FindingSpec(
    "latents-apart",
    "note",
    "The active latents' own betas lie apart by more than their errors, though by little.",
    "The estimate is an average of them; the table shows each. Longer training brings them together, a "
    "total-correlation or capacity term keeps them apart.",
)
MEANS_DISAGREE = FindingSpec(
    "means-disagree",
    "warning",
    "At the optimum of a beta-ELBO the posterior means imply the same beta as the variances. Here they do not.",
    "Use rows that the encoder was trained on: on others its means err. If these are, the variances are not those "
    "that this objective asks for (another stage of training, a scale, a clamp), or the loss has another term.",
)
CODES_OFF_PRIOR = FindingSpec(
    "codes-off-prior",
    "note",
    "At every optimum whose decoder can rescale a latent, codes have mean square 1 over the data, as the prior has. Here "
    "those of a latent have less than half of it, or more than twice, for certain.",
    "Latents drawn from the prior are then not where the codes are: probe at `--latents posterior` too. Longer training brings "
    "it to 1; rows that the encoder was not trained on, weight decay and another prior leave it elsewhere.",
)
ROWS_DISAGREE = FindingSpec(
    "rows-disagree",
    "warning",
    "The log-variances follow something that the likelihood does not ask for, as noise from row to row does; "
    "that biases beta upwards by about the share given.",
    "Use rows that the encoder was trained on, and an encoder in eval mode.",
)
OTHER_LAYOUT = FindingSpec(
    "other-layout",
    "warning",
    "Read another way (log standard deviations for log-variances, interleaved for chunked, ...) the encoder's "
    "outputs agree with the likelihood far better than as they were read.",
    "Look the layout up in the training code, and say it in the blueprint's [encoder]. No number of this result "
    "can be trusted before.",
)
NO_CURVATURE = FindingSpec(
    "no-curvature",
    "warning",
    "The likelihood's curvature is not positive for certain where the encoder puts its posteriors. Variances below the "
    "prior's ask for some: where the mean curvature is not positive there is no beta to recover.",
    "Check that encoder, decoder and data belong together.",
)
OTHER_BETA = FindingSpec(
    "other-beta",
    "warning",
    "The nominal beta lies outside the interval of the recovered one.",
    "Trust the recovered one for what the encoder does; see not-at-optimum for causes.",
)
NO_BETTER_THAN_CHANCE = FindingSpec(
    "no-better-than-chance",
    "warning",
    "Reconstructions are no better than the mean image: the encoder's layout, the data or their scale are "
    "wrong.",
    "Check the blueprint's encoder output (interleaved, chunked), and the scale of the data.",
)
SCALED = FindingSpec(
    "scaled",
    "note",
    "Values were scaled when they were read (8-bit images by 1/255).",
    "--scale none keeps them.",
)
LATENT_DIM = FindingSpec(
    "latent-dim",
    "note",
    "How the number of latents was chosen.",
    "Give it with --latent-dim.",
)
FLATTENED = FindingSpec(
    "flattened",
    "note",
    "Rows with several axes (images) were flattened to columns.",
    "Nothing; the shape is kept in the saved model.",
)
DROPPED_ROWS = FindingSpec(
    "dropped-rows",
    "warning",
    "Rows with NaN or infinite values were left out, as asked, or have no value at all.",
    "Find out where they come from; `--missing em` uses rows that are incomplete.",
)
MISSING_VALUES = FindingSpec(
    "missing-values",
    "note",
    "Some values are missing and were treated as unknown by EM.",
    "Nothing, if they are missing at random.",
)
COLLAPSE = FindingSpec(
    "collapse",
    "warning",
    "Some latents collapse: their eigenvalue does not exceed beta sigma^2.",
    "Fewer latents, or a smaller beta or sigma^2.",
)
TIED_EIGENVALUES = FindingSpec(
    "tied-eigenvalues",
    "note",
    "Eigenvalues are equal within their error, so only the block of their directions is identified.",
    "Do not interpret these columns one by one; more rows may separate them.",
)
UNSTEADY_COLUMNS = FindingSpec(
    "unsteady-columns",
    "note",
    "Resampled rows turn these columns far, so they do not count as identified.",
    "Do not interpret these columns one by one; look for rows far from all others, or take more rows.",
)
RANDOMIZED = FindingSpec(
    "randomized",
    "note",
    "Eigenpairs were found by a randomized method, to the error stated.",
    "--solver exact, where time and memory allow.",
)
FLOAT32 = FindingSpec(
    "float32",
    "note",
    "Moments were computed in float32.",
    "Pass float64 data where the last digits matter.",
)
NOTHING_CHECKED = FindingSpec(
    "nothing-checked",
    "warning",
    "No rule applies to a model, and a run that checks nothing never passes.",
    "Add rules to the policy, or take the model out of the list.",
)
SAME_ARTIFACT = FindingSpec(
    "same-artifact",
    "note",
    "The model is byte for byte the baseline's.",
    "Nothing.",
)
WAIVER_EXPIRED = FindingSpec(
    "waiver-expired",
    "warning",
    "A waiver is past its date, and the rule counts again.",
    "Fix the model, or renew the waiver with a reason.",
)
APPROXIMATE_P_VALUE = FindingSpec(
    "approximate-p-value",
    "note",
    "The rotation test is exact when the latents' distribution does not change under rotations, as N(0, "
    "I) does not. Latents from posteriors, a grid or a file have no such symmetry.",
    "Read the p-value as a description, or take --latents prior.",
)
BORDERLINE_LATENTS = FindingSpec(
    "borderline-latents",
    "note",
    "Mean column norms of these latents lie within a factor 1.25 of the line between active and inactive, "
    "so that another sample may count them on the other side, and every contrast moves with it.",
    "Look at the bars and put --active-threshold in a gap; compare models at the same set of latents.",
)
TIME_LIMIT = FindingSpec(
    "time-limit",
    "warning",
    "The time given did not last for all that was asked for: fewer samples were measured, each of them exactly, so that "
    "intervals are wider; seams of a single start end where the time did. How many depends on the machine and its load, and so do the last digits of what is said.",
    "More --time, or none: without it nothing depends on the clock.",
)
NOT_SORTED = FindingSpec(
    "not-sorted",
    "warning",
    "No model has a number in the column that they were to be sorted by, or the numbers are those of different parts of the "
    "latents: the models stand in the order in which they were given.",
    "Sort by a column that the table has; some need --data, --factors or three models.",
)
PART_OF_JACOBIAN = FindingSpec(
    "part-of-jacobian",
    "note",
    "There are too many columns for all of them: the channels at one random site per sample, or some random latents, "
    "were measured, exactly. Rotating that part alone (the channels alike at every site) leaves the prior as it is, so "
    "the p-value holds. Of some random latents the mean |cos| stands for all, with an interval that holds which were drawn; "
    "all other numbers are the part's own, and so is the verdict: a limit that others of the latents may break is undecided. "
    "Channels of other sites may be more alike than those of one, and a few columns that are alike among thousands are hardly "
    "ever drawn. Of pairs outside of the part speak the energy off the diagonal, of all columns, and "
    "the cosines with the next site, where latents have space.",
    "--part all measures every column, and --part channels or some takes as many samples as --samples says.",
)
PART_OF_LATENTS = FindingSpec(
    "part-of-latents",
    "note",
    "There are too many latents to measure along all of them: one part, the same throughout, was measured, the channels at "
    "one random site or some random latents. The others are drawn from their prior and given, so that the statements are "
    "about the density along the part. What fails there (columns that are not orthogonal, a length that other latents "
    "change) fails for the whole decoder; what holds there is not said of other latents, and limits on it are undecided.",
    "--part all measures along every latent, at the cost of as many columns; another --seed draws another part.",
)
DIFFERENT_PARTS = FindingSpec(
    "different-parts",
    "warning",
    "Models were measured along different parts of their latents: some of them at random, the channels of a site, or all. "
    "Contrasts, counts and largest cosines of a part are least values of those of all, and an alignment is that of the axes "
    "that were measured alone. Such numbers are shown with what they are of; they rank no model, and have no difference.",
    "Compare models of as many latents, or measure each by itself with --part all, which takes time and memory.",
)
LOW_RANK = FindingSpec(
    "low-rank",
    "note",
    "The output depends on fewer directions of latent space than it has: a narrow layer, or latents that act through the same "
    "numbers. The prior along those directions is N(0, I) too, so that the density of the outputs is that of the decoder of "
    "them alone, and is judged there. Which axes those directions get is a choice (eigenvectors of the mean metric); the "
    "given axes cannot all be seams.",
    "--dtype float64 tells a direction that hardly moves the output from one that does not move it.",
)
LATENTS_ON_A_MAP = FindingSpec(
    "latents-on-a-map",
    "note",
    "Latents lie on a map, and random rotations of all of them mix its sites. Columns of sites that are far apart hardly overlap "
    "whatever basis the channels have, so that axes come nearer to orthogonal than such rotations for that alone. Whether the "
    "channels' axes are special is asked by rotations of the channels alone, the same at every site.",
    "--part channels measures the channels at a random site of each sample, against rotations of these alone.",
)
FEWER_LATENTS = FindingSpec(
    "fewer-latents",
    "note",
    "A column of a large decoder is dear, and there are over a hundred of them at each latent: a default run takes as many "
    "latents as about a minute allows, 32 at least, and the intervals are those of so many.",
    "--part all takes as many as --samples says; a policy's samples are always taken.",
)
FEW_LATENTS = FindingSpec(
    "few-latents",
    "note",
    "The rotation R* has d (d - 1) / 2 angles, and there are few latents to fit them on: R* follows the "
    "sample, and the contrast on held-out latents does not fall as far as it could.",
    "Draw more latents (--samples).",
)
ILL_CONDITIONED = FindingSpec(
    "ill-conditioned",
    "warning",
    "The columns, scaled to unit length, are so nearly dependent that the rounding of the network's own "
    "precision shows in contrasts and singular vectors.",
    "Run in double precision: --dtype float64.",
)
INACTIVE_LATENTS = FindingSpec(
    "inactive-latents",
    "note",
    "These latents hardly move the output: their Jacobian columns are under 5 % of the longest, on "
    "average. The direction of such a column means nothing, so it is left out of cosines and contrasts.",
    "Many of them mean posterior collapse. --active-threshold moves the line.",
)
NOT_CONVERGED = FindingSpec(
    "not-converged",
    "note",
    "The search for the best rotation was stopped while it still improved.",
    "Its contrast is an upper bound. Another --restarts or --seed may end earlier.",
)
NOT_FINITE = FindingSpec(
    "not-finite",
    "warning",
    "The Jacobian overflows or is NaN at some latents, which are left out of every number.",
    "Use --dtype float64; a decoder that overflows at prior samples often has an exponential output.",
)
RANK_DEFICIENT = FindingSpec(
    "rank-deficient",
    "warning",
    "At some latents a column of the Jacobian is zero or depends on others, so that log det G is -inf and "
    "the ima contrast infinite. ReLU and saturated outputs do that. The contrast is averaged over the "
    "rest.",
    "Read the mean-field gap, which is finite everywhere, beside it.",
)
ROUNDING = FindingSpec(
    "rounding",
    "warning",
    "Forward mode, and reverse mode in float64 where the network can be had in it, give other numbers for these columns "
    "of the Jacobian, by over a tenth of their length: larger terms cancel inside the network, and what is left is the "
    "rounding of the precision that it computes in. Angles between such columns, and what follows from them, mean nothing, "
    "however small their p-values: no verdict is given.",
    "--dtype float64 knows nine digits more. Where columns are rounding in float64 too, the output does not depend on these "
    "latents as far as any number can tell.",
)
SATURATED = FindingSpec(
    "saturated",
    "note",
    "Some outputs are exactly 0 or 1 in the decoder's precision. A Bernoulli has no variance there, so "
    "they carry no weight in the likelihood's metric.",
    "Describe the last activation in the blueprint: the natural parameter does not saturate.",
)
CLASS_AXIS = FindingSpec(
    "class-axis",
    "warning",
    "The outputs are logits with several axes, and which of them runs over the classes was not said: the first was taken.",
    "--class-axis names it (class_axis in Python and in a policy): -1 for (positions, classes), as most decoders of sequences have it.",
)
TIED_SINGULAR_VALUES = FindingSpec(
    "tied-singular-values",
    "note",
    "Singular values of J coincide at some latents. Singular vectors are arbitrary within such a block, "
    "and are rotated to the nearest axes before they are compared with them.",
    "Use numbers that do without V: cosines, contrast, alignment.",
)

SINGULAR_VALUES = FindingSpec(
    "singular-values",
    "note",
    "The covariance is exact to some 1e-16 of its largest eigenvalue only, and a small one was needed: the "
    "eigenvalues were taken from singular values of the centred rows, which took another pass.",
    "Nothing. Columns in units of very different sizes may want scaling: PPCA's noise is the same for all.",
)


FINDINGS: dict[str, FindingSpec] = {
    spec.code: spec for spec in dict(vars()).values() if isinstance(spec, FindingSpec)
}

"""Blueprints: the architecture of a decoder (and its encoder) as data.

A state dict records weights and their shapes, and nothing else: no activation, stride, padding or
reshape.  A blueprint is the small TOML file that says the rest.  It runs no code, so it is safe to accept
from strangers and the form to use in CI.  Sizes are never written where a tensor tells them.

A decoder of linear layers, with nothing left out:

```toml
latents = 20                     # d; may be left out where the first layer tells it
likelihood = "bernoulli"         # gaussian, bernoulli, poisson or categorical; leave out where it is not known
# dispersion = "theta"           # of a negative binomial: the tensor of its inverse dispersions, one an output
parameter = "mean"               # what the output is: "mean" (the default), or "natural" for logits, log-rates

[decoder]
layers = [
    { linear = "fc3" }, "relu",  # uses the tensors `fc3.weight` and `fc3.bias`
    { linear = "fc4" }, "sigmoid",
]
```

A convolutional VAE with its encoder; the last encoder layer gives 20 numbers, (mean, log variance) of latent 1,
then of latent 2, ...:

```toml
latents = 10
likelihood = "bernoulli"

[decoder]
prefix = "decoder."              # put before every name
layers = [
    { linear = "lin1" }, "relu",
    { linear = "lin2" }, "relu",
    { reshape = [32, 4, 4] },
    { conv_transpose = "convT1", stride = 2, padding = 1 }, "relu",
    { conv_transpose = "convT2", stride = 2, padding = 1 }, "sigmoid",
]

[encoder]
prefix = "encoder."
input = [1, 16, 16]
layers = [
    { conv = "conv1", stride = 2, padding = 1 }, "relu",
    { conv = "conv2", stride = 2, padding = 1 }, "relu",
    "flatten",
    { linear = "mu_logvar" },
]
output = "interleaved"           # or "chunked": all means, then all log variances
```

One with batch normalisation, residual blocks, two encoder heads, and a prior of ten normal latents followed by a one-hot code
of four classes:

```toml
latents = [{ normal = 10 }, { onehot = 4 }]

[decoder]
layers = [
    { linear = "dec.0" }, { reshape = [32, 7, 7] },
    { batch_norm = "dec.1" }, { leaky_relu = 0.2 },
    { residual = [{ conv = "0", padding = 1 }, "relu", { conv = "2", padding = 1 }], prefix = "dec.3.block." },
    { upsample = 2, mode = "nearest" },
    { residual = [{ conv = "a", padding = 1 }], skip = [{ conv = "b" }], prefix = "dec.4." }, "silu",
    { conv = "dec.5", padding = 1 }, "tanh",
]

[encoder]
input = [784]
layers = [{ linear = "enc.0" }, "relu"]
mean = [{ linear = "enc.mean" }]
log_variance = [{ linear = "enc.log_variance" }]     # or log_sd, variance, sd
```

Layers with weights, named by the common part of their tensors' names: `linear`, `conv`, `conv_transpose` (1, 2 or 3
dimensions, as the weight has), `batch_norm`, `instance_norm`, `group_norm`, `layer_norm`, `prelu`.  Weight and spectral
normalisation are folded in.  Without weights: `relu`, `relu6`, `leaky_relu`, `elu`, `celu`, `selu`, `gelu`, `silu`, `mish`,
`hardswish`, `softsign`, `tanh`, `sigmoid`, `softplus`, `exp`, `sine`, `softmax`, `log_softmax`, `hardtanh`, `identity`, `reshape`,
`flatten`, `upsample`, `pixel_shuffle`, `avg_pool`, `max_pool`, `scale`, `shift`, `clamp`, `slice`, `dropout` (which does nothing once training is over).  `residual` adds its input, or
what `skip` makes of it, to what its layers return; `parallel` gives one input to several lists of layers.

More layers, for other networks than these: `rms_norm`, `channel_norm` (over the channels at each place), `snake`, `attention` (self-attention
over places, `heads`), `gru` and `lstm` (over the first axis), `log1p`, `l2_normalise`, `permute`, `repeat`, `repeat_channels`, `pad`,
`resize`.  Every norm but `batch_norm` may stand without tensors: `{ instance_norm = true }`.

Settings stand beside a layer's name, `{ conv = "a", stride = 2 }`, `{ softmax = true, axis = -1 }`; a layer with one that matters most
takes it as its value, `{ elu = 0.5 }`.  Those that are left out are what torch takes:

- `conv`: `stride`, `padding` (a number, one per axis, "same"), `dilation`, `groups`, `padding_mode` (zeros, reflect, replicate,
  circular); `conv_transpose`: `stride`, `padding`, `output_padding`, `dilation`, `groups`;
- norms: `eps` (1e-5); `group_norm`: `groups`; `layer_norm` without tensors: `axes`, how many of the last it runs over (1);
- `leaky_relu`: `slope` (0.01); `elu`, `celu`: `alpha` (1); `gelu`: `approximate` ("none" or "tanh"); `softplus`: `beta` (1) and
  `threshold` (20); `hardtanh`: `min` and `max` (-1, 1); `sine`: `frequency` (1); `softmax`, `log_softmax`: `axis`, which counts from 1, the channels
  (its default), or from -1, the last; `snake`: `log` (true: the file holds logarithms);
- `upsample`: `factor`, `resize`: `size`, both with `mode` (nearest, nearest-exact, linear, bilinear, bicubic, trilinear) and
  `align_corners` (false); `pixel_shuffle`: `factor`; `pad`: `amount`, `mode` (as `padding_mode`);
- `avg_pool`, `max_pool`: `kernel`, `stride` (0: the kernel's), `padding`, `ceil_mode` (false); `avg_pool`: `count_include_pad` (true);
- `reshape`: `shape`, `permute`: `axes`, `slice`, `clamp`: `range`, `scale`: `factor`, `shift`: `amount`, `repeat`, `repeat_channels`:
  `times`, `dropout`: `rate`; `attention`: `heads` (1); `gru`, `lstm`: `last` (false: every step is returned); `parallel`: `join`.

A decoder that takes more than its latents says what it is held at, and where that enters: `concat` after the channels, `add`, `multiply`.

```toml
latents = 2

[condition.label]
onehot = 10                      # or embedding = "NAME" (of a table, a row a class), or number = 1.0
value = 3                        # the class; 0 where nothing is said

[decoder]
layers = [{ concat = "label" }, { linear = "fc1" }, "relu", { linear = "fc2" }, "sigmoid"]
```

Layers side by side: `{ parallel = [[...], [...]], join = "concat" }` joins what they make of one input (`concat` along channels,
`stack`, `add` or `multiply`).  With names, at the end of a decoder, they are outputs of their own, of which the first is probed unless
`--output-name` says another:

```toml
[decoder]
layers = [
    { linear = "fc1" }, "relu",
    { parallel = { mean = [{ linear = "mean" }, "sigmoid"], log_variance = [{ linear = "spread" }] } },
]
```

A blueprint without layers says what a self-contained program (`.pt2`, TorchScript) does not: latents, likelihood, parameter.
"""

from vaeprobe.checkpoints.blueprint.condition import Condition
from vaeprobe.checkpoints.blueprint.kinds import KINDS
from vaeprobe.checkpoints.blueprint.layer import EncoderPlan, LatentGroups, Layer
from vaeprobe.checkpoints.blueprint.plan import METADATA_KEY, Blueprint
from vaeprobe.errors import BlueprintError

__all__ = [
    "KINDS",
    "METADATA_KEY",
    "Blueprint",
    "BlueprintError",
    "Condition",
    "EncoderPlan",
    "LatentGroups",
    "Layer",
]

"""Modules that `torch.nn` does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """x -> skip(x) + body(x)."""

    def __init__(self, body: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.skip(x) + self.body(x)
        return out


class Parallel(nn.Module):
    """x -> what each branch makes of it: joined along the channels, stacked before them, added, multiplied, or by name.

    Args:
        branches: by name.
        join: "concat", "stack", "add", "multiply", or "" for a dict of outputs.
    """

    def __init__(self, branches: Mapping[str, nn.Module], join: str) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.join = join

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        found: dict[str, Tensor] = {name: branch(x) for name, branch in self.branches.items()}
        match self.join:
            case "":
                return found
            case "concat":
                return torch.cat(list(found.values()), 1)
            case "stack":
                return torch.stack(list(found.values()), 1)
        first, *rest = found.values()
        for other in rest:
            first = first + other if self.join == "add" else first * other
        return first


class Exp(nn.Module):
    """x -> e^x."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Sine(nn.Module):
    """x -> sin(frequency x)."""

    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


class Log1p(nn.Module):
    """x -> log(1 + x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log1p()


class Scale(nn.Module):
    """x -> factor x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Shift(nn.Module):
    """x -> x + amount."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


class Clamp(nn.Module):
    """x -> min(max(x, low), high)."""

    def __init__(self, range: list[float]) -> None:
        super().__init__()
        self.range = range

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(*self.range)


class Slice(nn.Module):
    """x -> x[:, first:stop]."""

    def __init__(self, range: list[int]) -> None:
        super().__init__()
        self.range = range

    def forward(self, x: Tensor) -> Tensor:
        first, stop = self.range
        return x[:, first:stop]


class L2Normalise(nn.Module):
    """x -> x / |x|, rows of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1).reshape(x.shape)


class Permute(nn.Module):
    """Put the axes after the batch in another order."""

    def __init__(self, axes: list[int]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *self.axes)


class Repeat(nn.Module):
    """(n, ...) -> (n, times, ...): the same at each step."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x[:, None].expand(-1, self.times, *[-1] * (x.ndim - 1))


class RepeatChannels(nn.Module):
    """(n, c, ...) -> (n, times c, ...): each channel repeated in its place."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.times, 1)


class Pad(nn.Module):
    """Put numbers around the last axes: [left, right, top, bottom, ...]; on one side alone that is causal padding."""

    def __init__(self, amount: list[int], mode: str) -> None:
        super().__init__()
        self.amount = amount
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.amount, mode="constant" if self.mode == "zeros" else self.mode)


def _along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *[1] * (x.ndim - 2))


class ChannelRMSNorm(nn.Module):
    """x -> x / sqrt(mean over channels of x^2 + eps), times a weight and plus a bias for each channel, if there are any.

    Source: Zhang and Sennrich (2019), arXiv:1910.07467.
    """

    def __init__(self, channels: int | None, eps: float, *, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(channels, device="meta")) if channels else None
        self.bias = nn.Parameter(torch.empty(channels, device="meta")) if channels and bias else None

    def centred(self, x: Tensor) -> Tensor:
        """Return what is brought to length one."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.centred(x)
        x = x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt()
        if self.weight is not None:
            x = x * _along_channels(self.weight, x)
        return x if self.bias is None else x + _along_channels(self.bias, x)


class ChannelNorm(ChannelRMSNorm):
    """Layer normalisation over the channels at each place."""

    def centred(self, x: Tensor) -> Tensor:
        """Return what is brought to length one."""
        return x - x.mean(1, keepdim=True)


class Snake(nn.Module):
    """x -> x + sin^2(alpha x) / beta, alpha and beta a channel; `log`: the file holds their logarithms.

    Source: Ziyin et al. (2020), arXiv:2006.08195; with its beta as in BigVGAN.
    """

    def __init__(self, channels: int, log: bool, *, beta: bool = True) -> None:
        super().__init__()
        self.log = log
        self.alpha = nn.Parameter(torch.empty(channels, device="meta"))
        self.beta = nn.Parameter(torch.empty(channels, device="meta")) if beta else None

    def forward(self, x: Tensor) -> Tensor:
        alpha = _along_channels(self.alpha, x)
        beta = alpha if self.beta is None else _along_channels(self.beta, x)
        if self.log:
            alpha, beta = alpha.exp(), beta.exp()
        return x + torch.sin(alpha * x).square() / (beta + 1e-9)


class SelfAttention(nn.Module):
    """softmax(Q K' / sqrt(c / heads)) V between places, then a linear map; the residual sum is not part of it.

    Takes (n, c, *places).  Written out, so that both modes of differentiation work at any batch size.

    Source: Vaswani et al. (2017), arXiv:1706.03762.
    """

    def __init__(self, q: nn.Linear, k: nn.Linear, v: nn.Linear, out: nn.Linear, heads: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = q, k, v, out
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).mT  # (n, places, c)
        q, k, v = (
            part(places).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q, self.to_k, self.to_v)
        )
        weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
        out: Tensor = self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return out.mT.reshape(len(x), out.shape[2], *x.shape[2:])


class Recurrent(nn.Module):
    """A GRU or LSTM over the first axis after the batch, (n, steps, a) -> (n, steps, b), from a state of zeros.

    Written out: torch's own kernels have no forward-mode derivative.  Parameters are named as in `torch.nn`.

    Args:
        cell: "gru" or "lstm".
        state: its tensors by torch's names; layers and directions are told by them.
        last: return the last step alone, (n, b).
    """

    def __init__(self, cell: str, state: Mapping[str, Tensor], last: bool) -> None:
        super().__init__()
        self.cell = cell
        self.last = last
        for name, tensor in state.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        for level in range(len(self._parameters)):
            if f"weight_ih_l{level}" not in self._parameters:
                break
            forth = self._run(x, f"l{level}")
            if f"weight_ih_l{level}_reverse" in self._parameters:
                back = self._run(x.flip(1), f"l{level}_reverse").flip(1)
                forth = torch.cat([forth, back], 2)
            x = forth
        return x[:, -1] if self.last else x

    def _run(self, x: Tensor, name: str) -> Tensor:
        W, U = self._parameters[f"weight_ih_{name}"], self._parameters[f"weight_hh_{name}"]
        b, c = self._parameters.get(f"bias_ih_{name}"), self._parameters.get(f"bias_hh_{name}")
        assert W is not None
        assert U is not None
        inputs = F.linear(x, W, b)
        h = x.new_zeros(len(x), U.shape[1])
        memory, steps = h, []
        for step in inputs.unbind(1):
            carried = F.linear(h, U, c)
            if self.cell == "gru":
                (r, z, n), (hr, hz, hn) = step.chunk(3, 1), carried.chunk(3, 1)
                update = torch.sigmoid(z + hz)
                h = (1 - update) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + update * h
            else:
                i, f, g, o = (step + carried).chunk(4, 1)
                memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(memory)
            steps.append(h)
        return torch.stack(steps, 1)


class Held(nn.Module):
    """Brings in what the decoder is held at: `concat` after the channels, `add`, or `multiply`.

    Args:
        how: which of the three.
        name: of the condition.
        table: a row a class, shape (classes, e), or a number, shape (1, 1).
        row: the class.
    """

    def __init__(self, how: str, name: str, table: Tensor, row: int) -> None:
        super().__init__()
        self.how = how
        self.name = name
        self.row = row
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        table: Tensor = self.table  # type: ignore[assignment]
        value = table[self.row].reshape(1, -1, *[1] * (x.ndim - 2))
        if self.how == "concat":
            return torch.cat([x, value.expand(len(x), -1, *x.shape[2:])], 1)
        return x + value if self.how == "add" else x * value


class GaussianEncoder(nn.Module):
    """x -> (mean, log variance) of a diagonal Gaussian posterior, each (n, latent).

    Args:
        trunk: what comes before the two.
        output: "interleaved" or "chunked" where the trunk gives 2d numbers, "heads".
        second: what the second output is (`EncoderPlan.second`).
        mean, spread: the heads.
        limits: what the second output is clamped to.
    """

    def __init__(
        self,
        trunk: nn.Module,
        output: Literal["interleaved", "chunked", "heads"],
        second: str,
        mean: nn.Module,
        spread: nn.Module,
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.output: Literal["interleaved", "chunked", "heads"] = output
        self.second = second
        self.mean = mean
        self.spread = spread
        self.limits = limits

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(x)
        if self.output == "heads":
            mean, second = self.mean(h).flatten(1), self.spread(h).flatten(1)
        elif self.output == "interleaved":
            mean, second = h.flatten(1).unflatten(1, (-1, 2)).unbind(2)
        else:
            mean, second = h.flatten(1).chunk(2, dim=1)
        if self.limits is not None:
            second = second.clamp(*self.limits)
        if self.second.startswith("softplus"):
            second = F.softplus(second)
        match self.second.removeprefix("softplus_"):
            case "log_sd":
                second = 2 * second
            case "variance":
                second = second.log()
            case "sd":
                second = 2 * second.log()
        return mean, second

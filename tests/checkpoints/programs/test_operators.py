"""The operators of programs: those that decoders of many kinds use, the same numbers and derivatives as torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vaeprobe.checkpoints.programs import exported as exported_program
from vaeprobe.checkpoints.programs import operators, torchscript
from vaeprobe.decoder import Decoder
from vaeprobe.engine.verbs import jacobian
from vaeprobe.files.zips import open_archive

from programs import exported, scripted


class Pieces(nn.Module):
    """Operators of transformers, graph, flow, Kolmogorov-Arnold and audio decoders, each in one branch of a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.Linear(3, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3, padding="same"))
        self.cell = nn.LSTMCell(8, 8)
        self.gru = nn.GRUCell(8, 8)
        self.register_buffer("edges", torch.tensor([0, 1, 1, 3]))
        self.register_buffer("knots", torch.linspace(-2, 2, 9))

    def forward(self, z: Tensor) -> Tensor:
        h = self.into(z)
        square = h.view(-1, 2, 4).mT @ h.view(-1, 2, 4) + 9 * torch.eye(4)
        masked = square.masked_fill(torch.ones(4, 4).triu(1).bool(), float("-inf")).softmax(-1)
        near = torch.cdist(h[:, :, None], self.knots[None, :, None].expand(h.shape[0], -1, -1))
        place = torch.searchsorted(self.knots, h.detach().contiguous()).clamp(1, 8)
        spline = (h - self.knots[place - 1]) * self.knots[place]
        graph = torch.zeros_like(h[:, :4]).index_add(1, self.edges, h[:, 4:])
        added = torch.zeros_like(h[:, :4]).scatter_add(1, self.edges.expand(h.shape[0], -1), h[:, :4] * 2)
        top, at = h.topk(3, dim=1)
        ordered = torch.take_along_dim(h.sort(dim=1)[0].cumprod(1), at, 1)
        state, _ = self.cell(h, (h.tanh(), h))
        parts = [
            masked.flatten(1),
            torch.linalg.inv(square).flatten(1),
            torch.linalg.cross(h[:, :3], h[:, 3:6]),
            self.normed(h.view(-1, 2, 4)).flatten(1),
            torch.exp(-near).flatten(1),
            spline,
            graph,
            added,
            top,
            ordered,
            state,
            self.gru(h, h.sin()),
            torch.fft.irfft(torch.fft.rfft(h) * 2, n=8),
            h.logcumsumexp(1),
            torch.linalg.slogdet(square)[1][:, None],
        ]
        return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", ["traced", "exported"])
def test_operators_that_decoders_of_many_kinds_use(kind: str) -> None:
    net, z = Pieces().eval(), torch.randn(4, 3)
    if kind == "traced":
        parts = torchscript.read(open_archive(scripted(net, z[:3])), latent_dim=3)
    else:
        parts = exported_program.read(open_archive(exported(net, z[:1], dynamic=False)))
    decoder = Decoder(parts.decoder, 3)
    torch.testing.assert_close(decoder.flat(z), net(z), rtol=1e-5, atol=1e-5)
    # row by row and output by output: torch's cdist has wrong derivatives under vmap
    expected = torch.stack(
        [torch.autograd.functional.jacobian(lambda row: net(row[None])[0], row) for row in z]
    )
    torch.testing.assert_close(jacobian(decoder, z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("g", [(1, 2), (0,), (5, 1), (2, 3)])
def test_weight_norms_of_other_shapes_are_refused(g: tuple[int, ...]) -> None:
    """Torch's kernel takes their shapes for given, and reads and writes memory that is not theirs."""
    v, ones = torch.randn(64, 3), torch.ones(64, 1)
    for name in ("_weight_norm", "_weight_norm_interface"):
        function = operators.operator(name)
        for dim in (0, 1):
            with pytest.raises(RuntimeError, match="size of tensor"):
                function(v, torch.ones(g), dim)
    expected = torch._weight_norm(v, ones, 0)
    torch.testing.assert_close(operators.operator("_weight_norm")(v, ones, 0), expected)
    torch.testing.assert_close(operators.operator("_weight_norm_interface")(v, ones, 0)[0], expected)

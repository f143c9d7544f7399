"""How fast vaeprobe is, against what the arithmetic costs at best and what one would use instead.

    python tests/benchmarks/speed.py [ROW ...] [--threads 1] [--rounds 5] [--long] [--curves] [--readme]

Every line is a ratio: our time and the time of what one would pick instead, in multiples of some plain work, all
timed in turns.  What one would write with torch alone runs in a process without vaeprobe's engine at work, which keeps
freed memory at hand for whatever runs beside it: by itself it was up to a third slower, or as fast.  One FWD is the plain forward pass on n d latents, channels last, in the best of
three chunk sizes: as many multiplications as the n d columns of n Jacobians take, so 1 is what an engine without
further ideas can hope for.  Networks have random weights unless a line says otherwise.  `--curves` draws how the
ratios scale (scaling.svg beside this file), `--readme` writes this run's rows into the README's table.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from vaeprobe.decoder import Decoder
from vaeprobe.engine import gram, jacobian, pullback, pushforward

from benchmarks.networks import autoencoder_kl, autoencoder_tiny, burgess, dcgan, mlp, realistic
from benchmarks.timing import Apart, Work, forward, medians, processes, tuned

ROOT = Path(__file__).parents[2]
MARKERS = re.compile(r"(<!-- speed -->\n)(.*?)(<!-- /speed -->)", re.DOTALL)
PICTURE = Path(__file__).with_name("scaling.svg")


@dataclass(frozen=True)
class Options:
    """How long to measure: rounds, and latents per round where a row does not fix them."""

    rounds: int = 5
    points: int = 64


@dataclass(frozen=True)
class Found:
    """What a row found, all in its unit.

    Attributes:
        ours: vaeprobe's time.
        instead: the times of what one would use otherwise, by name.
        remark: what a ratio does not say: errors, memory.
    """

    ours: float
    instead: dict[str, float] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Row:
    """One line: what is done, in what unit it is told, and what we aim at (and would like)."""

    what: str
    unit: str
    aim: str
    measure: Callable[[Options], Found]
    long: bool = False


# -- what one would write without us -------------------------------------------------------------------


def by_jacfwd(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """J^T J as torch's documentation suggests it: vmap(jacfwd), all latents at once."""
    J = torch.func.vmap(torch.func.jacfwd(lambda x: network(x[None])[0].flatten()))

    def work(z: Tensor) -> Tensor:
        found = J(z)
        return found.mT @ found

    return work


def by_functional(network: nn.Module, z: Tensor) -> Tensor:
    """J by `torch.autograd.functional.jacobian`, one latent, a backward pass per output."""
    found: Tensor = torch.autograd.functional.jacobian(lambda x: network(x).flatten(), z[:1])
    return found


class AtLatents(nn.Module):
    """A decoder as a function of its latents for what differentiates by parameters alone."""

    def __init__(self, network: nn.Module, z: Tensor) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.z = nn.Parameter(z)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(self.z)
        return found.flatten(1)


def by_vmap(network: nn.Module, z: Tensor, v: Tensor) -> Tensor:
    """J v of several directions as torch's documentation suggests it."""
    found: Tensor = torch.func.vmap(lambda u: torch.func.jvp(network, (z,), (u,))[1])(v)
    return found


def by_jvp_and_vjp(network: nn.Module, z: Tensor, v: Tensor) -> Tensor:
    """J^T J v of several directions, one after the other, from one graph for the way back."""
    back = torch.func.vjp(network, z)[1]
    return torch.stack([back(torch.func.jvp(network, (z,), (u,))[1])[0] for u in v])


def by_curvlinops(network: nn.Module, z: Tensor) -> Any:
    """J at all latents as a linear operator of curvlinops, which knows derivatives by parameters; None without it."""
    try:
        from curvlinops import JacobianLinearOperator
    except ImportError:
        return None
    module = AtLatents(network, z.clone())
    data = [(torch.zeros(len(z), 1), torch.zeros(len(z), 1))]
    return JacobianLinearOperator(module, [module.z], data, progressbar=False, check_deterministic=False)


def frozen(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return realistic(make())


Product = Callable[[nn.Module, Tensor, Tensor], Tensor]


# the same as pieces of work that a process of its own makes


def naive(make: Callable[[], nn.Module], n: int, d: int) -> Work:
    found = by_jacfwd(frozen(make))
    return partial(found, torch.randn(n, d))


def expert(make: Callable[[], nn.Module], n: int, d: int) -> Work:
    """What an expert would make of the same: channels last, the best of three sizes of chunk."""
    found, z = by_jacfwd(frozen(make).to(memory_format=torch.channels_last)), torch.randn(n, d)

    def in_parts(rows: int) -> Work:
        return lambda: [found(part) for part in z.split(rows)]

    parts = {rows: in_parts(rows) for rows in (8, 32, 128)}
    times = medians({str(rows): work for rows, work in parts.items()}, 1)
    return parts[min(parts, key=lambda rows: times[str(rows)])]


def functional(make: Callable[[], nn.Module], d: int) -> Work:
    return partial(by_functional, frozen(make), torch.randn(1, d))


def product(make: Callable[[], nn.Module], n: int, d: int, of: Product) -> Work:
    return partial(of, frozen(make), torch.randn(n, d), torch.randn(4, n, d))


# -- rows ----------------------------------------------------------------------------------------------

FUNCTIONAL = "functional.jacobian"
JACFWD = "vmap(jacfwd)"
TUNED = "the same by hand in the best chunks and layout"


def gram_row(
    make: Callable[[], nn.Module], d: int, points: int | None = None, *, rows: bool = False
) -> Callable[[Options], Found]:
    """Time Gram matrices against the forward pass, vmap(jacfwd) and, with `rows`, reverse mode at one latent."""

    def measure(options: Options) -> Found:
        decoder, n = Decoder(frozen(make), d), min(points or options.points, options.points)
        z = torch.randn(n, d)
        with Apart(naive, make, n, d) as theirs:
            works: dict[str, Work | Apart] = {
                "FWD": tuned(frozen(make), z.repeat(d, 1)),
                "ours": lambda: gram(decoder, z),
                JACFWD: theirs,
            }
            times = medians(works, options.rounds)
        instead = {JACFWD: times[JACFWD] / times["FWD"]}
        if rows:
            with Apart(functional, make, d) as one:
                instead[FUNCTIONAL] = medians({"one": one}, 1)["one"] * n / times["FWD"]
        return Found(times["ours"] / times["FWD"], instead)

    return measure


def speedup(options: Options) -> Found:
    """Time 1,024 latents of a convolutional decoder in units of ours, beside what an expert would make of torch's own.

    The remark tells a quarter of them, too: what takes all latents at once slows down as they grow.
    """
    found = {n: _speedup(n, options.rounds) for n in (4 * options.points, 16 * options.points)}
    few, many = found
    return Found(1.0, found[many], f"at {few} latents {JACFWD} {ratio(found[few][JACFWD])}")


def _speedup(n: int, rounds: int, d: int = 10) -> dict[str, float]:
    decoder, z = Decoder(frozen(burgess), d), torch.randn(n, d)
    with Apart(naive, burgess, n, d) as theirs, Apart(expert, burgess, n, d) as best:
        times = medians({"ours": lambda: gram(decoder, z), JACFWD: theirs, TUNED: best}, rounds)
    return {name: times[name] / times["ours"] for name in (JACFWD, TUNED)}


def products(
    ours: Callable[[Decoder, Tensor, Tensor], Tensor],
    name: str,
    instead: Product,
    curvlinops: Callable[[Any, Tensor], Tensor],
) -> Callable[[Options], Found]:
    """Time products with J of a KL decoder, four sharing the primal, in forward passes."""

    def measure(options: Options) -> Found:
        network, d, n = frozen(autoencoder_kl), 256, 8
        decoder, z, v = Decoder(network, d), torch.randn(n, d), torch.randn(4, n, d)
        plain: dict[str, Work] = {
            "plain": forward(network, z, n),
            "last": forward(frozen(autoencoder_kl).to(memory_format=torch.channels_last), z, n),
        }
        J = by_curvlinops(network, z)
        with Apart(product, autoencoder_kl, n, d, instead) as theirs:
            others: dict[str, Work | Apart] = {name: theirs}
            if J is not None:
                others["curvlinops"] = lambda: curvlinops(J, v.flatten(1).mT)
            times = medians({**plain, "ours": lambda: ours(decoder, z, v), **others}, options.rounds)
        unit = 4 * min(times[key] for key in plain)
        return Found(times["ours"] / unit, {key: times[key] / unit for key in others})

    return measure


def columns(options: Options) -> Found:
    """Time all columns of J of a KL decoder, per column, in forward passes."""
    d, n = 256, 2
    decoder, z = Decoder(frozen(autoencoder_kl), d), torch.randn(n, d)
    with Apart(naive, autoencoder_kl, n, d) as theirs:
        works: dict[str, Work | Apart] = {
            "FWD": tuned(frozen(autoencoder_kl), z.repeat(d, 1)),
            "ours": lambda: jacobian(decoder, z),
            JACFWD: theirs,
        }
        times = medians(works, max(1, options.rounds // 3))
    return Found(times["ours"] / times["FWD"], {JACFWD: times[JACFWD] / times["FWD"]})


def site(options: Options) -> Found:
    """Time a column at one more site of a map of latents that is decoded once, in decodings of the image."""
    further: list[float] = []
    remark = ""
    for side in (32, 64):
        network = frozen(lambda side=side: autoencoder_tiny(side))
        decoder, z = Decoder(network, 4 * side**2), torch.randn(1, 4 * side**2)
        sites = torch.from_numpy(np.random.default_rng(0).permutation(side**2)[:16])
        blocks = (torch.arange(4) * side**2 + sites[:, None])[None]
        last = frozen(lambda side=side: autoencoder_tiny(side)).to(memory_format=torch.channels_last)
        works: dict[str, Work] = {
            "decode": forward(last, z, 1),
            "one": lambda d=decoder, z=z, c=blocks[:, :1]: gram(d, z, columns=c),
            "all": lambda d=decoder, z=z, c=blocks: gram(d, z, columns=c),
        }
        times = medians(works, options.rounds)
        further.append((times["all"] - times["one"]) / 15 / 4)
        alone = times["one"] / times["decode"]
        ratio = further[-1] / times["decode"]
        if side == 32:
            remark = f"{ratio:.2f} for an image of a quarter of the size"
    return Found(
        ratio,
        remark=f"once the image is decoded: that and the first site take {alone:.1f}; {remark}",
    )


def tall(options: Options) -> Found:
    """Time principal components of a file of many rows in fits of scikit-learn in memory."""
    return linear(options, 1500 * options.points, 500)


def file_larger_than_caches(options: Options) -> Found:
    """The same for a gigabyte and more, told with the memory that it takes."""
    return linear(Options(1, options.points), 15000 * options.points, 1000)


def linear(options: Options, n: int, m: int) -> Found:
    from sklearn.decomposition import PCA

    from vaeprobe.data import open_data
    from vaeprobe.linear import spectrum

    from benchmarks.bench_linear import rows

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        X = rows(n, m, min(200, m // 2))
        np.save(path, X)
        times = medians(
            {
                "ours": lambda: spectrum.compute(open_data(path), 32, solver="exact"),
                "theirs": lambda: PCA(32, svd_solver="covariance_eigh").fit(X),
            },
            max(1, options.rounds // 2),
        )
    return Found(times["ours"] / times["theirs"], {"scikit-learn covariance_eigh, in memory": 1.0})


def wide(options: Options) -> Found:
    """Time the randomized solver on few rows of many numbers in fits of scikit-learn's."""
    return few_rows(options, 24 * options.points, 64 * options.points)


def wider(options: Options) -> Found:
    """The same for half a gigabyte."""
    few = Options(min(options.rounds, 3), options.points)
    return few_rows(few, 10_000 * options.points // 64, 12_288 * options.points // 64)


def few_rows(options: Options, n: int, m: int) -> Found:
    from sklearn.decomposition import PCA

    from vaeprobe.data import in_memory
    from vaeprobe.linear import spectrum

    from benchmarks.bench_linear import rows

    X = rows(n, m, min(300, n // 2), seed=1)
    ours, theirs = (
        lambda: spectrum.compute(in_memory(X), 32, solver="randomized"),
        lambda: PCA(32, svd_solver="randomized", random_state=0).fit(X),
    )
    times = medians({"ours": ours, "theirs": theirs}, max(1, options.rounds // 2))
    Y = X - X.mean(axis=0, dtype=np.float64)
    truth = np.sort(leading(Y, 32))[::-1] / n
    error = float(np.abs(ours().values[:32] / truth - 1).max())
    their_error = float(np.abs(theirs().explained_variance_ * (n - 1) / n / truth - 1).max())
    return Found(
        times["ours"] / times["theirs"],
        {"scikit-learn randomized": 1.0},
        f"eigenvalues to {error:.0e}, scikit-learn's to {their_error:.0e}",
    )


def leading(Y: np.ndarray, k: int) -> np.ndarray:
    """Return the k largest eigenvalues of Y Y^T, by ARPACK in float64."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    def product(x: np.ndarray) -> np.ndarray:
        return np.asarray(Y @ (Y.T @ x))

    K = LinearOperator((len(Y), len(Y)), matvec=product, dtype=np.float64)
    return np.asarray(eigsh(K, k, v0=np.ones(len(Y)), return_eigenvectors=False, tol=1e-10))


HELLO = "import typer, rich.console; app = typer.Typer(); app.command()(lambda: None); app(['--help'])"


def start_up(options: Options) -> Found:
    """Time `vaeprobe --help` in helps of an empty program of the same libraries."""
    times = processes({"ours": ["-m", "vaeprobe", "--help"], "hello": ["-c", HELLO]}, options.rounds)
    return Found(times["ours"] / times["hello"], {"an empty typer program": 1.0})


def published() -> Path:
    """Return a published convolutional VAE if one is at hand, else our own sample."""
    folder = Path(os.environ.get("VAEPROBE_MODELS", ROOT.parent / "shared" / "models"))
    return next(
        iter(sorted(folder.glob("disvae/VAE_*/model.pt"))), ROOT / "sample_models/digits_conv.safetensors"
    )


def command(*arguments: str, model: Callable[[], Path] = published) -> Callable[[Options], Found]:
    """Time a whole command in imports of torch, which every program of the field pays."""

    def measure(options: Options) -> Found:
        path = model()
        run = ["-m", "vaeprobe", arguments[0], str(path), *arguments[1:], "--quiet", "--no-progress"]
        times = processes({"ours": run, "torch": ["-c", "import torch"]}, min(3, options.rounds))
        remark = "our sample model" if path.is_relative_to(ROOT) else ""
        return Found(times["ours"] / times["torch"], remark=remark)

    return measure


def tiny_autoencoder() -> Path:
    folder = Path(os.environ.get("VAEPROBE_MODELS", ROOT.parent / "shared" / "models"))
    return folder / "taef2" / "taef2_decoder.pth"


def generator() -> Path:
    """Write the weights of a 100-latent generator under the names of PyTorch's own example."""
    path = Path(tempfile.mkdtemp()) / "generator.pth"
    main = nn.Sequential(*list(frozen(dcgan))[1:])  # type: ignore[call-overload]
    torch.save({f"main.{name}": value for name, value in main.state_dict().items()}, path)
    return path


def latent_diffusion() -> Path:
    """Write an AutoencoderKL of Stable Diffusion's widths, with random weights, as diffusers does."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    path, blocks = Path(tempfile.mkdtemp()), 4
    AutoencoderKL(
        latent_channels=4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
    ).save_pretrained(path)  # fmt: skip
    return path


PASS, DECODE, IMPORT = "forward passes on n d latents", "decodings", "imports of torch"

ROWS: dict[str, Row] = {
    "burgess-32": Row("Gram matrices, convolutional VAE 32 x 32, d = 10", PASS, "0.80, 0.55", gram_row(burgess, 10, rows=True)),
    "burgess-64": Row("Gram matrices, convolutional VAE 64 x 64 x 3, d = 10", PASS, "0.80, 0.55", gram_row(partial(burgess, 64, 3), 10)),
    "mlp": Row("Gram matrices, MLP 32-512-512-512-784", PASS, "1.05, 0.95", gram_row(partial(mlp, 784), 32, rows=True)),
    "mlp-wide": Row("Gram matrices, linear output of 12,288 numbers", PASS, "0.18, 0.13", gram_row(partial(mlp, 12288), 32)),
    "dcgan": Row("Gram matrices, DCGAN generator, d = 100", PASS, "1.05, 0.95", gram_row(dcgan, 100, 2)),
    "speed-up": Row("Gram matrices at 1,024 latents, convolutional VAE", "ours", "5, 10 times", speedup),
    "kl-probe": Row("J v, latent-diffusion decoder, four at a time", "forward passes", "1.4, 1.15",
        products(lambda f, z, v: pushforward(f, z, v)[1], "vmap(jvp)", by_vmap, lambda J, v: J @ v)),
    "kl-metric": Row("J^T J v, the same", "forward passes", "",
        products(lambda f, z, v: pullback(f, z, pushforward(f, z, v)[1]), "jvp, then vjp", by_jvp_and_vjp, lambda J, v: J.adjoint() @ (J @ v))),
    "kl-columns": Row("all 256 columns of J, latent-diffusion decoder, per column", "forward passes", "1.2, 1.0", columns),
    "site": Row("columns at one site, TAESD's kind of decoder, per column", DECODE, "0.4, 0.1", site),
    "tall": Row("PCA of a file, 96,000 x 500", "fits of scikit-learn", "1.2, 1.0", tall),
    "wide": Row("PCA, 1,536 x 4,096", "fits of scikit-learn", "1/3, 1/4", wide),
    "wider": Row("PCA, 10,000 x 12,288", "fits of scikit-learn", "1/3, 1/4", wider, long=True),
    "large-file": Row("PCA of a file of 4 GB, 960,000 x 1000", "fits of scikit-learn", "1.4, 1.1", file_larger_than_caches, long=True),
    "help": Row("the help page (`--help`)", "an empty program's", "1.05, 0.5", start_up),
    "orthogonality": Row("`vaeprobe orthogonality`, published convolutional VAE", IMPORT, "2, 1.7", command("orthogonality")),
    "factorise": Row("`vaeprobe factorise`, the same", IMPORT, "5.4, 3.4", command("factorise")),
    "trace": Row("`vaeprobe trace`, the same", IMPORT, "5.4, 3.4", command("trace")),
    "gan": Row("`vaeprobe orthogonality`, 100-latent DCGAN generator", IMPORT, "14, 5", command("orthogonality", model=generator), long=True),
    "tiny-autoencoder": Row("`vaeprobe orthogonality`, 512-latent tiny autoencoder", IMPORT, "40, 14", command("orthogonality", model=tiny_autoencoder), long=True),
    "stable-diffusion": Row("`vaeprobe orthogonality`, AutoencoderKL of Stable Diffusion's widths, 4 x 8 x 8 latents", IMPORT, "200, 60", command("orthogonality", "--latent-size", "8x8", model=latent_diffusion), long=True),
}  # fmt: skip


# -- curves --------------------------------------------------------------------------------------------


def tanh_net(d: int, m: int, width: int = 256) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, m), nn.Sigmoid()
    )


def scaling(rounds: int) -> Iterable[tuple[str, list[int], dict[str, list[float | None]]]]:
    """Yield a label, where, and ratios to FWD of ours and the others, as latents, columns and outputs grow."""
    axes: dict[str, list[tuple[int, int, int]]] = {
        "latents n (d = 16, m = 1024)": [(n, 16, 1024) for n in (1, 4, 16, 64, 256)],
        "columns d (n = 16, m = 1024)": [(16, d, 1024) for d in (2, 8, 32, 128)],
        "outputs m (n = 16, d = 16)": [(16, 16, m) for m in (64, 256, 1024, 4096, 16384)],
    }
    for which, (label, sizes) in enumerate(axes.items()):
        found: dict[str, list[float | None]] = {"gram": [], JACFWD: [], FUNCTIONAL: []}
        for n, d, m in sizes:
            network = frozen(lambda d=d, m=m: tanh_net(d, m))
            decoder, z, plain = Decoder(network, d), torch.randn(n, d), by_jacfwd(network)
            works: dict[str, Work] = {
                "FWD": forward(network, z.repeat(d, 1), 1024),
                "gram": lambda f=decoder, z=z: gram(f, z),
                JACFWD: lambda f=plain, z=z: f(z),
            }
            times = medians(works, rounds)
            for name in ("gram", JACFWD):
                found[name].append(times[name] / times["FWD"])
            small = m <= 1024
            one = medians({"one": lambda f=network, z=z: by_functional(f, z)}, 1)["one"] if small else None
            found[FUNCTIONAL].append(None if one is None else one * n / times["FWD"])
        yield label, [size[which] for size in sizes], found


def draw(curves: Iterable[tuple[str, list[int], dict[str, list[float | None]]]]) -> str:
    """Return the curves one below the other as one SVG that needs no page around it."""
    from vaeprobe.render.charts import curves_svg
    from vaeprobe.report import Curves

    panels, top = [], 0.0
    for label, x, ys in curves:
        curve = Curves(
            title=label, x=x, ys=ys, x_label=label, y_label="forward passes", log_x=True, log_y=True
        )
        picture = curves_svg(curve)
        width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', picture)[0])
        panels.append(picture.replace("<svg ", f'<svg y="{top}" height="{height}" ', 1))
        top += height + 8
    style = "<style>text{font:11px system-ui,sans-serif;fill:#808a94}</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}">{style}{"".join(panels)}</svg>\n'


# -- what is printed -----------------------------------------------------------------------------------


def ratio(value: float) -> str:
    """Return a ratio to two digits."""
    return f"{value:.2f}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}"


def cells(row: Row, found: Found) -> tuple[str, str, str, str]:
    instead = ", ".join(f"{name} {ratio(value)}" for name, value in found.instead.items())
    return (
        row.what + (f" ({found.remark})" if found.remark else ""),
        ratio(found.ours),
        instead or "-",
        row.unit,
    )


def section(found: dict[str, Found], before: str = "") -> str:
    """Return the README's table: the rows of this run, and those before it that it did not measure."""
    lines = ["| | vaeprobe | instead | in multiples of |", "| --- | --- | --- | --- |"]
    for name, row in ROWS.items():
        if name in found:
            lines.append("| " + " | ".join(cells(row, found[name])) + " |")
        else:
            start = ("| " + row.what + " |", "| " + row.what + " (")
            lines += [line for line in before.splitlines() if line.startswith(start)]
    return "\n".join(lines) + "\n"


def write_readme(found: dict[str, Found], path: Path = ROOT / "README.md") -> None:
    """Write the table between the README's markers; rows that this run did not measure stay as they are."""
    text = path.read_text(encoding="utf-8")
    text = MARKERS.sub(lambda m: m[1] + section(found, m[2]) + m[3], text)
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        default=int(os.environ.get("OMP_NUM_THREADS", 1)),
        help="of every library; 1 measures processor time, more wall time",
    )
    parser.add_argument("--points", type=int, default=64, help="latents per round")
    parser.add_argument("--long", action="store_true", help="the rows that take minutes, too")
    parser.add_argument("--curves", action="store_true", help=f"draw {PICTURE.name}")
    parser.add_argument("--readme", action="store_true", help="write the README's section")
    asked = parser.parse_args()
    unknown = [name for name in asked.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row `{unknown[0]}`; there are {', '.join(ROWS)}")
    if os.environ.get("OMP_NUM_THREADS") != str(asked.threads):  # libraries read it where they are loaded
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    options = Options(asked.rounds, asked.points)
    threads = torch.get_num_threads()
    print(
        f"torch {torch.__version__}, {threads} thread{'s' * (threads > 1)}, {options.rounds} rounds; aims: must, ambition"
    )
    found: dict[str, Found] = {}
    for name in asked.rows or [name for name, row in ROWS.items() if asked.long or not row.long]:
        row = ROWS[name]
        try:
            found[name] = row.measure(options)
        except (ImportError, FileNotFoundError) as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        what, ours, instead, unit = cells(row, found[name])
        print(
            f"{name:16} {ours:>6}  {what}, in {unit}\n{'':25}instead: {instead}; aim: {row.aim or '-'}",
            flush=True,
        )
    if asked.curves:
        PICTURE.write_text(draw(scaling(max(1, options.rounds // 2))), encoding="utf-8")
        print(f"wrote {PICTURE}")
    if asked.readme:
        write_readme(found)
        print("wrote the README's section")


if __name__ == "__main__":
    main()

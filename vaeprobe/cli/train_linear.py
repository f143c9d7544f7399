"""`vaeprobe train-linear`: options in, `vaeprobe.linear` does the work, a document out."""

from __future__ import annotations

import glob
import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vaeprobe.cli import options, output
from vaeprobe.errors import UsageError
from vaeprobe.linear.metrics import METRICS

MODEL, TRAINING, DATA, BEYOND = "Model", "Training", "Data", "Beyond one machine"
LIMITS = {spec.option.lstrip("-").replace("-", "_"): spec for spec in METRICS if spec.option}


def _command(
    data: Annotated[list[str], typer.Argument(help="Data files or globs.", show_default=False)],
    *,
    latent_dim: Annotated[
        str, typer.Option(help="Number of latents, or auto.", metavar="N|auto", rich_help_panel=MODEL)
    ] = "auto",
    beta: Annotated[float, typer.Option(help="Weight of the KL term.", rich_help_panel=MODEL)] = 1.0,
    sigma2: Annotated[
        str, typer.Option(help="Noise variance, or ml to learn it.", metavar="X|ml", rich_help_panel=MODEL)
    ] = "ml",
    theorem3: Annotated[
        bool, typer.Option("--theorem3", help="Show (beta, s) against (1, beta s).", rich_help_panel=MODEL)
    ] = False,
    bootstrap: Annotated[
        int | None,
        typer.Option(
            help="Resamples for the columns' angles (default: by cost).", min=0, rich_help_panel=MODEL
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Also train: elbo, elbo-full, det-elbo, det-elbo-literal, em, or all; repeatable.",
            metavar="NAME",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    optimiser: Annotated[
        Literal["lbfgs", "adam"], typer.Option(help="How to follow the gradient.", rich_help_panel=TRAINING)
    ] = "lbfgs",
    steps: Annotated[int, typer.Option(help="Most steps per run.", min=1, rich_help_panel=TRAINING)] = 5000,
    tolerance: Annotated[
        float,
        typer.Option(help="Gap to the optimum at which to stop (nats).", min=0.0, rich_help_panel=TRAINING),
    ] = 1e-10,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam, decaying to 0.", min=1e-12, rich_help_panel=TRAINING)
    ] = 0.02,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Rows per step of Adam (default: all).", min=1, rich_help_panel=TRAINING),
    ] = None,
    restarts: Annotated[
        int,
        typer.Option(help="Starting points per method; the best counts.", min=1, rich_help_panel=TRAINING),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of every draw.", min=0, rich_help_panel=TRAINING)] = 0,
    key: Annotated[str | None, typer.Option(help="Which array of the file.", rich_help_panel=DATA)] = None,
    scale: Annotated[
        str, typer.Option(help="auto (uint8 / 255), none, or a factor.", rich_help_panel=DATA)
    ] = "auto",
    missing: Annotated[
        Literal["refuse", "em"],
        typer.Option(help="What NaN means: an error, or a value to infer.", rich_help_panel=DATA),
    ] = "refuse",
    drop_nonfinite: Annotated[
        bool,
        typer.Option("--drop-nonfinite", help="Leave rows with NaN or infinity out.", rich_help_panel=DATA),
    ] = False,
    solver: Annotated[
        Literal["auto", "exact", "dual", "randomized"],
        typer.Option(help="How to get the eigenpairs.", rich_help_panel=DATA),
    ] = "auto",
    backend: Annotated[
        Literal["gloo", "nccl"], typer.Option(help="Between processes of torchrun.", rich_help_panel=BEYOND)
    ] = "gloo",
    timeout: Annotated[
        float,
        typer.Option(help="Seconds after which a silent process is dead.", min=1.0, rich_help_panel=BEYOND),
    ] = 300.0,
    model: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Save decoder and encoder (.safetensors): the first method's, else the closed form.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw spectrum, curves and columns (.png, .svg, .pdf).", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    json: options.Json = False,
    format: options.FormatOption = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
    color: options.ColorOption = "auto",
    **limits: float | None,
) -> int:
    """Fit PPCA and linear VAEs, hold training against their closed forms, and save the decoder.

    The closed form is always computed; `--method` adds training runs and certifies them against it. The saved
    model works with every other command. Under `torchrun`, each process reads its share of the rows.

    Examples:
        vaeprobe train-linear x.npy
        vaeprobe train-linear 'shards/*.npy' --method all -o model.safetensors
    """
    from vaeprobe.linear.processes import joined
    from vaeprobe.probes.train_linear import train_linear as fitted

    if model is not None and model.suffix != ".safetensors":
        raise UsageError(
            f"a model is saved as .safetensors, not `{model.suffix}`", hint=f"-o {model.stem}.safetensors"
        )
    chosen = options.chosen_format(format, json)
    output.ready(files=[model, plot], inputs=[path for name in data for path in glob.glob(name) or [name]])
    wanted = {LIMITS[name].id: limit for name, limit in limits.items() if limit is not None}
    with (
        joined(backend, timeout=timeout) as processes,
        output.progress_bar(not no_progress and processes.rank == 0),
    ):
        result = fitted(
            data,
            latent_dim="auto"
            if latent_dim == "auto"
            else int(_number(latent_dim, "--latent-dim", whole=True)),
            beta=beta,
            sigma2="ml" if sigma2 == "ml" else _number(sigma2, "--sigma2"),
            methods=tuple(method or ()),
            optimiser=optimiser,
            steps=steps,
            tolerance=tolerance,
            learning_rate=learning_rate,
            batch_size=batch_size,
            restarts=restarts,
            seed=seed,
            solver=solver,
            missing=missing,
            drop_nonfinite=drop_nonfinite,
            bootstrap=bootstrap,
            theorem3=theorem3,
            key=key,
            scale=scale,
            limits=wanted,
            processes=processes,
        )
    if processes.rank > 0:  # the first process speaks for all
        return result.exit_code
    return output.emit(
        result,
        format=chosen,
        quiet=quiet,
        verbose=verbose,
        color=color,
        files={name: path for name, path in (("model", model), ("plot", plot)) if path is not None},
    )


def _number(text: str, flag: str, *, whole: bool = False) -> float:
    word = {"--latent-dim": "auto", "--sigma2": "ml"}[flag]
    try:
        value = float(text)
        if whole and value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise UsageError(
            f"{flag} takes a {'whole ' if whole else ''}number or `{word}`, not `{text}`"
        ) from None
    return value


def train_linear(**values: Any) -> int:
    return _command(**values)


def _with_limits() -> inspect.Signature:
    """Return the command's signature with a limit option for each metric that has a better direction."""
    own = inspect.signature(_command, eval_str=True)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, spec in LIMITS.items():
        option = typer.Option(spec.option, help=spec.title, metavar="X", rich_help_panel=options.LIMITS)
        annotation = Annotated[float | None, option]
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )
    return inspect.Signature(parameters)


train_linear.__signature__ = _with_limits()  # type: ignore[attr-defined]
train_linear.__doc__ = inspect.getdoc(_command)

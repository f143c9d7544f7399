"""The Typer application: one subcommand per probe, and the commands that are no probe; each built when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from vaeprobe.cli import pages
from vaeprobe.cli.worker import OPTION
from vaeprobe.errors import UsageError, did_you_mean
from vaeprobe.probes import PROBES

# what `vaeprobe --help` says of each command; a probe that is missing here says its own first sentence
SUMMARIES = {
    "orthogonality": "are the Jacobian's columns orthogonal, and along the axes?",
    "factorise": "does the density factorise, and along which seams?",
    "trace": "where do the seams run, through latent and data space?",
    "posterior": "does the posterior match the likelihood's Hessian?",
    "beta": "at which beta was this trained, and what collapsed?",
    "train-linear": "what do PPCA and the linear VAE say of these data?",
    "traverse": "what does each latent do? Strips, as a picture",
    "report": "every probe on one model, as one page",
    "compare": "which of these models, and do they have the same latents?",
    "inspect": "what is in a file? Nothing of it is executed",
    "convert": "out of pickle: safetensors with a blueprint, or .pt2",
    "check": "a gate for CI: policy, baseline, machine formats",
    "demo": "a theorem of the paper on models trained on the spot",
    "selftest": "are the answers right on this machine, against closed forms?",
    "explain": "what a number, a finding or an error means",
    "schema": "the JSON Schema of every JSON document",
}
# the commands that are no probe: the module of vaeprobe.cli that has a function of the same name
COMMANDS = {
    "traverse": "traverse",
    "report": "report",
    "compare": "compare",
    "inspect": "inspect",
    "convert": "convert",
    "check": "check",
    "demo": "demo",
    "selftest": "selftest",
    "explain": "explain",
    "schema": "schema",
}
ALIASES = {"factorize": "factorise"}
QUESTIONS = {name.replace("_", "-"): name for name in PROBES}  # the command of each probe
SETTINGS = {"help_option_names": ["-h", "--help"]}
END = """
`vaeprobe COMMAND --help` lists a command's options, `vaeprobe explain` every number and finding.

Exit codes: 0 every check passed, or none was asked for; 1 a check failed; 2 usage; 3 undecided; 4 refused as
unsafe; 5 unreadable; 6 out of memory or time; 70 a bug of vaeprobe; 129, 130 and 143 ended by a signal.
"""


class Command(TyperCommand):
    """A command with our help page."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(pages.command_page(ctx.command_path, self.help or "", self.get_params(ctx)))


class Commands(TyperGroup):
    """All commands by name, built when one is asked for."""

    def list_commands(self, ctx: object) -> list[str]:
        return [*QUESTIONS, *COMMANDS]

    def get_command(self, ctx: object, name: str) -> Any:
        return built(ALIASES.get(name, name)) if name in (*QUESTIONS, *COMMANDS, *ALIASES) else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = [*self.list_commands(ctx), *ALIASES]
        if args and args[0] not in known and not args[0].startswith("-"):
            raise UsageError(
                f"no command is called `{args[0]}`",
                hint=did_you_mean(args[0], known) or "`vaeprobe --help` lists them",
            )
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        others = [name for name in self.list_commands(ctx) if name not in QUESTIONS]
        sections = [
            ("Questions", [(name, summary(name)) for name in QUESTIONS]),
            ("More commands", [(name, summary(name)) for name in others]),
        ]
        formatter.write(pages.group_page(root.__doc__ or "", sections, self.get_params(ctx), END.strip()))


@cache
def built(name: str) -> Any:
    """Return the parser of a command."""
    function: Callable[..., int]
    if name in COMMANDS:
        function = getattr(import_module(f"vaeprobe.cli.{COMMANDS[name]}"), COMMANDS[name])
    else:
        from vaeprobe.cli.probe_commands import probe_command

        function = probe_command(QUESTIONS[name])
    from vaeprobe.cli.values import signature

    def callback(**values: object) -> int:
        return function(**values)

    callback.__signature__ = signature(function)  # type: ignore[attr-defined]
    callback.__doc__ = function.__doc__
    one = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=SETTINGS)
    one.command(name, cls=Command)(callback)
    return typer.main.get_command(one)


def summary(name: str) -> str:
    """Return what the list of commands says of one."""
    return SUMMARIES.get(name) or str(built(name).help).split("\n\n", 1)[0]


def shared(arguments: Sequence[str]) -> bool:
    """Return whether processes of `torchrun` share what a command line asks for: what is long enough to `--resume` it."""
    return "--resume" in options(arguments) and not set(SETTINGS["help_option_names"]) & set(arguments)


def options(arguments: Sequence[str]) -> list[str]:
    """Return the names of the options of the command that a command line calls; none where it calls none."""
    name = next((a for a in arguments if not a.startswith("-")), "")
    command = built(ALIASES.get(name, name)) if name in (*QUESTIONS, *COMMANDS, *ALIASES) else None
    flags = [flag for p in command.params for flag in p.opts] if command else []
    own = [flag for flag in flags if flag.startswith("-")]
    return [*own, *SETTINGS["help_option_names"]] if command else []


app = typer.Typer(
    name="vaeprobe",
    cls=Commands,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=SETTINGS,
)


def _version(wanted: bool) -> None:
    if wanted:
        from vaeprobe.cli.versions import versions

        print(versions())
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    no_sandbox: Annotated[
        bool,
        typer.Option(
            OPTION, help="Read strangers' files in this process, without limits (may stand anywhere)."
        ),
    ] = False,
) -> int | None:
    """Ask a trained decoder what it learned: is its Jacobian orthogonal, does the density factorise, what was beta?"""
    if ctx.invoked_subcommand is not None:
        return None
    print(ctx.get_help())
    return UsageError.exit_code  # nothing was checked: a script with an empty command must not pass

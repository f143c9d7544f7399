"""The Typer application: one subcommand per probe, and the commands that are no probe."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from vaeprobe._version import __version__
from vaeprobe.cli.probe_commands import probe_command
from vaeprobe.cli.worker import OPTION
from vaeprobe.probes import PROBES

# command -> module of vaeprobe.cli with a function of the same name
COMMANDS = {
    "inspect": "inspect",
    "train-linear": "train_linear",
    "check": "check",
    "convert": "convert",
    "demo": "demo",
    "explain": "explain",
    "schema": "schema",
}
ALIASES = {"factorize": "factorise"}

app = typer.Typer(
    name="vaeprobe",
    help="Analyse trained decoders: is the Jacobian orthogonal, does the density factorise, what was beta?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vaeprobe {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    no_sandbox: Annotated[
        bool,
        typer.Option(
            OPTION, help="Read strangers' files in this process, without limits (may stand anywhere)."
        ),
    ] = False,
) -> None:
    """Analyse trained decoders: is the Jacobian orthogonal, does the density factorise, what was beta?"""


for _name in PROBES:
    app.command(_name)(probe_command(_name))
for _alias, _name in ALIASES.items():
    app.command(_alias, hidden=True)(probe_command(_name))
for _name, _module in COMMANDS.items():
    _path = f"vaeprobe.cli.{_module}"
    app.command(_name)(getattr(import_module(_path), _module))

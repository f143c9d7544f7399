"""`vaeprobe selftest`: every probe on maps with known answers, on this machine."""

from __future__ import annotations

from vaeprobe.cli import options, output


def selftest(
    *,
    device: options.Device = "cpu",
    json_: options.Json = False,
    format: options.FormatOption = None,
    document: options.OutputFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    color: options.ColorOption = "auto",
) -> int:
    """Hold every probe against maps whose answers are known in closed form, in float32 and float64.

    Takes less than a minute, needs no model, and exits 0 only where every answer is right.

    Examples:
        vaeprobe selftest
        vaeprobe selftest -v --device cuda
    """
    from vaeprobe.selftest import selftest as run

    chosen = options.chosen_format(format, json_, document)
    output.ready(document)
    result = run(str(options.existing_device(device)))
    return output.emit(result, format=chosen, output=document, quiet=quiet, verbose=verbose, color=color)

"""`vaeprobe selftest`: every probe on maps with known answers, on this machine."""

from __future__ import annotations

from vaeprobe.cli import options
from vaeprobe.cli.output import Document


@options.taking(options.DOCUMENT, without=("no_progress",))
def selftest(
    *,
    device: options.Device = "cpu",
    **values: object,
) -> int:
    """Hold every probe against maps whose answers are known in closed form, in float32 and float64.

    Takes less than a minute, needs no model, and exits 0 only where every answer is right.

    Examples:
        vaeprobe selftest
        vaeprobe selftest -v --device cuda
    """
    from vaeprobe.autograd import device_named
    from vaeprobe.selftest import selftest as run

    document = Document.asked(values)
    document.ready()
    result = run(str(device_named(device)))
    return document.emit(result)

"""`vaeprobe`, and `python -m vaeprobe`: an interrupt is answered before anything that takes time is imported."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from vaeprobe.heard import heard


def main() -> NoReturn:
    """Run the command line (see `vaeprobe.cli.main`)."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # not every system hangs up
        # what is to be ignored stays so
        if number is not None and signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
            signal.signal(number, _stop)
    from vaeprobe.cli import main as command_line

    command_line()


def _stop(number: int, frame: object) -> NoReturn:
    """End at once: nothing is begun yet.  `streams.end_promptly` takes over."""
    if heard():
        os.write(2, b"vaeprobe: stopped; no partial output was written\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()

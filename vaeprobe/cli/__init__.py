"""The command line.  `main` is the one place where exceptions become exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from vaeprobe.errors import VaeprobeError, bug


class Terminated(BaseException):
    """SIGTERM arrived; cleanup handlers run, and the exit code is 143."""


def main() -> NoReturn:
    """Run the command line and exit with the documented code.

    0 every check passed or none was asked - 1 a check failed - 2 usage - 3 inconclusive - 4 refused as
    unsafe - 5 unreadable - 6 resource limit - 70 a bug of ours - 130/143 signals.
    """
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return its exit code."""
    from vaeprobe.cli import output

    def terminated(signum: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, terminated)
    try:
        from vaeprobe.cli.app import app

        returned = app(args=list(arguments), prog_name="vaeprobe", standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except VaeprobeError as error:
        output.error(error, arguments)
        return error.exit_code
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except (KeyboardInterrupt, Terminated) as stop:
        code = 143 if isinstance(stop, Terminated) else 130
        print("vaeprobe: stopped; no partial output was written", file=sys.stderr)
        return code
    except MemoryError:
        from vaeprobe.errors import ResourceError

        output.error(ResourceError("out of memory", hint="fewer --samples, or a smaller --chunk"), arguments)
        return ResourceError.exit_code
    except Exception as error:
        usage = output.as_usage_error(error)
        if usage is not None:
            output.error(usage, arguments)
            return usage.exit_code
        if os.environ.get("VAEPROBE_DEBUG"):
            raise
        wrapped = bug(error)
        output.error(wrapped, arguments)
        return wrapped.exit_code
    finally:
        signal.signal(signal.SIGTERM, previous)


def _silence_stdout() -> None:
    """Point stdout nowhere, so that the interpreter's last flush stays quiet after `| head`."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())

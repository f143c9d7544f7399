"""The command line.  `run` is the one place where exceptions become exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vaeprobe.cli import output, streams, worker
from vaeprobe.errors import ResourceError, UsageError, VaeprobeError, bug

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def main() -> NoReturn:
    """Run the command line and exit with the documented code.

    0 every check passed or none was asked - 1 a check failed - 2 usage (also: no command) - 3 inconclusive -
    4 refused as unsafe - 5 unreadable - 6 resource limit - 70 a bug of ours - 130/143 signals.
    """
    streams.prepare()
    arguments = [a for a in sys.argv[1:] if a != worker.OPTION]

    def command() -> int:
        streams.end_promptly()
        return run(arguments)

    if len(arguments) == len(sys.argv) - 1 and worker.needed(arguments):
        ended = worker.run_in_worker(lambda: _flushed(command(), arguments), arguments)
        if isinstance(ended, VaeprobeError):
            output.error(ended, arguments)
            ended = ended.exit_code
        sys.exit(ended)
    sys.exit(_flushed(command(), arguments))


def _flushed(code: int, arguments: Sequence[str]) -> int:
    """Return the exit code of a command after the last of its output was written."""
    try:
        sys.stdout.flush()
    except UsageError as error:
        output.error(error, arguments)
        code = error.exit_code
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return code


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return its exit code."""
    try:
        from vaeprobe.cli.app import app

        returned = app(args=list(arguments), prog_name="vaeprobe", standalone_mode=False)
        return returned if isinstance(returned, int) else 0
    except VaeprobeError as error:
        output.error(error, arguments)
        return error.exit_code
    except (KeyboardInterrupt, streams.Terminated) as stop:
        streams.say(streams.STOPPED)
        return 143 if isinstance(stop, streams.Terminated) else 130
    except MemoryError:
        output.error(ResourceError("out of memory", hint="fewer --samples, or a smaller --chunk"), arguments)
        return ResourceError.exit_code
    except Exception as error:
        known = _as_ours(error)
        if known is None and os.environ.get("VAEPROBE_DEBUG"):
            raise
        ours = known or bug(error)
        output.error(ours, arguments)
        return ours.exit_code


def _as_ours(error: Exception) -> VaeprobeError | None:
    """Return an exception of the parser, or of a full disk, as one of ours; None for a bug."""
    if isinstance(error, OSError) and error.errno in FULL:
        return UsageError(f"cannot write: {(error.strerror or '').lower()}", hint="free some space")
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from vaeprobe.geometry.chunks import out_of_memory

        if out_of_memory(error):
            return ResourceError("out of memory", hint="fewer --samples, or a smaller --chunk")
    return output.as_usage_error(error)

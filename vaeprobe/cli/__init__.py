"""The command line.  `run` is the one place where exceptions become exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from vaeprobe.cli import output, streams, worker
from vaeprobe.cli.refusals import as_usage_error
from vaeprobe.errors import ResourceError, UsageError, VaeprobeError, bug, out_of_memory

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
    except (KeyboardInterrupt, streams.Terminated) as stop:
        streams.say(streams.stopped())
        return 143 if isinstance(stop, streams.Terminated) else 130
    except Exception as error:
        ours = _as_ours(error)
        if ours is None and os.environ.get("VAEPROBE_DEBUG"):
            raise
        return _failed(ours or bug(error), arguments)


def _failed(error: VaeprobeError, arguments: Sequence[str]) -> int:
    from vaeprobe.cli.app import options

    output.error(error, arguments, options(arguments))
    return error.exit_code


def _as_ours(error: Exception) -> VaeprobeError | None:
    """Return an exception of the parser, or of a full disk, as one of ours; None for a bug."""
    if isinstance(error, VaeprobeError):
        return error
    if isinstance(error, OSError) and error.errno in FULL:
        return UsageError(f"cannot write: {(error.strerror or '').lower()}", hint="free some space")
    if out_of_memory(error):
        return ResourceError("out of memory", hint="fewer --samples, or a smaller --chunk")
    return as_usage_error(error)

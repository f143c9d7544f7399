"""The command line.  `run` is the one place where exceptions become exit codes.

What a help page does not need is imported where it is used: half of the time that one would take.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vaeprobe.cli import streams, worker
from vaeprobe.errors import ResourceError, UsageError, VaeprobeError, bug, out_of_memory
from vaeprobe.foreign import in_words
from vaeprobe.heard import heard
from vaeprobe.processors import consider
from vaeprobe.stopping import Terminated, heed

FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def main() -> NoReturn:
    """Run the command line and exit with the documented code.

    0 every check passed or none was asked - 1 a check failed - 2 usage (also: no command) - 3 inconclusive -
    4 refused as unsafe - 5 unreadable - 6 resource limit - 70 a bug of ours - 129/130/143 signals.
    """
    streams.prepare()
    arguments = [a for a in sys.argv[1:] if a != worker.OPTION]

    def command() -> int:
        streams.end_promptly()
        consider()
        code = run(arguments)
        streams.ending()  # all is said, and torch takes a while to leave; a user's own code may have more to do
        return code

    def ended() -> int:
        return _interruptible(command)

    if len(arguments) == len(sys.argv) - 1 and worker.needed(arguments):
        code = worker.run_in_worker(ended, arguments)
        if isinstance(code, VaeprobeError):
            from vaeprobe.cli import output, sharing

            if sharing.obituary(code):
                output.error(code, arguments)
            code = code.exit_code
        sys.exit(code)
    sys.exit(ended())


def run(arguments: Sequence[str]) -> int:
    """Run the command line in this process and return its exit code."""

    def tell(error: VaeprobeError, document: bool = True) -> None:
        from vaeprobe.cli import output
        from vaeprobe.cli.app import options

        told = isinstance(error, output.NotWrittenError)  # stdout holds the result already
        output.error(error, arguments if document and not told else (), options(arguments))

    def failed(error: VaeprobeError) -> int:
        # why they did not join each process knows of itself, in a line; the document is one
        tell(error, document=heard())
        return error.exit_code

    def work() -> int:
        if not {"WORLD_SIZE", "RANK"} & set(os.environ):
            return _called(arguments)
        from vaeprobe.cli import sharing
        from vaeprobe.cli.app import shared
        from vaeprobe.processes import place

        rank, world = place()
        if world == 1 or (rank == 0 and not shared(arguments)):
            return _called(arguments)
        if not shared(arguments):
            streams.say(
                f"process {rank} of {world} has nothing to do: {' '.join(arguments[:1])} runs in the first one"
            )
            return 0
        with sharing.sharing(arguments, tell) as others:
            if others is None:
                return _called(arguments)
            return _concluded(lambda: others.finished(_called(arguments)), others.failed)

    return _concluded(work, failed)


def _called(arguments: Sequence[str]) -> int:
    """Return the exit code of a command after the last of its output was written."""
    from vaeprobe.cli.app import app

    returned = app(args=list(arguments), prog_name="vaeprobe", standalone_mode=False)
    heed()  # Typer takes an interrupt for an answer
    sys.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    return returned if isinstance(returned, int) else 0


def _concluded(work: Callable[[], int], failed: Callable[[VaeprobeError], int]) -> int:
    """Return the exit code of work, whichever way it ends."""

    def tried() -> int:
        try:
            return work()
        except Exception as error:
            heed()  # of what is no error at all nothing is told
            ours = _as_ours(error)
            if ours is None and os.environ.get("VAEPROBE_DEBUG"):
                raise
            return failed(ours or bug(error))

    return _interruptible(tried)


def _interruptible(work: Callable[[], int]) -> int:
    """Return the exit code of work, or end this process where a signal interrupts it."""
    try:
        return work()
    except (KeyboardInterrupt, Terminated) as stop:
        streams.ending()
        streams.end(stop.exit_code if isinstance(stop, Terminated) else 130)


def _as_ours(error: Exception) -> VaeprobeError | None:
    """Return an exception of the parser, or of a full disk, as one of ours; None for a bug."""
    if isinstance(error, VaeprobeError):
        return error
    if (ours := in_words(error)) is not None:
        return ours
    if isinstance(error, OSError) and error.errno in FULL:
        return UsageError(f"cannot write: {(error.strerror or '').lower()}", hint="free some space")
    if out_of_memory(error):
        from vaeprobe.files.limits import with_more_memory

        return ResourceError("out of memory", hint=with_more_memory("fewer --samples, or a smaller --chunk"))
    from vaeprobe.cli.refusals import as_usage_error

    return as_usage_error(error)

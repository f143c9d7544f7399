"""stdout, stderr and signals: any encoding, closed and full streams, readers that leave, a prompt end."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from threading import Lock, Thread
from types import FrameType
from typing import IO, Any, NoReturn, TextIO, cast

from vaeprobe.errors import UsageError
from vaeprobe.heard import heard
from vaeprobe.stopping import Terminated, heed, tell

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if hasattr(signal, "SIGHUP"):  # the terminal is gone
    EXIT_CODES[signal.SIGHUP] = 129
# how long an interrupted run may take to end by itself, before it is ended in the midst of a call of torch
GRACE = 0.5
# what is said last of a run that several processes share
_shared: Callable[[int], int] | None = None
# held by the thread that ends this process: the main one, or that which reads signals
_end = Lock()
# what takes a drawing off the terminal that is there now
_drawn: list[Callable[[], None]] = []


def prepare() -> None:
    """Make the streams of this process fit for every environment; called once, by `main`."""
    for _ in range(3):  # a closed stream's number would go to the next file that is opened
        number = os.open(os.devnull, os.O_RDWR)
        if number > 2:
            os.close(number)
            break
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    codecs.register_error("vaeprobe", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="vaeprobe")
    sys.stdout = cast(TextIO, Stdout(sys.stdout))
    columns = os.environ.get("COLUMNS", "")
    if columns and not (columns.isdigit() and int(columns) >= 20):
        del os.environ["COLUMNS"]


# -- stdout -----------------------------------------------------------------------------------------


class Stdout:
    """The real stdout with two manners: a reader that left is no error, a full or closed stream is one of usage."""

    def __init__(self, real: IO[str] | None) -> None:
        self.real = real
        self.read = True

    def write(self, text: str) -> int:
        if text != "":  # parsers try a stream with nothing, and swallow what is wrong with it
            heed()
            self._try("write", text)
        return len(text)

    def flush(self) -> None:
        if self.real is not None:
            self._try("flush")

    def _try(self, method: str, *arguments: str) -> None:
        if not self.read:
            return
        if self.real is None:
            raise UsageError(
                "cannot write to stdout: it is closed", hint="-o FILE writes the document to a file"
            )
        try:
            getattr(self.real, method)(*arguments)
        except OSError as error:
            self.read = False
            # the interpreter flushes once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.real.fileno())
            if not isinstance(error, BrokenPipeError):
                raise UsageError(f"cannot write to stdout: {(error.strerror or '').lower()}") from None

    def __getattr__(self, name: str) -> object:
        return getattr(io.StringIO() if self.real is None else self.real, name)


def check_stdout() -> None:
    """Refuse a closed stdout before the work.

    Raises:
        UsageError: stdout is closed.
    """
    if isinstance(sys.stdout, Stdout) and sys.stdout.real is None:
        sys.stdout.write("")


def say(line: str) -> None:
    """Print a line on stderr, which may be closed or full."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class Lost:
    """A stream that may go away: what is written then is lost, and the run goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, as far as anybody is there."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, as far as it is there."""
        with contextlib.suppress(OSError):
            self._stream.flush()


# -- encodings --------------------------------------------------------------------------------------

STAND_INS = {
    **dict(zip("█▉▊▋▌▍▎▏", "####==--", strict=True)),
    **dict(zip("▁▂▃▄▅▆▇", "_..:::#", strict=True)),
    **dict(zip("░▒▓", ".:%", strict=True)),
    **dict.fromkeys("▀■", "#"),
    **dict(zip("●▲◆▼★✚", "@^oV*+", strict=True)),
    **dict.fromkeys("│┃┤├┼┊╎", "|"),
    **dict.fromkeys("─━–—−┄·•∙", "-"),
    **dict.fromkeys("╭╮╰╯┌┐└┘┬┴", "+"),
    **dict(zip("‘’“”", "''\"\"", strict=True)),
    "→": "->", "←": "<-", "⇒": "=>", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~", "±": "+/-", "×": "x", "…": "...",
    "∞": "inf", "√": "sqrt", "∂": "d", "∇": "grad", "∈": "in", "²": "^2", "³": "^3", "⁻": "^-", "°": " deg",
    "✓": "+", "✔": "+", "✗": "x", "✘": "x", "↑": "^", "↓": "v", "′": "'", "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip
_UPPER_DOTS = 0x01 | 0x02 | 0x08 | 0x10
BRAILLE = 0x2800


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for what an encoding lacks: an error handler for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(ascii_art, error.object[error.start : error.end])), error.end


def ascii_art(sign: str) -> str:
    """Return ASCII that stands for a character: of one column where it is part of a drawing, an escape of any other.

    A letter is never another one: it may be part of a file's name.
    """
    if sign in STAND_INS:
        return STAND_INS[sign]
    dots = ord(sign) - BRAILLE
    if 0 <= dots < 256:
        upper, lower = bool(dots & _UPPER_DOTS), bool(dots & ~_UPPER_DOTS)
        return " '.:"[upper + 2 * lower]
    return sign.encode("ascii", "backslashreplace").decode()


# -- signals ----------------------------------------------------------------------------------------


def end_promptly() -> None:
    """End on SIGTERM, SIGINT and SIGHUP by cleaning up, and within `GRACE` even from inside a long call of torch.

    Python runs signal handlers between its own instructions only; a thread that reads the wake-up pipe sees
    the signal at once.  It ends an interrupt, too, that Python lost inside a destructor.
    """

    def terminated(signum: int, frame: FrameType | None) -> None:
        code = EXIT_CODES[signal.Signals(signum)]
        if not tell(code) and os.name == "posix":
            return  # it ends already, by the thread below at the latest: a second one would disturb who cleans up
        raise KeyboardInterrupt if signum == signal.SIGINT else Terminated(code)

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        # the thread below ends the run
        if not isinstance(unraisable.exc_value, (KeyboardInterrupt, Terminated)):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = lost
    for number in EXIT_CODES:
        # nohup, or a shell that starts it in the background, has the others ignored
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, terminated)
    if os.name != "posix":
        return
    reading, writing_ = os.pipe()
    os.set_blocking(writing_, False)
    signal.set_wakeup_fd(writing_, warn_on_full_buffer=False)
    Thread(target=_end_later, args=(reading,), daemon=True).start()


@contextlib.contextmanager
def drawn(remove: Callable[[], None]) -> Iterator[None]:
    """Have what is drawn on the terminal inside the block removed, by whichever thread, where the run ends there."""
    _drawn.append(remove)
    try:
        yield
    finally:
        _drawn.remove(remove)


def interrupt() -> None:
    """End this process as SIGTERM does, from any thread."""
    signal.raise_signal(signal.SIGTERM)


def ending() -> None:
    """Take no further signal: a run that has been told to end does, with the code of the first one."""
    with contextlib.suppress(ValueError):  # in another thread than the main one, which takes them
        for number in EXIT_CODES:
            signal.signal(number, signal.SIG_IGN)


def stopped() -> str:
    """Return what an interrupted run says last."""
    nothing = "vaeprobe: stopped; no partial output was written"
    if "vaeprobe.kept" not in sys.modules:
        return nothing
    from vaeprobe.kept import kept_in

    match kept_in():
        case None:
            return nothing
        case place, True:
            return f"vaeprobe: stopped; the same command goes on from what is kept in {place}"
        case place, _:
            return f"vaeprobe: stopped; nothing was kept in {place} yet"


def end(exit_code: int) -> NoReturn:
    """End this process, which was interrupted: say why, once, whichever thread comes here first.

    Not by the interpreter's own end, which takes torch seconds on a busy machine.
    """
    with _end:
        if "vaeprobe.writing" in sys.modules:
            from vaeprobe.writing import discard

            discard()
        if "multiprocessing" in sys.modules:
            from multiprocessing import active_children

            for child in active_children():
                child.kill()
        for remove in _drawn:
            drawing = Thread(target=remove, daemon=True)
            drawing.start()
            drawing.join(GRACE / 2)  # a terminal that takes nothing (Ctrl-S) keeps nobody
        os._exit(last_words(exit_code))


def last_words(exit_code: int) -> int:
    """Say why an interrupted run ends, and return the exit code that it ends with."""
    if _shared is not None:
        return _shared(exit_code)
    if heard():
        say(stopped())  # those that have not joined yet are stopped alike
    return exit_code


def end_with(words: Callable[[int], int]) -> None:
    """Let `words` say why an interrupted run ends, which is shared with other processes."""
    global _shared
    _shared = words


def end_alone() -> None:
    """Undo `end_with`."""
    global _shared
    _shared = None


def _end_later(pipe: int) -> None:
    while received := os.read(pipe, 1):
        code = EXIT_CODES.get(signal.Signals(received[0]))
        if code is not None:
            time.sleep(GRACE)
            end(code)

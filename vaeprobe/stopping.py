"""Whether a signal has told this process to end: what that raises may be lost, or be taken for another error.

Python drops it inside a destructor, and where a generator that nobody asks any more is closed; Python 3.11 makes a RuntimeError
of it where a class is being made; a library may answer whatever fails by an error of its own, or by going on.  So whoever is
about to write what others will read asks here.
"""

from __future__ import annotations

__all__ = ["Terminated", "heed", "tell"]

# the exit code of the first signal
_told: int | None = None


class Terminated(BaseException):
    """A signal other than an interrupt ends the run; cleanup handlers run.

    Args:
        exit_code: what the run ends with.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def tell(exit_code: int) -> bool:
    """Take note that a signal ends the run, and return whether it is the first one."""
    global _told
    first = _told is None
    if first:
        _told = exit_code
    return first


def heed() -> None:
    """End a run that a signal has told to, though nothing says so any more.

    Raises:
        Terminated: a signal came.
    """
    if _told is not None:
        raise Terminated(_told)

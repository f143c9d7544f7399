"""Commands that end in the midst of their work: promptly, with a code that says so, and leaving nothing but what they keep."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are looked up in /proc"
)

SAMPLES = Path(__file__).parents[1] / "sample_models"
PICKLE, PROGRAM, ROWS = SAMPLES / "digits_conv.pt", SAMPLES / "digits_conv.pt2", SAMPLES / "digits.npy"
KEPT = ("--resume", "run.kept")
COMMANDS: dict[str, tuple[object, ...]] = {
    "orthogonality": (PICKLE, "--samples", 20000, "--rotations", 99, "--chunk", 128, *KEPT),
    "factorise": (PROGRAM, "--max-samples", 1024, "--sheets", 8, *KEPT),
    "trace": (PICKLE, "--starts", 2, "--images", "seams.png", *KEPT),
    "posterior": (PICKLE, "--data", ROWS, *KEPT),
    "beta": (PICKLE, "--data", ROWS, *KEPT),
    "train-linear": (ROWS, "--latent-dim", 8, "-o", "trained.safetensors", *KEPT),
    "report": (PICKLE, "--samples", 64, "-o", "page.html", *KEPT),
    "compare": (PICKLE, PROGRAM, "--samples", 128, *KEPT),
    "traverse": (PICKLE, "-o", "strips.html", *KEPT),
    "check": (PICKLE, "--rule", "orthogonality.alignment=0.5", "--resume", "run.jsonl"),
    "inspect": (PICKLE,),
    "convert": (PICKLE, "-o", "out.safetensors"),
}
# those that a run of the suite interrupts; the others, and more often, as `slow`
QUICK = ("orthogonality", "train-linear", "report", "check")
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
SECONDS = float(os.environ.get("VAEPROBE_PROMPT", "10"))
"""How soon a run ends after a signal: within a second where it has a core, and a machine of tests is not ours alone."""


class Run:
    """A command in a session and folders of its own."""

    def __init__(self, place: Path, name: str, *more: str) -> None:
        self.work, self.temporary = place / "work", place / "tmp"
        for folder in (self.work, self.temporary):
            folder.mkdir(exist_ok=True, parents=True)
        words = [str(word) for word in (*COMMANDS[name], *more)]
        environment = {**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vaeprobe", name, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env=environment,
            start_new_session=True,
            # what shells start in the background ignores interrupts, and so would what it starts
            preexec_fn=lambda: [
                signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)
            ],
        )

    def ended(self, timeout: float) -> tuple[int, str, str]:
        """Return the exit code and what was written."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        finally:
            for process in self.alive():
                os.kill(process, signal.SIGKILL)
        return self.process.returncode, out, err

    def alive(self) -> list[int]:
        """Return the processes of the session that have not ended."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = place.read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.process.pid and state not in "ZX":
                found.append(int(place.parent.name))
        return found

    def left(self) -> set[str]:
        """Return the names of the files that are there."""
        return {path.name for folder in (self.work, self.temporary) for path in folder.rglob("*")}


def interrupted(
    place: Path, name: str, after: float, sent: signal.Signals, outputs: set[str], *, twice: bool = False
) -> float | None:
    """Interrupt a command after some seconds, hold it to all that is promised, and return how long it took to end.

    None where it was done before.

    Args:
        outputs: files that a whole run leaves; each is moved to its place when it is whole.
    """
    run = Run(place, name, *(("--json",) if "json" in place.name else ()))
    time.sleep(after)
    start = time.monotonic()
    run.process.send_signal(sent)
    if twice:
        time.sleep(0.05)
        run.process.send_signal(sent)
    code, out, err = run.ended(timeout=60)
    took = time.monotonic() - start
    assert not run.alive()
    if code in (0, 1, 3):  # done
        return None
    if code == -sent and after < 1:  # on a busy machine Python itself was still starting
        assert not run.left()
        return None
    assert code == CODES[sent], (code, err)
    assert took < SECONDS
    if out and "json" in place.name:
        json.loads(out)  # it came while all of it was written
    assert out == "" or out.endswith("\n")
    assert "Traceback" not in err, err
    assert "vaeprobe: stopped" in err
    left = run.left() - {"run.kept", "run.jsonl"}
    assert left <= outputs, left
    return took


def reference(place: Path, name: str) -> tuple[str, float, set[str]]:
    """Return the document of a whole run, how long it took, and the files that it left."""
    start = time.monotonic()
    run = Run(place, name, "--json")
    code, out, err = run.ended(timeout=600)
    assert code in (0, 1, 3), err
    return out, time.monotonic() - start, run.left()


def without_times(document: str) -> list[str]:
    return [line for line in document.splitlines() if '"seconds"' not in line]


def sweep(name: str, times: int, place: Path) -> Iterator[float]:
    """Interrupt a command at random times, go on in the same folder from what is kept, and compare with a whole run."""
    whole, seconds, outputs = reference(place / "whole", name)
    draw = random.Random(name)
    for turn in range(times):
        sent = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[turn % 3]
        here = place / f"{turn}{'json' * (turn % 3 == 0)}"
        took = interrupted(here, name, draw.uniform(0.3, seconds), sent, outputs, twice=turn % 4 == 3)
        if took is None:
            continue
        yield took
        if turn % 5 == 0 and "--resume" in COMMANDS[name]:
            again, _, _ = reference(here, name)
            assert without_times(again) == without_times(whole)


EARLY = """
import signal, sys, types
cli = types.ModuleType("vaeprobe.cli")
cli.main = lambda: signal.raise_signal(int(sys.argv[1]))  # while it is imported
sys.modules["vaeprobe.cli"] = cli
import vaeprobe.__main__
vaeprobe.__main__.main()
"""


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize("rank", ["", "0", "1"])
def test_a_command_that_is_still_imported_ends_without_a_traceback(rank: str, sent: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY, str(int(sent))],
        capture_output=True,
        text=True,
        env={**os.environ, "RANK": rank, "WORLD_SIZE": "2" if rank else ""},
        # ignored in the background of a shell
        preexec_fn=lambda: [
            signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)
        ],
    )
    assert (done.returncode, done.stdout) == (CODES[sent], "")
    # of several processes the first one is heard
    assert done.stderr == ("vaeprobe: stopped; no partial output was written\n" if rank != "1" else "")


# a machine so busy that the thread which reads signals comes while the main one says why it ends, or is leaving
BUSY = """
import atexit, threading, time
from vaeprobe import cli
from vaeprobe.cli import streams
from vaeprobe.stopping import Terminated

def interrupted(arguments):
    threading.Thread(target=streams.end, args=(143,)).start()
    raise Terminated(143)

say = streams.say
streams.say = lambda line: (say(line), time.sleep(0.2))
atexit.register(time.sleep, 60)
cli._called = interrupted
cli.run(["explain"])
"""


def test_two_threads_that_end_a_run_say_so_once_and_leave_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (143, "vaeprobe: stopped; no partial output was written\n")


# a signal that comes when all is said, while the interpreter leaves
LATE = """
import atexit, signal, sys
from vaeprobe import __main__
sys.argv = ["vaeprobe", "inspect", sys.argv[1]]
atexit.register(signal.raise_signal, signal.SIGTERM)
__main__.main()
"""


# a signal that comes where what it raises is taken for something else
TAKEN = """
import signal, sys
from vaeprobe import cli
from vaeprobe.cli import app, streams
from vaeprobe.errors import InputError

class Field:
    def __set_name__(self, owner, name):
        signal.raise_signal(int(sys.argv[1]))

def taken_for_an_error(**_):
    try:
        type("Tensors", (), {"used": Field()})  # a RuntimeError in Python 3.11
    except BaseException as error:
        raise InputError("`model.pt` cannot be read", hint="is it damaged?") from error

def taken_for_an_answer(**_):
    try:
        signal.raise_signal(int(sys.argv[1]))
    except BaseException:
        return 5

streams.end_promptly()
app.app = globals()[sys.argv[2]]
sys.exit(cli.run(["explain"]))
"""


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize("taken", ["taken_for_an_error", "taken_for_an_answer"])
def test_what_a_signal_raises_ends_the_run_whatever_it_is_taken_for(taken: str, sent: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKEN, str(int(sent)), taken],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    )
    said = "vaeprobe: stopped; no partial output was written\n"
    assert (done.returncode, done.stdout, done.stderr) == (CODES[sent], "", said)


# a signal that comes before a command begins, while its error is told, as it ends, and once more as it ends by the first
AT_THE_EDGES = """
import signal, sys
from vaeprobe import __main__, cli
from vaeprobe.cli import app, output, streams

def interrupted(*_, **__):
    signal.raise_signal(sent)

ending, streams.GRACE = streams.ending, 60
sent, where = int(sys.argv[1]), sys.argv[2]
if where == "before":
    cli.consider = interrupted
elif where == "telling":
    output.error = interrupted
elif where == "ending":
    streams.ending = lambda: (interrupted(), ending())
else:
    app.app = interrupted
    streams.ending = lambda: (interrupted(), ending())
sys.argv = ["vaeprobe", *sys.argv[3:]]
__main__.main()
"""


@pytest.mark.parametrize("model", [PICKLE, SAMPLES / "digits_conv.safetensors"], ids=["worker", "alone"])
@pytest.mark.parametrize("where", ["before", "telling", "ending", "twice"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_edges_of_a_command_ends_it_in_a_line(
    sent: signal.Signals, where: str, model: Path
) -> None:
    words = ["inspect", str(model), *(["--key", "no.such"] if where == "telling" else [])]
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_EDGES, str(int(sent)), where, *words],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (
        CODES[sent],
        "vaeprobe: stopped; no partial output was written\n",
    )
    assert bool(done.stdout) == (where == "ending")  # all was said by then


# a signal that is lost, in a destructor or in a generator that nobody asks any more, on a machine too busy for the thread
LOST = """
import signal, sys
from pathlib import Path
from vaeprobe import writing
from vaeprobe.cli import app, run, streams

class Held:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def lost(**_):
    held = Held()
    del held
    print("goes on", file=sys.stderr)
    match sys.argv[1]:
        case "file":
            writing.write_text("out.html", "page")
        case "stream":
            writing.write_text("/dev/stdout", "page")
        case "stdout":
            print("page")
        case "error":
            raise ValueError("of what the signal left half done")
    return 0

streams.prepare()
streams.end_promptly()
streams.GRACE = 60
app.app = lost
sys.exit(run(["explain"]))
"""


@pytest.mark.parametrize("to", ["file", "stream", "stdout", "error", "nothing"])
def test_a_run_that_lost_a_signal_writes_nothing_any_more(to: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST, to], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    said = "goes on\nvaeprobe: stopped; no partial output was written\n"
    assert (done.returncode, done.stdout, done.stderr) == (143, "", said)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("model", ["digits_conv.pt", "digits_conv.safetensors"])
def test_a_signal_after_the_last_word_changes_nothing(model: str) -> None:
    """Of a command that runs in a worker, and of one that does not."""
    done = subprocess.run(
        [sys.executable, "-c", LATE, SAMPLES / model], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")


@pytest.mark.parametrize("name", QUICK)
def test_an_interrupted_command_ends_at_once_and_leaves_what_it_keeps(name: str, tmp_path: Path) -> None:
    list(sweep(name, 3, tmp_path))


def test_an_interrupt_from_the_terminal_is_told_once_by_a_check_of_several_models_at_a_time(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "check", str(PROGRAM), "--jobs=2", "--no-sandbox")
    until = time.monotonic() + 60
    while (
        len(run.alive()) < 4 and time.monotonic() < until
    ):  # itself, who tracks resources, and two that import
        time.sleep(0.02)
    time.sleep(0.2)
    os.killpg(run.process.pid, signal.SIGINT)
    code, out, err = run.ended(timeout=60)
    said = [line for line in err.splitlines() if "GB of memory" not in line]
    assert (code, out, len(said)) == (130, "", 1), err
    assert said[0].startswith("vaeprobe: stopped")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_interrupted_at_any_time(name: str, tmp_path: Path) -> None:
    took = sorted(sweep(name, 30, tmp_path))
    print(f"{name}: {len(took)} of 30 interrupted, longest {took[-1] if took else 0:.2f} s")


LONG = """
import torch

class Long(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 30)

    def forward(self, z):
        open("begun", "a").close()
        torch.linalg.eigvalsh(torch.ones(2500, 2500) + torch.eye(2500))  # no interrupt is seen in there
        return torch.tanh(self.layer(z))
"""


def test_a_run_that_is_ended_inside_a_long_call_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    import pty

    import torch

    (tmp_path / "long.py").write_text(LONG)
    layer = torch.nn.Linear(4, 30)
    torch.save({"layer.weight": layer.weight, "layer.bias": layer.bias}, tmp_path / "long.pt")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        words = [sys.executable, "-m", "vaeprobe", "orthogonality", "long.pt", "--arch", "long.py:Long"]
        os.execve(sys.executable, words, {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"})
    written, sent = b"", False
    while True:
        if not sent and b"\x1b[?25l" in written and (tmp_path / "begun").exists():
            os.write(terminal, b"\x03")
            sent = True
        try:
            more = os.read(terminal, 65536)
        except OSError:  # it has ended
            break
        if not more:
            break
        written += more
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130, written[-500:]
    assert written.endswith(b"vaeprobe: stopped; no partial output was written\r\n")
    assert written.rindex(b"\x1b[?25h") > written.rindex(b"\x1b[?25l")  # the cursor shows again

"""The live view on a real terminal: tmux, whose screen is read after each step."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runbook.events import (
    Event,
    Observed,
    Payload,
    PlanFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    StepWaiting,
    Waiting,
)
from runbook.report.layout import Piece
from runbook.report.terminal import Painter

ROOT = Path(__file__).parents[3]
WAIT = {"id": "wait-ready", "type": "wait-ready"}
STARTED = StepStarted(**WAIT, name="wait-ready")
BEGUN = RunStarted(name="upgrade the gateway")
PATIENCE = 20.0  # seconds until a test gives up


def healthy(seconds: float = 3.0, **fields: Any) -> StepWaiting:
    # The halves are for the moments between two events.
    times: dict[str, Any] = {"seconds": seconds, "left": 100.5, "healthy": seconds + 0.5, "healthy_for": 40.0}
    return StepWaiting(**{**WAIT, **times, "reason": f"healthy for {seconds}s of 40s", **fields})


def ended(name: str, reason: str = "new invocation, PID 137") -> StepFinished:
    facts: dict[str, Any] = {"verdict": "job-done", "attempts": 1, "seconds": 2.0, "evidence": {}}
    return StepFinished(id=name, type=name, status="changed", reason=reason, **facts)


def until(is_true: Callable[[], bool], what: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < give_up, what()
        time.sleep(0.02)


class Terminal:
    """A terminal of tmux in which the driver runs, and the two pipes by which the test and the driver talk."""

    def __init__(
        self,
        folder: Path,
        columns: int,
        env: str = "",
        output: str = "auto",
        then: str = "",
        first: str = ":",
        looks: str = "",
    ) -> None:
        self.folder = folder
        pipes = [folder / "events", folder / "confirmed"]
        for pipe in pipes:
            os.mkfifo(pipe)
        self.events, self.confirmed = (os.open(pipe, os.O_RDWR) for pipe in pipes)
        words = (sys.executable, "-m", "tests.unit.report.live_driver", output, *map(str, pipes), looks)
        driver = shlex.join(words)  # The folder of the checkout may have a space in its name.
        shell = f"cd {shlex.quote(str(ROOT))}; {first}; echo before; env {env} {driver} {then}; echo status $?"
        shell += "; exec sleep 1000"
        self.tmux("-u", "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", "20", shell)

    def tmux(self, *argv: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self.folder / "s"), *argv], capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout

    def send(self, *payloads: Payload) -> None:
        """Let events happen, and wait until the driver has passed each of them to its report."""
        for payload in payloads:
            os.write(self.events, f"{Event.of(time.time(), 'run-1', payload).to_line()}\n".encode())
            self.await_answer("shown\n")

    def end(self, code: int = 0) -> None:
        os.write(self.events, f"exit {code}\n".encode())

    def await_answer(self, answer: str) -> None:
        assert select.select([self.confirmed], [], [], PATIENCE)[0], self.screen()
        assert os.read(self.confirmed, len(answer)).decode() == answer

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def await_line(self, pattern: str) -> list[str]:
        """Return the screen once it has a line that matches."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = self.screen()
            return any(re.search(pattern, line) for line in found)

        until(is_there, lambda: "\n".join(["no line matches " + pattern, *found]))
        return found

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    @property
    def echoes(self) -> bool:
        """True if the terminal shows what is typed."""
        fd = os.open(self.tmux("display-message", "-p", "#{pane_tty}").strip(), os.O_RDWR | os.O_NOCTTY)
        try:
            return bool(termios.tcgetattr(fd)[3] & termios.ECHO)
        finally:
            os.close(fd)

    @property
    def pid(self) -> int:
        """The driver, which is the child of the shell."""
        shell = self.tmux("display-message", "-p", "#{pane_pid}").strip()
        return int(subprocess.run(["pgrep", "-P", shell], capture_output=True, text=True, check=True).stdout.split()[0])

    def close(self) -> None:
        self.tmux("kill-server")
        for fd in (self.events, self.confirmed):
            os.close(fd)


Opens = Callable[..., Terminal]


@pytest.fixture(name="opens")
def _opens() -> Iterator[Opens]:
    folder = Path(tempfile.mkdtemp(prefix="live-"))  # The path of a socket has at most 107 bytes.
    opened: list[Terminal] = []

    def make(columns: int = 80, **options: str) -> Terminal:
        opened.append(Terminal(folder, columns, **options))
        return opened[0]

    yield make
    for terminal in opened:
        terminal.close()
    shutil.rmtree(folder)


def test_numbers_move_below_the_lines_that_stay(opens: Opens) -> None:
    terminal = opens()
    terminal.send(BEGUN, ended("restart"), STARTED, healthy(3.0, facts=["port 80 is held only by PID 137"]))
    for seconds in (4, 5):
        screen = terminal.await_line(f"healthy {seconds}s of 40s")
        wait = f"  ..    wait-ready           healthy {seconds}s of 40s, 1min {44 - seconds}s left"
        assert [line for line in screen if line] == [
            "before",
            f"upgrade the gateway{'run run-1':>61}",
            f"  ok    restart              new invocation, PID 137{'2s':>28}",
            wait + f"{seconds - 3}s".rjust(80 - len(wait)),
            "          port 80 is held only by PID 137",
        ]
    terminal.send(ended("wait-ready", "healthy for 40s"))
    terminal.end(3)
    screen = [line for line in terminal.await_line("^status 3$") if line]
    assert screen[-2:] == [f"  ok    wait-ready           healthy for 40s{'2s':>36}", "status 3"]
    assert len(screen) == 5


def test_a_look_that_takes_long_is_shown(opens: Opens) -> None:
    terminal = opens(looks="looks")
    for seconds in (1, 2):
        screen = [line for line in terminal.await_line(f"machine +{seconds}s$") if line]
        assert screen == ["before", f"  ..    look                 reads the state of the machine{f'{seconds}s':>21}"]
    wait = Waiting(name="wait-ready", reason="/health: no answer yet", seconds=1.0, left=89.0)
    terminal.send(Observed(name="x", file="x", unit=None), wait)
    screen = [line for line in terminal.await_line("1min 27s left +3s$") if line]
    assert screen[:2] == ["before", f"x{'nothing is changed':>79}"]
    assert screen[2].startswith("  ..    wait-ready           /health: no answer yet; 1min 27s left")
    terminal.send(PlanFinished(status="ok", exit=0, reason="nothing was changed"))
    terminal.end()
    screen = [line for line in terminal.await_line("^status 0$") if line]
    assert screen[2:] == ["nothing was changed", "status 0"]


def test_what_is_typed_does_not_move_the_view(opens: Opens) -> None:
    terminal = opens(then="; read first; read second; echo typed $first, $second")
    terminal.send(BEGUN, STARTED, healthy(facts=["port 80 is held only by PID 137"]))
    terminal.await_line("healthy 4s of 40s")
    terminal.press("ls -l", "Enter", "Enter", "C-r")
    terminal.await_line("healthy 5s of 40s")
    terminal.press("Enter")
    screen = [line for line in terminal.await_line("healthy 7s of 40s") if line]
    assert [re.sub(" of 40s.*", "", line) for line in screen] == [
        "before",
        f"upgrade the gateway{'run run-1':>61}",
        "  ..    wait-ready           healthy 7s",
        "          port 80 is held only by PID 137",
    ]
    assert not terminal.echoes
    terminal.end()
    terminal.await_line("^typed ls -l,$")  # The shell gets it.
    assert terminal.echoes


@pytest.mark.parametrize("key", ["C-c", "C-\\"])
def test_the_echo_is_restored_before_a_signal_ends_the_run(opens: Opens, key: str) -> None:
    terminal = opens()
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    assert not terminal.echoes
    terminal.press(key)
    terminal.await_line("^status 13[01]$")
    assert terminal.echoes


def test_the_echo_is_on_while_the_program_is_stopped(opens: Opens) -> None:
    """The shell is one that does not set the modes of its terminal."""
    terminal = opens(first="set -m", then="; echo stopped; read line; fg >/dev/null")
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    assert not terminal.echoes
    terminal.press("C-z")
    terminal.await_line("^stopped")
    assert terminal.echoes
    terminal.press("Enter")
    terminal.await_line("healthy (6|7|8|9)s of 40s")
    until(lambda: not terminal.echoes, terminal.screen)
    terminal.end()
    terminal.await_line("^status 0$")
    assert terminal.echoes


def test_in_the_background_the_echo_stays_on(opens: Opens) -> None:
    terminal = opens(first="set -m", then="; echo stopped; bg >/dev/null; wait")
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    terminal.press("C-z")
    terminal.await_line("^stopped")
    terminal.send(healthy(5.0), healthy(6.0))
    time.sleep(1.0)  # several paintings
    assert terminal.echoes
    terminal.end()
    terminal.await_line("^status 0$")
    assert terminal.echoes


@pytest.mark.parametrize("sizes", [(50, 120), (110, 45, 80)])
def test_a_resize_leaves_no_rest(opens: Opens, sizes: tuple[int, ...]) -> None:
    terminal = opens(100)
    facts = ["port 18789 (127.0.0.1 and ::1, both address families of this machine) is held only by PID 137 of 3"]
    terminal.send(BEGUN, ended("restart"), STARTED, healthy(facts=facts))
    terminal.await_line("is held only")
    for columns in sizes:
        terminal.tmux("resize-window", "-x", str(columns), "-y", "20")
        before = terminal.await_line(r"healthy \d+s of 40s")
        seconds = max(map(int, re.findall(r"healthy (\d+)s of", " ".join(before))))
        screen = terminal.await_line(f"healthy {seconds + 1}s of 40s")
        assert sum("wait-ready" in line for line in screen) == 1, screen
        assert " ".join(" ".join(screen).split()).count("of this machine") == 1, screen
        assert max(map(len, screen)) <= columns
    terminal.end()
    screen = terminal.await_line("^status 0$")
    assert not any("wait-ready" in line for line in screen)


def test_a_stopped_terminal_holds_up_neither_the_events_nor_the_end(opens: Opens) -> None:
    terminal = opens()
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    terminal.tmux("send-keys", "C-s")
    for number in range(2000):  # more than a terminal takes before it blocks
        terminal.send(ended(f"step-{number}"))
    pid, began = terminal.pid, time.monotonic()
    os.kill(pid, signal.SIGTERM)
    terminal.await_answer("ended\n")
    assert time.monotonic() - began < 5.0  # 0.3 s alone; without a limit it would be for ever
    terminal.tmux("send-keys", "C-q")
    # The program did not wait for the terminal, so the shell may write over a line of the live view.
    terminal.await_line("^status 143")


def test_a_terminal_that_goes_on_shows_all_of_it(opens: Opens) -> None:
    terminal = opens()
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    terminal.tmux("send-keys", "C-s")
    terminal.send(ended("wait-ready", "healthy for 40s"))
    terminal.end(0)
    terminal.tmux("send-keys", "C-q")
    screen = terminal.await_line("^status 0$")
    assert sum("healthy" in line for line in screen) == 1


def test_a_lost_terminal_does_not_end_the_run(opens: Opens) -> None:
    terminal = opens()
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    terminal.tmux("kill-server")
    terminal.send(*[ended(f"step-{number}") for number in range(20)])
    terminal.end(0)
    terminal.await_answer("ended\n")


def test_an_interruption_leaves_the_screen_clean(opens: Opens) -> None:
    terminal = opens()
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    terminal.tmux("send-keys", "C-c")
    screen = [line for line in terminal.await_line("^status 130$") if line]
    assert screen == ["before", f"upgrade the gateway{'run run-1':>61}", "interrupted by SIGINT", "status 130"]
    assert terminal.tmux("display-message", "-p", "#{cursor_flag} #{cursor_x}").split() == ["1", "0"]


def test_a_kill_leaves_whole_lines_and_the_cursor(opens: Opens) -> None:
    terminal = opens()
    terminal.send(BEGUN, STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    os.kill(terminal.pid, signal.SIGKILL)
    screen = terminal.await_line("^status 137$")
    assert any(line.startswith("  ..    wait-ready           healthy") for line in screen)
    assert terminal.tmux("display-message", "-p", "#{cursor_flag} #{cursor_x}").split() == ["1", "0"]


@pytest.mark.parametrize("options", [{"env": "TERM=dumb"}, {"output": "plain"}, {"then": "| cat"}])
def test_plain_text_is_a_log(opens: Opens, options: dict[str, str]) -> None:
    """The events of a wait of 36 s show a line after 15 and after 30 s."""
    terminal = opens(**options)
    terminal.send(BEGUN, STARTED, healthy(0.0), healthy(15.0), healthy(17.0), healthy(30.0))
    screen = [line for line in terminal.await_line("30s: healthy") if line]
    assert screen[2:] == [
        "  ..    wait-ready           15s: healthy for 15.0s of 40s; at most 1min 40s",
        "                             more",
        "  ..    wait-ready           30s: healthy for 30.0s of 40s; at most 1min 40s",
        "                             more",
    ]


def test_no_color_has_no_colours(opens: Opens) -> None:
    terminal = opens(env="NO_COLOR=1")
    terminal.send(BEGUN, ended("restart"), STARTED, healthy())
    terminal.await_line("healthy 4s of 40s")
    codes = set(re.findall(r"\x1b\[([\d;]*)m", terminal.tmux("capture-pane", "-p", "-e")))
    assert not any(re.search(r"\b(3[0-7]|9\d)\b", code) for code in codes), codes


def render(pieces: Iterable[Piece]) -> str:
    return "".join(text for text, _ in pieces)


def test_only_what_changed_is_painted() -> None:
    painter = Painter(render)
    frame = "\x1b[?2026h{}\x1b[?2026l".format
    one: list[list[Piece]] = [[("a", "")], [("b", "")], [("c", "")]]
    two: list[list[Piece]] = [[("a", "")], [("B", "")], [("c", "")]]
    assert painter.paint([], one, 80) == frame("\r\x1b[J\x1b[2Ka\r\n\x1b[2Kb\r\n\x1b[2Kc\r\n")
    assert painter.paint([], one, 80) == ""
    assert painter.paint([], two, 80) == frame("\x1b[3A\r\r\n\x1b[2KB\r\n\r\n")
    assert painter.paint([], two[:1], 80) == frame("\x1b[3A\r\r\n\x1b[J")
    assert painter.paint(["done"], two[:1], 80) == frame("\x1b[1A\r\x1b[Jdone\r\n\x1b[2Ka\r\n")
    assert painter.paint([], [], 80) == frame("\x1b[1A\r\x1b[J")
    assert painter.paint([], [], 80) == ""


def test_on_a_terminal_that_became_narrower_a_line_is_several() -> None:
    painter = Painter(render)
    block: list[list[Piece]] = [[("x" * 100, "")], [("y", "")]]
    painter.paint([], block, 120)
    assert painter.paint([], block, 40).startswith("\x1b[?2026h\x1b[4A\r\x1b[J")


def test_after_ctrl_z_what_was_painted_stays() -> None:
    painter = Painter(render)
    block: list[list[Piece]] = [[("x", "")]]
    painter.paint([], block, 80)
    painter.forget()
    assert painter.paint([], block, 80) == "\x1b[?2026h\r\x1b[J\x1b[2Kx\r\n\x1b[?2026l"

"""A terminal that a command runs in, of so many columns: what a person sees on it, frame by frame."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b[^\[]")


class Screen:
    """What stands on it: of ECMA-48 what progress needs, and a fault for anything else."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self.row = self.column = 0
        self.has_cursor = True
        self.widest = 0

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                found = _SEQUENCE.match(text, at)
                assert found, f"no sequence that this screen knows: {text[at : at + 10]!r}"
                self._obey(found[1] or "", found[2] or "")
                at = found.end()
            else:
                self._put(text[at])
                at += 1

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()

    def _obey(self, parameters: str, letter: str) -> None:
        match letter:
            case "m":
                return
            case "A":
                self.row -= int(parameters or 1)
                assert self.row >= 0, "above the first line"
            case "K":
                assert parameters == "2"
                self.lines[self.row] = ""
            case "h" | "l":
                assert parameters == "?25"
                self.has_cursor = letter == "h"
            case _:
                raise AssertionError(f"a sequence that this screen does not know: {parameters}{letter}")

    def _put(self, char: str) -> None:
        match char:
            case "\r":
                self.column = 0
            case "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            case _:
                assert char.isprintable(), repr(char)
                if self.column == self.columns:
                    self._put("\r")
                    self._put("\n")
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + char + line[self.column + 1 :]
                self.column += 1
                self.widest = max(self.widest, self.column)


class Session:
    """A command on a terminal; its standard output goes there, too."""

    def __init__(
        self, command: Sequence[str], columns: int, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.screen = Screen(columns)
        self.frames: list[str] = []  # each other than the one before
        without = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=without | {"TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._ours = ours
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def shows(self, pattern: str) -> str:
        """The first frame in which that stands; lines are broken as the terminal has them."""
        words = re.compile(pattern.replace(" ", r"\s+"), re.DOTALL)
        until, looked_at = time.monotonic() + 60, 0
        while True:
            frames = self.frames[looked_at:]
            for frame in frames:
                if words.search(frame):
                    return frame
            looked_at += len(frames)
            assert time.monotonic() < until, "\n---\n".join(self.frames[-3:])
            time.sleep(0.05)

    def ended(self) -> int:
        code = self._process.wait(240)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        os.close(self._ours)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:  # the other side is closed
                return
            self.screen.feed(piece.decode())
            if not self.frames or self.frames[-1] != self.screen.text:
                self.frames.append(self.screen.text)

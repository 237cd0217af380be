"""Colors of log lines: on a terminal, unless they are refused."""

import contextlib
import io
import logging

import pytest

from deeplab.program import start


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def _line(level, message, stands_out=False, stderr=None):
    record = logging.LogRecord("deeplab", level, "", 0, message, (), None)
    record.stands_out = stands_out
    with contextlib.redirect_stderr(stderr or Terminal()):
        return start._OneLine("%(message)s").format(record)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def test_warnings_and_validations_stand_out_and_nothing_else(terminal):
    assert _line(logging.WARNING, "odd") == "\033[33modd\033[0m"
    assert _line(logging.INFO, "validation at step 1", stands_out=True) == "\033[32mvalidation at step 1\033[0m"
    assert _line(logging.INFO, "step 1") == "step 1"


def test_names_cannot_color_or_erase(terminal):
    assert _line(logging.WARNING, "a\033[2Jb") == "\033[33ma\\x1b[2Jb\033[0m"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colors_can_be_refused(terminal, name, value):
    terminal.setenv(name, value)
    assert _line(logging.WARNING, "odd") == "odd"


def test_a_file_gets_no_colors(terminal):
    assert _line(logging.WARNING, "odd", stderr=io.StringIO()) == "odd"

"""Ctrl-C at the moments that matter: while loading, while opening outputs, while labelling."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dedos_deploy.interrupts import Interrupts


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_while_loading_it_raises_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        ctrl_c()
        raise AssertionError("not reached")


def test_an_error_that_a_library_makes_of_it_is_still_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        try:
            ctrl_c()
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(ImportError), Interrupts():
        raise ImportError("not installed")


def test_held_it_raises_once_everything_is_opened() -> None:
    opened = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        with interrupts.held():
            ctrl_c()
            opened.append("output")
        raise AssertionError("not reached")
    assert opened == ["output"]


def test_deferred_it_asks_once_and_then_ends_the_process() -> None:
    with Interrupts() as interrupts:
        stop = interrupts.defer()
        ctrl_c()
        assert stop.is_set() and interrupts.seen
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_what_a_test_starts() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        child.send_signal(signal.SIGINT)
        assert child.wait(20) in (-signal.SIGINT, 1)
    finally:
        child.kill()


def test_it_does_so_too_when_tests_run_in_the_background_of_a_script() -> None:
    """There Ctrl-C is ignored, and children inherit that."""
    name = f"{__file__}::test_ctrl_c_ends_what_a_test_starts"
    words = 'trap "" INT; exec "$@"'
    command = ["sh", "-c", words, "sh", sys.executable, "-m", "pytest", "-q", name]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""Interrupts: heard by the search alone, not by the processes that read its data."""

import os
import signal
import time

import pytest

from lrtune.search.loop import Interrupts


def test_ctrl_c_waits_until_it_is_heard() -> None:
    stored = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        stored.append("all of it")
        with interrupts.heard():
            stored.append("never")
    assert stored == ["all of it"]


def test_a_search_in_a_shells_background_goes_on_at_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the shell has it for `&`
    other = signal.getsignal(signal.SIGTERM)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            with interrupts.heard():
                assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != other
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) == other


def test_a_handler_that_cannot_be_put_back_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(signal, "getsignal", lambda number: None)  # C code's
        with Interrupts():
            patched.undo()
            assert signal.getsignal(signal.SIGINT) == before
    assert signal.getsignal(signal.SIGINT) == before


def child_sent(number: signal.Signals) -> int:
    """The exit code of a forked process, in the midst of the search's hearing."""
    with Interrupts() as interrupts, interrupts.heard():
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, b"!")
            time.sleep(0.5)
            os._exit(7)
        os.read(reads, 1)  # a signal before the child is up would be lost
        os.kill(child, number)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 7), (signal.SIGTERM, 0)])
def test_a_worker_outlives_ctrl_c_and_ends_when_it_is_told(
    number: signal.Signals, code: int
) -> None:
    assert child_sent(number) == code

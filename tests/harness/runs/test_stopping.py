"""A signal leaves word; the run ends where nothing is half done."""

import os
import signal
import threading

import pytest

from harness.runs import stopping


def test_sigterm_gives_time_and_ctrl_c_gives_none():
    with stopping.signals(grace_s=60) as stop:
        assert not stop.is_asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_asked
        assert not stop.is_over
    with stopping.signals(grace_s=60) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_over


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_whatever_is_going_on_and_handlers_are_given_back(first):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stopping.signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
        os.getpid()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_in_a_thread_nothing_is_heard_and_nothing_fails():
    asked = []

    def body():
        with stopping.signals() as stop:
            asked.append(stop.is_asked)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert asked == [False]

"""Signals set a flag that the run checks between units."""

import os
import signal
import threading

import pytest

from harness.runs import stopping


def test_sigterm_has_a_grace_period_and_ctrl_c_has_none():
    with stopping.signals(grace_s=60) as stop:
        assert not stop.is_asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_asked
        assert not stop.is_over
    with stopping.signals(grace_s=60) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_over


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_raises_and_the_handlers_are_restored(first):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stopping.signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
        os.getpid()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_outside_the_main_thread_no_flag_is_set_and_nothing_fails():
    flags = []

    def body():
        with stopping.signals() as stop:
            flags.append(stop.is_asked)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert flags == [False]

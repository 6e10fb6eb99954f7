"""Signals that ask training to stop, which it does between two segments."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import Any


class StopRequest:
    """The first Ctrl-C or SIGTERM asks training to stop after the current segment; a second Ctrl-C aborts.

    Raising at once could lose the state that the running segment was given to overwrite. A second SIGTERM is ignored:
    services send it to all processes, and the parent of many seeds passes on its own.

    Args:
        terminate: whether SIGTERM waits, too: where there is something to save.
        takes_over: whether handlers that somebody installed are replaced meanwhile; else they stay in charge.
    """

    def __init__(self, terminate: bool = True, takes_over: bool = True) -> None:
        self._defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
        if terminate:
            self._defaults[signal.SIGTERM] = signal.SIG_DFL
        self._takes_over = takes_over
        self._old: dict[int, Any] = {}
        self._came: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._came is not None

    def __enter__(self) -> StopRequest:
        for number, default in self._defaults.items():
            if self._takes_over or signal.getsignal(number) is default:
                with contextlib.suppress(ValueError):  # not in the main thread
                    self._old[number] = signal.signal(number, self._handle)
        self._hook = sys.unraisablehook
        if signal.SIGINT in self._old:
            sys.unraisablehook = self._swallowed
        return self

    def __exit__(self, *error: object) -> None:
        sys.unraisablehook = self._hook
        for number, old in self._old.items():
            signal.signal(number, old)

    def _handle(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._came = self._came or number

    def _swallowed(self, what: Any) -> None:
        """Python ignores what a finaliser or a callback of the garbage collector raises: an abort comes again."""
        if isinstance(what.exc_value, KeyboardInterrupt):
            threading.Timer(0.01, _interrupt_main).start()
        else:
            self._hook(what)

    def strike(self) -> None:
        """Do what the signal that came would have done."""
        if self._came == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt


def _interrupt_main() -> None:
    if hasattr(signal, "pthread_kill"):  # wakes the main thread where it waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)

"""The first SIGTERM or SIGINT asks a transport to finish; the second ends the process."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Generator

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Generator[None]:
    """Inside the block the first stop signal calls `stop` in the event loop, and a second one ends the process at once.

    Only for the main thread: Python delivers signals nowhere else.
    """
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        stop()

    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        if sys.platform == "win32":  # unverified: no loop there has add_signal_handler
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(first))
        else:
            loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if sys.platform != "win32":
                loop.remove_signal_handler(number)
            signal.signal(number, handler)

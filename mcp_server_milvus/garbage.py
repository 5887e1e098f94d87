"""What the garbage collector looks at, and how often: a look at all that is under way stops every call for 20 ms."""

import contextlib
import gc
from collections.abc import Generator
from typing import cast

OBJECTS_BETWEEN_LOOKS = 20_000
"""More than eight inserts of a thousand entities have in flight, which is all in use and has nothing to collect."""


@contextlib.contextmanager
def kept_imports() -> Generator[None]:
    """What the block imports is never garbage, so the collector does not look at it: neither now nor later.

    Looking again and again at what grows is a tenth of the time that the imports take.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def look_seldom() -> None:
    """Makes the collector of this process wait for `OBJECTS_BETWEEN_LOOKS` new objects, not for the usual 700.

    Looking at entities under way was a tenth of what inserting them takes. What a call leaves does not wait for the
    collector: no successful call makes cycles of ours, and `without_frames` undoes those of a failure.
    """
    gc.set_threshold(OBJECTS_BETWEEN_LOOKS)


def without_frames(error: BaseException) -> None:
    """Lets go of the frames that the error and what it comes from have passed.

    Some of them hold the error itself, which makes cycles of them, and with them of all that the call was given: up to
    256 MB, which would stay until the collector looks.
    """
    if error.__traceback__ is None:
        return
    error.__traceback__ = None
    parts = cast("BaseExceptionGroup[BaseException]", error).exceptions if isinstance(error, BaseExceptionGroup) else ()
    for origin in (error.__cause__, error.__context__, *parts):
        if origin:
            without_frames(origin)

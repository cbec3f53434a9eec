"""What the garbage collector looks at."""

from __future__ import annotations

import gc


def settle_garbage() -> None:
    """Collect once, and look no more at what is left: models and libraries stay.

    Looking at all of it takes some tens of milliseconds, in which nobody is answered, and comes
    the more often the more requests there are.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()

"""Keep what a server process has loaded out of the garbage collector's rounds."""

import gc


def freeze_loaded() -> None:
    """Collect once, then leave everything that is loaded now out of all later collections. Safe to repeat.

    A process loads some 200,000 objects that live as long as it does: modules, classes, the URL conf. A full
    collection walks all of them, which stops the event loop for 100 ms and was one wait in a hundred when
    events were sent to 100 sockets (docs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()

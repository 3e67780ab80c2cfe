"""The program that an agent runs: one attempt by its name. It prints ``GOT`` and the proof, or ``REFUSED`` and why."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from attempts import files, inside, kernel, network, processes  # noqa: F401 - they register attempts
from attempts.catalog import ATTEMPTS


def main(name: str, hints: str) -> None:
    try:
        print("GOT", ATTEMPTS[name].function(json.loads(Path(hints).read_text())), flush=True)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the attempt failed
        print("REFUSED", type(error).__name__, str(error)[:300], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

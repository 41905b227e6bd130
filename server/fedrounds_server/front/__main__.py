"""`python -m fedrounds_server.front COORD`: the one port that hospitals reach."""

from __future__ import annotations

import sys
from pathlib import Path

from fedrounds_common.errors import FedroundsError
from fedrounds_server.coordinator.folder import CoordinatorFolder, private
from fedrounds_server.front.server import serve


def main(words: list[str]) -> int:
    if len(words) != 1:
        sys.stderr.write("usage: python -m fedrounds_server.front COORD\n")
        return 2
    private()
    try:
        serve(CoordinatorFolder(Path(words[0])))
    except FedroundsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

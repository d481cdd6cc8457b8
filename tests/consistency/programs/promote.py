#!/usr/bin/env python3
"""The promotion hook of an edge under test: asks whoever operates the databases, and waits.

promote.py SOCKET REGION    exit code 0 when the region is the primary
"""

import socket
import sys


def main() -> int:
    path, region = sys.argv[1], sys.argv[-1]
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(path)
        asked.sendall(region.encode() + b"\n")
        said = asked.makefile().readline().strip()
    print(said)
    return 0 if said == "done" else 1


if __name__ == "__main__":
    sys.exit(main())

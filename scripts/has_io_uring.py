#!/usr/bin/env python3
"""Exit code 0 if this process may use io_uring, 1 if not: the kernel may lack it, an administrator or a container
may forbid it."""

import ctypes
import os
import platform
import sys

# The same on every architecture since Linux 5.1.
IO_URING_SETUP = 425
PARAMS_BYTES = 120


def main() -> int:
    if platform.system() != "Linux":
        return 1
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(PARAMS_BYTES))
    if ring < 0:
        print(f"no io_uring: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 1
    os.close(ring)
    return 0


if __name__ == "__main__":
    sys.exit(main())

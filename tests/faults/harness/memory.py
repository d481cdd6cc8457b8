"""A bound of memory for one process: a control group (version 2, or 1) that is made for it.

Not an address-space limit (prlimit --as): that counts what is reserved, not what is used.
"""

import secrets
from pathlib import Path

V2 = Path("/sys/fs/cgroup")
V1 = Path("/sys/fs/cgroup/memory")


class MemoryLimit:
    """OSError where no group can be made."""

    def __init__(self, limit: int) -> None:
        self._is_v1 = (V1 / "memory.limit_in_bytes").exists()
        self._folder = (V1 if self._is_v1 else V2) / f"meridian-faults-{secrets.token_hex(4)}"
        self._folder.mkdir()
        try:
            self._write("limit_in_bytes" if self._is_v1 else "max", limit)
            if not self._is_v1:
                self._write("swap.max", 0)
        except OSError:
            self.remove()
            raise

    def _write(self, name: str, value: int) -> None:
        (self._folder / f"memory.{name}").write_text(str(value))

    def prefix(self) -> list[str]:
        """Runs a command inside."""
        enter = f'echo $$ > "{self._folder}/cgroup.procs" && exec "$@"'
        return ["sh", "-c", enter, "sh"]

    def peak(self) -> int | None:
        """Bytes; None where the kernel does not tell."""
        file = self._folder / ("memory.max_usage_in_bytes" if self._is_v1 else "memory.peak")
        return int(file.read_text()) if file.exists() else None

    def killed(self) -> int:
        """Processes that the kernel killed because the bound was reached."""
        name = "memory.oom_control" if self._is_v1 else "memory.events"
        lines = (line.split() for line in (self._folder / name).read_text().splitlines())
        return next((int(line[1]) for line in lines if line[0] == "oom_kill"), 0)

    def remove(self) -> None:
        """After its processes have ended."""
        self._folder.rmdir()

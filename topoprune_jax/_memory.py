"""How much memory is free: of the machine, within the limits of its containers, or of a device."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def free_memory(device: Any) -> int | None:
    """Bytes that a JAX device can still hold; None where nothing tells.

    A CPU holds what its machine holds. Of an accelerator it is what is left of the pool that JAX
    takes, not of the card.
    """
    if device.platform == "cpu":
        return free_host_memory()
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def free_host_memory(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that this process can still take before the system pages or ends it.

    The least of what the machine has available, what is left of each control group that the
    process is in (files in the page cache do not count, since the kernel drops them), and what is
    left of the limit on its addresses (`ulimit -v`). None on systems other than Linux.
    """
    known = [
        *_available(proc / "meminfo"),
        *_left_in_groups(proc / "self" / "cgroup", cgroups),
        *_left_of_addresses(proc / "self" / "status"),
    ]
    return max(0, min(known)) if known else None


def give_back_freed_memory() -> None:
    """Gives what nothing holds back to the system.

    The allocator of Linux's C library keeps freed pieces of up to 32 MB, for each thread that asked
    for them: memory that no later stage would have.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone


def _available(meminfo: Path) -> Iterator[int]:
    if (available := _fields(meminfo).get("MemAvailable:")) is not None:
        yield available * 1024


def _left_in_groups(listing: Path, root: Path) -> Iterator[int]:
    """Of every group from the process's own up to the root, as a limit on any of them counts."""
    for line in _text(listing).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top, limit, used, cached = root, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_"
        else:
            continue
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            with contextlib.suppress(ValueError):  # "max", or no such file
                statistics = _fields(group / "memory.stat")
                reclaimable = sum(
                    statistics.get(f"{cached}{kind}_file", 0) for kind in ("active", "inactive")
                )
                yield int(_text(group / limit)) - int(_text(group / used)) + reclaimable
            if group == top:
                break


def _left_of_addresses(status: Path) -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    taken = _fields(status).get("VmSize:")
    if limit != resource.RLIM_INFINITY and taken is not None:
        yield limit - taken * 1024


def _fields(path: Path) -> dict[str, int]:
    """The lines "name number ..." of a file of the kernel."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

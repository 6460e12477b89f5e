"""Where the commands keep what JAX compiles."""

import os
import platform
import re
import zlib
from pathlib import Path
from typing import Any

import jax
import platformdirs

_LARGEST = 1 << 30
"""Bytes; beyond it the programs go that were not used for longest. A size of data takes 2 MB."""


def keep_programs() -> None:
    """Lets JAX keep its programs in a folder of the user's, where the next command finds them.

    Compiling is most of what a command with some thousands of samples takes. Whoever has told JAX
    where to keep programs, or not to, is heeded, and a folder that cannot be written is left alone.
    """
    config: Any = jax.config  # its options are made as it goes
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    folder = platformdirs.user_cache_path("topoprune_jax", appauthor=False) / _processor()
    if not folder.is_absolute():  # a user without a home, as in some containers
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _processor() -> str:
    """A name of what XLA compiles for: it uses every instruction that a processor has, and homes
    are shared by machines that have others."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not on every system
        text = ""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    instructions = listed.group(1) if listed else platform.processor()
    return f"{platform.machine()}-{zlib.crc32(instructions.encode()):08x}"

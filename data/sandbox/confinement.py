"""What a process that parses a mesh from outside may use.

The limits are constants of the code and not settings: they decide which meshes there are, so a runtime may not move
them, and no dataset wants others. They are last resorts. What a mesh may hold is decided before, by counts in its
header (`data.gltf`) and by `render.max_faces`, which is the same on every machine; memory and time differ a little
from one machine to the next, and therefore lie far above what a mesh within those counts needs.
"""

import ctypes
import os
import resource
import struct
from dataclasses import dataclass

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
"""Of Landlock: the same numbers on every architecture."""
_ASK_VERSION, _SET_NO_NEW_PRIVILEGES = 1, 38
_NOBODY = 65534
CHANNEL = 3
"""The one descriptor that a confined process keeps, beside 0, 1 and 2, which lead nowhere."""


@dataclass(frozen=True)
class Limits:
    """Of one mesh."""

    memory_bytes: int = 4 << 30
    """Address space beyond what the process starts with."""
    cpu_s: int = 120
    """Processor time: unlike the time on the clock it does not depend on what else the machine does."""
    wall_s: float = 1200.0
    """For a process that waits instead of working."""
    file_bytes: int = 512 << 20
    """Of the mesh, and of each file beside it."""
    side_files: int = 512
    result_bytes: int = 2 << 30


LIMITS = Limits()


@dataclass(frozen=True)
class Confinement:
    """How far the process is locked in on this machine."""

    landlock: int
    """Version of Landlock in the kernel; 0: it has none, and only the limit of open files keeps files out."""
    privileges_dropped: bool
    """Runs under a user without rights; false where the caller is an ordinary user already, or may not change."""


def address_space() -> int:
    """Bytes of this process, for `lock_in`."""
    with open("/proc/self/statm", "rb") as stream:
        return int(stream.read().split()[0]) * resource.getpagesize()


def seal() -> Confinement:
    """For good, and for all that is forked from here: no file system, no TCP, no signals to others, no privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    dropped = _drop_privileges()
    if libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    version = max(0, libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION))
    if version:
        _landlock(libc, version)
    return Confinement(version, dropped)


def _landlock(libc: ctypes.CDLL, version: int) -> None:
    """A ruleset that handles every kind of access this kernel knows, and allows none."""
    file_accesses = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)
    attributes = [(1 << file_accesses) - 1]
    if version >= 4:
        attributes.append(0b11)  # binding and connecting TCP
    if version >= 6:
        attributes.append(0b11)  # abstract Unix sockets and signals that leave this domain
    packed = struct.pack(f"={len(attributes)}Q", *attributes)
    ruleset = libc.syscall(_CREATE_RULESET, packed, ctypes.c_size_t(len(packed)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


def _drop_privileges() -> bool:
    """From root to nobody; false where that is not needed, or the user namespace knows no nobody."""
    if os.geteuid() != 0:
        return False
    try:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    except OSError:
        return False
    return True


def lock_in(limits: Limits, started_with: int) -> None:
    """For the one process that is about to parse: memory, time, and no new descriptor, hence no open()."""
    os.closerange(CHANNEL + 1, 1 << 16)
    for kind, limit in (
        (resource.RLIMIT_AS, started_with + limits.memory_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        # A process at its hard limit of time is killed; at the soft one, below, the signal says why.
        soft, hard = limit, limit + (kind == resource.RLIMIT_CPU)
        hardest = resource.getrlimit(kind)[1]
        if hardest != resource.RLIM_INFINITY:
            soft, hard = min(soft, hardest), min(hard, hardest)
        resource.setrlimit(kind, (soft, hard))

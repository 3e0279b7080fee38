"""The process that meshes are parsed beside: `python -m data.sandbox.zygote DESCRIPTOR`.

It loads the readers once, gives up what it may do, and then forks a fresh process for every mesh: a mesh meets nothing
that another one left behind, and costs no start of Python. It never reads a byte of a mesh itself.

Over the socket DESCRIPTOR it says how it is confined once it is ready. Then every PARSE comes with the socket of one
mesh, and is answered with the wait status of its process; KILL ends that process before its time.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from dataclasses import asdict

from data.sandbox import jobs
from data.sandbox.confinement import CHANNEL, Limits, address_space, lock_in, seal
from data.sandbox.wire import PARSE, STATUS


def main(descriptor: int) -> None:
    control = socket.socket(fileno=descriptor)
    jobs.warm_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started_with = address_space()
    confinement = seal()
    gc.collect()
    gc.freeze()
    ready = json.dumps(asdict(confinement)).encode()
    control.sendall(STATUS.pack(len(ready)) + ready)
    os.dup2(0, 2)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, len(PARSE), 1)
        if not message:
            return
        if not descriptors:
            continue  # a KILL for a process that has ended by itself
        limits = Limits(**json.loads(_line(control)))
        child = os.fork()
        if child == 0:
            _parse(descriptors[0], limits, started_with)
        os.close(descriptors[0])
        control.sendall(STATUS.pack(_ended(child, control)))


def _line(control: socket.socket) -> bytes:
    (length,) = STATUS.unpack(control.recv(STATUS.size, socket.MSG_WAITALL))
    return control.recv(length, socket.MSG_WAITALL)


def _ended(child: int, control: socket.socket) -> int:
    """Wait for the process; kill it if that is asked for, or if whoever asks is gone."""
    handle = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([handle, control], [], [])
        if handle not in ready:
            os.kill(child, signal.SIGKILL)
            if control.recv(1) == b"":
                os._exit(0)
        return os.waitpid(child, 0)[1]
    finally:
        os.close(handle)


def _parse(descriptor: int, limits: Limits, started_with: int) -> None:
    code = 1
    try:
        gc.disable()  # the process ends before garbage could matter
        os.dup2(descriptor, CHANNEL)
        lock_in(limits, started_with)
        jobs.serve(socket.socket(fileno=CHANNEL), limits)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))

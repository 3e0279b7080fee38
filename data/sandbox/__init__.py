"""Meshes from outside are parsed here: in a process of their own, with limits, without files and without network.

client.py asks, zygote.py forks a fresh process for every mesh, confinement.py says what that process may use, jobs.py
what it does, wire.py and shapes.py carry bytes and arrays. Nothing that such a process says is trusted: it is never
unpickled, and lengths, shapes and indices are checked.
"""

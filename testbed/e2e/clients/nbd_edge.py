#!/usr/bin/python3
"""nbd_edge.py URI: hostile and odd NBD requests through libnbd. Each must be answered, with data or an NBD error,
and leave its connection usable. Prints one line per probe; exit status 1 when a connection died."""

import sys

import nbd

uri = sys.argv[1]
dead = 0


def probe(name, act):
    global dead
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.connect_uri(uri)
    try:
        answer = act(handle)
    except nbd.Error as error:
        answer = error
    try:
        handle.pread(512, 0)
        verdict = "usable"
    except nbd.Error as error:
        verdict = f"DEAD: {error}"
        dead += 1
    print(f"{name}: {answer} -> {verdict}")


first = nbd.NBD()
first.connect_uri(uri)
size = first.get_size()
big = 33 * 1024 * 1024

probe("read of nothing", lambda h: h.pread(0, 0))
probe("read past the end", lambda h: h.pread(512, size))
probe("read over the end", lambda h: h.pread(1024, size - 512))
probe("write past the end", lambda h: h.pwrite(bytes(512), size))
probe("write over the end", lambda h: h.pwrite(bytes(1024), size - 512))
probe("read of 33 MiB", lambda h: len(h.pread(big, 0)))
probe("write of nothing", lambda h: h.pwrite(b"", 0))
probe("write with FUA", lambda h: h.pwrite(bytes(512), 0, nbd.CMD_FLAG_FUA))
probe("zeroes with FUA", lambda h: h.zero(4096, 4096, nbd.CMD_FLAG_FUA))
probe("zeroes past the end", lambda h: h.zero(4096, size))
probe("fast zeroes", lambda h: h.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO))
probe("trim", lambda h: h.trim(4096, 4096))
probe("trim of nothing", lambda h: h.trim(0, 0))
probe("cache", lambda h: h.cache(4096, 4096))
probe("write of one byte", lambda h: h.pwrite(b"x", 1))
probe("unknown flag", lambda h: len(h.pread(512, 0, 0x8000)))

sys.exit(1 if dead else 0)

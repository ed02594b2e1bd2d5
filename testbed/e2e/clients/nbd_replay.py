#!/usr/bin/python3
"""nbd_replay.py URI REQUESTS READ: does through libnbd what REQUESTS says, a line each (`write OFFSET LENGTH FILL`, `zero`, `trim`
and `read` with OFFSET and LENGTH, `flush`), and puts all that was read into READ."""

import sys

import nbd

PATTERN = bytes(i % 251 for i in range(2 << 20))

handle = nbd.NBD()
handle.connect_uri(sys.argv[1])
with open(sys.argv[2]) as requests, open(sys.argv[3], "wb") as read:
    for line in requests:
        verb, *numbers = line.split()
        numbers = [int(number) for number in numbers]
        if verb == "write":
            offset, length, fill = numbers
            handle.pwrite(PATTERN[fill:fill + length], offset)
        elif verb == "zero":
            handle.zero(numbers[1], numbers[0])
        elif verb == "trim":
            handle.trim(numbers[1], numbers[0])
        elif verb == "read":
            read.write(handle.pread(numbers[1], numbers[0]))
        elif verb == "flush":
            handle.flush()
handle.shutdown()

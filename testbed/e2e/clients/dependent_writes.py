"""Writes to two disks so that each write depends on the one before: number n goes to the first disk, and once that is answered
to the second; n + 1 is written once that is answered. Ends when the file named last appears, and prints the last number."""

import os
import sys

import nbd

first, second = nbd.NBD(), nbd.NBD()
first.connect_uri(sys.argv[1])
second.connect_uri(sys.argv[2])
n = 0
while not os.path.exists(sys.argv[3]):
    n += 1
    # Now a part of a block, which is answered before its block is completed, now a whole one.
    length, at = (4096, 4096 * (n % 16)) if n % 3 == 0 else (512, 65536 + 512 * (n % 128))
    data = n.to_bytes(8, "little") * (length // 8)
    first.pwrite(data, at)
    second.pwrite(data, at)
print(n)

#!/usr/bin/python3
"""nbd_differential.py URI BOOKMARK SEED COUNT: random requests through libnbd to a disk that nobody else uses, over one connection
with structured replies and contexts and over one without, held against a model in memory. Every read and every map is checked;
the first that is wrong ends it with exit status 1."""

import random
import sys

import nbd

uri, bookmark, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
BITMAP = "qemu:dirty-bitmap:" + bookmark

rich = nbd.NBD()
for context in ("base:allocation", "qemu:allocation-depth", BITMAP):
    rich.add_meta_context(context)
rich.connect_uri(uri)
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri(uri)
assert rich.get_structured_replies_negotiated() and not plain.get_structured_replies_negotiated()
for context in ("base:allocation", "qemu:allocation-depth", BITMAP):
    assert rich.can_meta_context(context), context

size = rich.get_size()
model = bytearray(plain.pread(min(size, 8 << 20), 0))
size = len(model)
written = set()
rng = random.Random(seed)
holes = 0


def place():
    offset = rng.randrange(size)
    length = rng.choice((1, 511, 512, 4096, 5000, 65536, 300000, 1 << 20))
    if rng.random() < 0.5:
        offset, length = offset // 4096 * 4096, (length + 4095) // 4096 * 4096
    return offset, min(length, size - offset)


def check(what, offset, length, got):
    if bytes(got) != model[offset:offset + length]:
        sys.exit(f"{what} of {length} at {offset} is wrong")


def note(offset, length, content):
    model[offset:offset + length] = content
    written.update(range(offset // 4096, (offset + length + 4095) // 4096))


def structured_read(offset, length, flags):
    global holes
    seen = bytearray(length)

    def chunk(data, at, status, error):
        global holes
        holes += status == nbd.READ_HOLE
        seen[at - offset:at - offset + len(data)] = b"\1" * len(data)
        return 0

    check("structured read", offset, length, rich.pread_structured(length, offset, chunk, flags))
    if seen.count(1) != length:
        sys.exit(f"chunks of a read of {length} at {offset} cover {seen.count(1)}")


def block_status(offset, length):
    told = {}

    def extents(context, at, entries, error):
        told[context] = (at, entries)
        return 0

    rich.block_status(length, offset, extents)
    if len(told) != 3:
        sys.exit(f"{len(told)} contexts are told of")
    for context, (at, entries) in told.items():
        for stretch, flags in zip(entries[::2], entries[1::2]):
            part = range(at, min(at + stretch, offset + length))
            blocks = range(part.start // 4096, (part.stop + 4095) // 4096)
            if context == "base:allocation" and flags & 2 and any(model[part.start:part.stop]):
                sys.exit(f"{part} is called zeroes")
            if context == BITMAP and not flags and written.intersection(blocks):
                sys.exit(f"{part} is called the same")
            if context == "qemu:allocation-depth" and flags != 1 and written.intersection(blocks):
                sys.exit(f"{part} is called layer {flags}")
            at += stretch


for _ in range(count):
    offset, length = place()
    act = rng.randrange(10)
    if act < 2:
        data = rng.randbytes(length) if rng.random() < 0.8 else bytes(length)
        rng.choice((rich, plain)).pwrite(data, offset, rng.choice((0, nbd.CMD_FLAG_FUA)))
        note(offset, length, data)
    elif act < 4:
        flags = rng.choice((0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FUA))
        rng.choice((rich, plain)).zero(length, offset, flags)
        note(offset, length, bytes(length))
    elif act < 5:
        rng.choice((rich, plain)).trim(length, offset)
        note(offset, length, plain.pread(length, offset))
    elif act < 6:
        check("plain read", offset, length, plain.pread(length, offset))
    elif act < 8:
        structured_read(offset, length, rng.choice((0, 0, nbd.CMD_FLAG_DF)))
    elif act < 9:
        rng.choice((rich, plain)).cache(length, offset)
    else:
        block_status(offset, length)

for at in range(0, size, 1 << 20):
    structured_read(at, 1 << 20, 0)
print(f"{count} requests agree, {holes} holes were read")

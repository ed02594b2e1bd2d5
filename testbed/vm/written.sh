# Job: makes a file system on the tap's disk with the kernel's own NBD client and writes to it. $TAP is the port, $FILES how many.
die() { echo "FAILED: $*"; dmesg | tail -5; exit 1; }
modprobe nbd; modprobe ext4
nbd-client 10.0.2.2 $TAP /dev/nbd0 -N web01 -b 4096 > /tmp/said 2>&1 || { cat /tmp/said; die "the tap cannot be attached"; }
for limit in logical_block_size write_cache fua discard_max_bytes write_zeroes_max_bytes; do
    echo "$limit $(cat /sys/block/nbd0/queue/$limit)"
done
mkfs.ext4 -q -F /dev/nbd0 || die "no file system can be made"
mount -t ext4 /dev/nbd0 /mnt || die "it cannot be mounted"
n=0
while [ $n -lt $FILES ]; do
    dd if=/dev/urandom of=/mnt/file-$n bs=64k count=16 2> /dev/null || die "a file cannot be written"
    n=$((n + 1))
done
rm /mnt/file-0 && fstrim /mnt || die "fstrim"
(cd /mnt && sha256sum file-*) > /tmp/sums && cp /tmp/sums /mnt/sums || die "no sums"
umount /mnt || die "it cannot be unmounted"
nbd-client -d /dev/nbd0 > /dev/null
echo "SUMS $(sha256sum < /tmp/sums)"

# Job: the same file system as a past image and on a read/write image. $GATEWAY is the port, $IMAGE the read/write image.
die() { echo "FAILED: $*"; dmesg | tail -5; exit 1; }
modprobe nbd; modprobe ext4
attach() { nbd-client 10.0.2.2 $GATEWAY /dev/nbd0 -N "$1" -b 4096 > /tmp/said 2>&1 || { cat /tmp/said; die "$1 cannot be attached"; }; }
check() { (cd /mnt && sha256sum -c sums > /tmp/checked 2>&1) || { cat /tmp/checked; die "files of $1 are not what was written"; }; }
attach web01@written
[ "$(cat /sys/block/nbd0/ro)" = 1 ] || die "a past image is not read-only"
e2fsck -fn /dev/nbd0 > /tmp/said 2>&1 || { cat /tmp/said; die "e2fsck of the past image"; }
mount -t ext4 -o ro /dev/nbd0 /mnt || die "the past image cannot be mounted"
check "the past image"
echo "SUMS $(sha256sum < /mnt/sums)"
umount /mnt; nbd-client -d /dev/nbd0 > /dev/null
attach "$IMAGE"
mount -t ext4 /dev/nbd0 /mnt || die "the read/write image cannot be mounted"
check "the read/write image"
dd if=/dev/urandom of=/mnt/more bs=64k count=32 2> /dev/null || die "it cannot be written to"
sum=$(sha256sum < /mnt/more)
rm /mnt/file-1; fstrim /mnt || die "fstrim of the read/write image"
umount /mnt; nbd-client -d /dev/nbd0 > /dev/null
attach "$IMAGE"
e2fsck -fn /dev/nbd0 > /tmp/said 2>&1 || { cat /tmp/said; die "e2fsck of the read/write image"; }
mount -t ext4 -o ro /dev/nbd0 /mnt || die "it cannot be mounted again"
[ "$(sha256sum < /mnt/more)" = "$sum" ] || die "what was written to the read/write image is not there"
umount /mnt; nbd-client -d /dev/nbd0 > /dev/null

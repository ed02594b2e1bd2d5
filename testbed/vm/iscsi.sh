# Job: the kernel's own initiator. First CHAP with each of its algorithms, to the target `guarded`; then the read/write image $IMAGE over
# the two portals $ONE and $TWO, under multipathd: a file system and numbered blocks beside it, written while the target is killed and
# started again ($KILLS times: told by a line, seen by the kernel's own complaint), with a reservation that has to live through it.
die() { echo "FAILED: $*"; dmesg | tail -20; multipathd show paths 2> /dev/null; exit 1; }
step() { echo "STEP $(cut -d' ' -f1 /proc/uptime) $*"; }
quietly() { "$@" > /tmp/said 2>&1 || { cat /tmp/said; die "$*"; }; }
HOST=10.0.2.2 CHUNK=65536
export DM_DISABLE_UDEV=1
mkdir -p /run/lock/iscsi /run/udev/data /tmp/files
for module in iscsi_tcp sd_mod sg ext4 dm_multipath dm_service_time scsi_dh_alua; do modprobe $module || die "no module $module"; done
quietly iscsid

# A record of a target at a portal: the target gives the address at which it sees us connect, which is not the one that we see it at.
record() { quietly iscsiadm -m node -o new -T $1 -p $HOST:$2; }
setting() { quietly iscsiadm -m node -T $1 -p $HOST:$2 -o update -n $3 -v "$4"; }
found() { iscsiadm -m discovery -t st -p $HOST:$1 > /tmp/found 2>&1 || { cat /tmp/found; die "discovery at port $1"; }; grep -q "$2" /tmp/found || { cat /tmp/found; die "$2 is not found"; }; iscsiadm -m node -o delete > /dev/null 2>&1; }

chap=iqn.2026-01.example.chronogate:guarded
step chap
record $chap $ONE
setting $chap $ONE node.session.auth.authmethod CHAP
setting $chap $ONE node.session.auth.username initiator
setting $chap $ONE node.session.auth.username_in target
setting $chap $ONE node.session.auth.password_in another-secret-2
setting $chap $ONE node.session.initial_login_retry_max 1
for algorithm in MD5 SHA1 SHA256 SHA3-256; do
    setting $chap $ONE node.session.auth.chap_algs $algorithm
    setting $chap $ONE node.session.auth.password the-first-secret
    quietly iscsiadm -m node -T $chap -p $HOST:$ONE --login
    quietly iscsiadm -m node -T $chap -p $HOST:$ONE --logout
    echo "CHAP $algorithm"
done
setting $chap $ONE node.session.auth.password not-the-first-secret
iscsiadm -m node -T $chap -p $HOST:$ONE --login > /tmp/said 2>&1 && die "a wrong secret is good enough"
iscsiadm -m node -o delete > /dev/null 2>&1

target=iqn.2026-01.example.chronogate:$IMAGE
step login
found $ONE $target
for portal in $ONE $TWO; do
    record $target $portal
    # Both ways on one path.
    [ $portal = $TWO ] && for digest in HeaderDigest DataDigest; do setting $target $portal "node.conn[0].iscsi.$digest" CRC32C; done
    quietly iscsiadm -m node -T $target -p $HOST:$portal --login
done
looks=0
while [ ! -e /dev/sdb ]; do looks=$((looks + 1)); [ $looks -lt 100 ] || die "two sessions, but not two disks"; usleep 100000; done
digests=$(iscsiadm -m session -P 3 | grep -c 'Digest: CRC32C')
[ $digests = 2 ] || die "$digests digests instead of two"
id=$(sg_vpd -p di /dev/sda | sed -n 's/^ *0x//p' | head -1)
[ "$(sg_vpd -p di /dev/sdb | sed -n 's/^ *0x//p' | head -1)" = "$id" ] || die "one disk with two names"
for disk in sda sdb; do
    # What udev would know of it.
    printf 'I:1\nE:DEVTYPE=disk\nE:ID_WWN=0x%s\nE:ID_SERIAL=3%s\n' $id $id > /run/udev/data/b$(cat /sys/block/$disk/dev)
done
cat > /etc/multipath.conf << 'CONF'
defaults {
    find_multipaths no
    path_grouping_policy multibus
    polling_interval 1
    max_polling_interval 1
    no_path_retry queue
}
CONF
quietly multipathd
disk=/dev/mapper/3$id looks=0
while [ ! -e $disk ]; do looks=$((looks + 1)); [ $looks -lt 100 ] || die "multipathd makes no disk"; usleep 100000; done
paths() { multipathd show paths format '%d %t' 2> /dev/null | grep -c "sd. active"; }
both() { looks=0; while [ $(paths) -lt 2 ]; do looks=$((looks + 1)); [ $looks -lt 300 ] || die "not both paths $1"; usleep 100000; done; }
both "are found"
echo "SIZE $(blockdev --getsize64 $disk) PATHS $(paths)"

step reserve
for path in sda sdb; do quietly sg_persist --out --register --param-sark=0xc4 --param-aptpl /dev/$path; done
quietly sg_persist --out --reserve --param-rk=0xc4 --prout-type=5 /dev/sda
reserved() {
    sg_persist --in --read-keys /dev/$1 > /tmp/keys 2>&1
    sg_persist --in --read-reservation /dev/$1 > /tmp/reservation 2>&1
    [ $(grep -c 0xc4 /tmp/keys) = 2 ] && grep -q 'Write Exclusive, registrants only' /tmp/reservation && return
    cat /tmp/keys /tmp/reservation
    die "the reservation is not what it was, seen through $1"
}
reserved sdb

step mkfs
quietly mkfs.ext4 -q -F $disk $((SIZE / 2))k
quietly mount -t ext4 $disk /mnt
dd if=/dev/urandom of=/tmp/noise bs=$CHUNK count=64 2> /dev/null
# Block $1 of the raw half, past every cache and never flushed; and now and then a file, through the page cache.
first=$((SIZE * 1024 / 2 / CHUNK)) last=$((SIZE * 1024 / CHUNK))
raw() { dd if=/tmp/noise of=$disk bs=$CHUNK skip=$(($1 % 64)) seek=$((first + $1)) count=1 oflag=direct conv=notrunc 2> /tmp/said || { cat /tmp/said; die "block $1 cannot be written"; }; }
file() { dd if=/tmp/noise of=/mnt/file-$1 bs=$CHUNK skip=$(($1 % 60)) count=4 2> /tmp/said || { cat /tmp/said; die "file $1 cannot be written"; }; }
errors() { dmesg | grep -c 'detected conn error'; }
n=0 kills=0
write() { raw $n; [ $((n % 8)) = 0 ] && file $n; n=$((n + 1)); [ $((first + n)) -lt $last ] || die "the disk is full before the target was killed often enough"; }
some() { left=$1; while [ $left -gt 0 ]; do write; left=$((left - 1)); done; }
some $BATCH
while [ $kills -lt $KILLS ]; do
    before=$(errors)
    kills=$((kills + 1))
    echo "KILL $kills"
    while [ $(errors) = $before ]; do write; done
    step "lost the target with block $n under way"
    some $BATCH
    both "came back"
    step "both paths are back, $n blocks are written"
    reserved sda
    reserved sdb
done

step verify
at=0
while [ $at -lt $n ]; do
    length=$((n - at)); [ $length -gt $((64 - at % 64)) ] && length=$((64 - at % 64))
    want=$(dd if=/tmp/noise bs=$CHUNK skip=$((at % 64)) count=$length 2> /dev/null | sha256sum)
    have=$(dd if=$disk bs=$CHUNK skip=$((first + at)) count=$length iflag=direct 2> /dev/null | sha256sum)
    [ "$want" = "$have" ] || die "blocks $at to $((at + length)) of $n are not what was written"
    at=$((at + length))
done
quietly fstrim /mnt
umount /mnt || die "it cannot be unmounted"
quietly e2fsck -fn $disk
quietly mount -t ext4 -o ro $disk /mnt
at=0
while [ $at -lt $n ]; do
    dd if=/tmp/noise bs=$CHUNK skip=$((at % 60)) count=4 2> /dev/null | cmp -s - /mnt/file-$at || die "file $at is not what was written"
    at=$((at + 8))
done
umount /mnt
if [ -n "$FIO" ]; then
    step fio
    quietly fio --name=verify --filename=$disk --direct=1 --ioengine=libaio --rw=randwrite --bs=4k --iodepth=16 --size=$FIO --offset=$((SIZE * 512)) \
        --verify=crc32c --do_verify=1 --verify_state_save=0
fi
echo "SUM $(dd if=$disk bs=1M iflag=direct 2> /dev/null | sha256sum)"
quietly sg_persist --out --clear --param-rk=0xc4 /dev/sda
quietly multipathd shutdown
sync
quietly dmsetup remove_all
quietly iscsiadm -m node --logoutall=all
[ -z "$(ls /sys/class/iscsi_session)" ] || die "a session is left"
step done

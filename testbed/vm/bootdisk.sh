#!/bin/bash
# Makes a disk that a machine boots from: a boot sector, extlinux, a kernel with its RAM disk, and an ext4 root with one program,
# which appends numbered lines to a file and says on the serial line which of them are safe. usage: bootdisk.sh PARTS DISK
set -euo pipefail
parts=$1 disk=$2
export PATH="$parts/qemu/usr/bin:$parts/qemu/sbin:$PATH:/usr/sbin:/sbin"
rm -f "$disk"
truncate -s 192M "$disk"
dd if="$parts/qemu/usr/lib/EXTLINUX/mbr.bin" of="$disk" bs=440 count=1 conv=notrunc status=none
# One partition, to be booted from, from the first MiB on.
python3 - "$disk" <<'PYTHON'
import os, struct, sys

with open(sys.argv[1], "r+b") as disk:
    sectors = os.fstat(disk.fileno()).st_size // 512 - 2048
    disk.seek(446)
    disk.write(struct.pack("<B3sB3sII", 0x80, b"\x20\x21\x00", 0x83, b"\xfe\xff\xff", 2048, sectors))
    disk.seek(510)
    disk.write(b"\x55\xaa")
PYTHON
device=$(losetup -f --show -o 1048576 "$disk")
root=$(mktemp -d)
trap 'umount "$root" 2> /dev/null || true; losetup -d "$device"; rmdir "$root"' EXIT
mkfs.ext4 -q -F -O ^64bit,^metadata_csum "$device"
mount "$device" "$root"
mkdir -p "$root"/{bin,boot/extlinux,proc,sys,dev,var}
cp "$parts/qemu/bin/busybox" "$root/bin/busybox"
for applet in sh sync sleep tail cut mount echo; do ln -s busybox "$root/bin/$applet"; done
cat > "$root/bin/app" <<'APP'
#!/bin/sh
# What is on the disk when the machine comes up, then one line after the other.
export PATH=/bin
last=$(tail -n 1 /var/log 2> /dev/null); last=${last:-0}
echo "APP found $last"
while :; do
    last=$((last + 1))
    echo $last >> /var/log && sync && echo "APP safe $last"
done
APP
chmod +x "$root/bin/app"
cp "$parts/vmlinuz" "$parts/initrd.cpio" "$root/boot/"
cat > "$root/boot/extlinux/extlinux.conf" <<'CONFIG'
DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL /boot/vmlinuz
 INITRD /boot/initrd.cpio
 APPEND root=/dev/vda1 console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable
CONFIG
extlinux --install "$root/boot/extlinux" > /dev/null 2>&1

#!/bin/bash
# Makes, in FOLDER, a test machine: QEMU (qemu/), a stock Debian kernel (vmlinux) and RAM disks: initrd.cpio with the kernel's own
# block clients and the tools of file systems, iscsi.cpio with open-iscsi, multipath-tools and sg3-utils besides, and fio.cpio with
# fio as well, whose libraries are most of it and cost seconds at each start. All of it comes from Debian's packages and is unpacked
# here; nothing is installed, and the system's package lists stay as they are.
# usage: parts.sh FOLDER
#
# The kernel is started uncompressed, by QEMU's direct entry: under emulation unpacking it would take longer than all the rest.
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
# One at a time: tests that want a machine run side by side.
exec 9> "$out/lock"
flock 9
[ -s "$out/initrd.cpio" ] && [ -s "$out/iscsi.cpio" ] && [ -s "$out/fio.cpio" ] && [ -s "$out/vmlinux" ] &&
    [ "$out/initrd.cpio" -nt "$here/init" ] && [ "$out/initrd.cpio" -nt "$0" ] && exit 0
work=$(mktemp -d "$out/making.XXXX")
trap 'rm -rf "$work"' EXIT

# A package state of our own: QEMU is taken from the backports, in the version of the tools that the other tests use.
state="$out/apt"
private_apt() { APT_CONFIG="$state/apt.conf" "$@"; }
# As if nothing were installed: what this system has may be newer than all that can be fetched.
download() { private_apt apt-get -q -o Dir::State::status="$state/nothing" download "$@" > /dev/null; }
make_apt() {
    local mirror suite
    mkdir -p "$state"/{lists/partial,cache/archives/partial,parts}
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null || true; } | grep -E '^(deb |URIs:)' | grep -oE 'https?://[^ ]+/debian/?( |$)' | sed -n 1p)
    for suite in "" -backports; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $(. /etc/os-release && echo "$VERSION_CODENAME")$suite main"
    done > "$state/sources.list"
    printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "%s";\nDir::State::lists "%s";\nDir::Cache "%s";\nDebug::NoLocking "1";\n' \
        "$state/sources.list" "$state/parts" "$state/lists" "$state/cache" > "$state/apt.conf"
    : > "$state/nothing"
    private_apt apt-get -q update > /dev/null
}

# QEMU and the programs that pack, with the libraries that are not on this system.
fetch_tools() {
    # What this system has of QEMU itself counts as not there, or nothing of it would be fetched.
    awk -v RS= -v ORS='\n\n' '!/^Package: (qemu-|seabios|ipxe-qemu)/' /var/lib/dpkg/status > "$state/without-qemu"
    private_apt apt-get -o Dir::State::status="$state/without-qemu" install -y -q --download-only --no-install-recommends \
        -t "*-backports" qemu-system-x86 qemu-utils > /dev/null
    (cd "$state/cache/archives" && download busybox-static cpio kmod libkmod2 extlinux syslinux-common)
    rm -rf "$out/qemu" && mkdir "$out/qemu"
    for package in "$state"/cache/archives/*.deb; do dpkg -x "$package" "$out/qemu"; done
    # Their links are to where the package would be installed.
    rm -f "$out"/qemu/sbin/{depmod,modprobe}
    for name in depmod modprobe; do ln -sf kmod "$out/qemu/bin/$name"; done
    export PATH="$out/qemu/usr/bin:$out/qemu/bin:$out/qemu/sbin:$PATH:/usr/sbin:/sbin"
    export LD_LIBRARY_PATH="$out/qemu/usr/lib/x86_64-linux-gnu:$out/qemu/lib/x86_64-linux-gnu"
}

# What an initiator consists of, with its libraries; the C library is this system's.
fetch_initiator() {
    local libraries
    libraries=$(private_apt apt-cache depends open-iscsi multipath-tools sg3-utils dmsetup | sed -n 's/.*Depends: \(lib.*\)/\1/p' | sort -u | grep -vx libc6)
    mkdir "$work/debs"
    (cd "$work/debs" && download open-iscsi multipath-tools sg3-utils dmsetup $libraries)
    for package in "$work"/debs/*.deb; do dpkg -x "$package" "$work/initiator"; done
}

fetch_kernel() {
    local package
    package=$(private_apt apt-cache depends linux-image-amd64/"$(. /etc/os-release && echo "$VERSION_CODENAME")" | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    (cd "$work" && download "$package")
    dpkg -x "$work/$package"_*.deb "$work/kernel"
    cp "$work/kernel/boot"/vmlinuz-* "$out/vmlinuz"
    python3 - "$work/kernel" "$out/vmlinux" <<'PYTHON'
import glob, subprocess, sys

image = open(glob.glob(sys.argv[1] + "/boot/vmlinuz-*")[0], "rb").read()
for magic, unpack in ((b"\xfd7zXZ\x00", ["xz", "-dc", "--single-stream"]), (b"\x28\xb5\x2f\xfd", ["zstd", "-dc"])):
    at = image.find(magic)
    while at >= 0:
        kernel = subprocess.run(unpack, input=image[at:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        if kernel.startswith(b"\x7fELF"):
            open(sys.argv[2], "wb").write(kernel)
            sys.exit()
        at = image.find(magic, at + 1)
sys.exit("no kernel was found in the package's image")
PYTHON
}

# A program of this machine, or of the packages that were unpacked, and the libraries that it is linked with.
put() {
    local program
    program=$(command -v "$1" || true)
    [ -n "$program" ] || { echo "there is no $1 here" >&2; exit 1; }
    rm -f "$work/root/bin/$1"
    cp -L "$program" "$work/root/sbin/$1"
    put_libraries "$program"
}

put_libraries() {
    { ldd "$1" 2> /dev/null | grep -oE '/[^ ]+\.so[^ ]*' || true; } | while read -r library; do
        local name="${library#"$work/initiator"}"
        name="${name#"$out/qemu"}"
        mkdir -p "$work/root$(dirname "$name")"
        cp -nL "$library" "$work/root$name"
    done
}

put_initiator() {
    local of="$work/initiator" plugin
    export PATH="$of/sbin:$of/usr/sbin:$of/usr/bin:$PATH"
    export LD_LIBRARY_PATH="$of/lib:$of/lib/x86_64-linux-gnu:$of/usr/lib/x86_64-linux-gnu:$LD_LIBRARY_PATH"
    for program in iscsid iscsiadm multipath multipathd dmsetup sg_persist sg_inq sg_vpd sg_unmap sg_turs blkdiscard; do put "$program"; done
    mkdir -p "$work/root"/{lib/multipath,etc/iscsi,var/lib/iscsi}
    # The C library itself loads this one, when a thread is to be ended.
    local unwinder
    unwinder="$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | awk '$1 == "libgcc_s.so.1" && /x86-64/ && !found++ { print $NF }')"
    mkdir -p "$work/root$(dirname "$unwinder")"
    cp -L "$unwinder" "$work/root$unwinder"
    for plugin in checktur checkdirectio prioconst prioalua; do
        cp "$of/lib/multipath/lib$plugin.so" "$work/root/lib/multipath/"
        put_libraries "$of/lib/multipath/lib$plugin.so"
    done
    sed 's/^\(iscsid.startup\) = .*/\1 = \/sbin\/iscsid/' "$of/etc/iscsi/iscsid.conf" > "$work/root/etc/iscsi/iscsid.conf"
    echo "InitiatorName=iqn.2026-01.example:machine" > "$work/root/etc/iscsi/initiatorname.iscsi"
    echo 'root:x:0:0:root:/:/bin/sh' > "$work/root/etc/passwd"
    echo 'root:x:0:' > "$work/root/etc/group"
}

# A module with all that it needs.
put_modules() {
    local from="$work/kernel" version module
    version=$(ls "$from/lib/modules")
    local to="$work/root/lib/modules/$version"
    mkdir -p "$to"
    cp "$from/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$to/"
    depmod -b "$from" "$version"
    for module in "$@"; do
        { modprobe -d "$from" -S "$version" --show-depends "$module" 2> /dev/null || true; } | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | sort -u | while read -r file; do
        local name="${file#*/lib/modules/"$version"/}"
        mkdir -p "$to/$(dirname "$name")"
        case $file in
            *.xz) xz -dc "$file" > "$to/${name%.xz}" ;;
            *) cp "$file" "$to/$name" ;;
        esac
    done
    sed -i 's/\.ko\.xz/.ko/' "$to/modules.order"
    depmod -b "$work/root" "$version"
}

make_apt
fetch_tools
fetch_kernel
root="$work/root"
mkdir -p "$root"/{bin,sbin,lib,proc,sys,dev,run,etc,tmp,mnt}
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list | grep -vx busybox); do ln -sf busybox "$root/bin/$applet"; done
base="virtio_pci virtio_net virtio_blk qemu_fw_cfg nbd ext4 crc32c_generic crc32c-intel libcrc32c"
put_modules $base
for program in nbd-client mkfs.ext4 e2fsck; do put "$program"; done
# The kernel itself calls this one.
ln -sf ../bin/busybox "$root/sbin/modprobe"
ln -s /proc/mounts "$root/etc/mtab"
cp "$here/init" "$root/init"
chmod +x "$root/init"
pack() { (cd "$root" && find . | cpio -o -H newc --quiet) > "$work/$1.cpio"; }
pack initrd
fetch_initiator
put_initiator
put_modules $base iscsi_tcp sd_mod sg dm_multipath dm_round_robin dm_service_time scsi_dh_alua
pack iscsi
put fio
pack fio
rm -rf "$state"
for name in fio iscsi initrd; do mv "$work/$name.cpio" "$out/$name.cpio"; done

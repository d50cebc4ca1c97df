#!/bin/sh
# First process of a guest (see kuryrlab/guest.py). Its root is the machine's, read-only; what must be written is in memory.
# $lab_guest, from the kernel's command line, is a directory with `tools` (how to call modprobe), `modules` and `command`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm && mount -t tmpfs tmpfs /dev/shm

# Before anything is covered: the modules, and who loads them, may be below /tmp or /run, too.
modprobe=$(cat "$lab_guest/tools")
while read -r module; do
    $modprobe "$module" || echo "guest: no module $module"
done <"$lab_guest/modules"

# The directory may be below /tmp or /run, which are covered: it is kept aside meanwhile.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/guest /mnt/run
mount --bind "$lab_guest" /mnt/guest
mkdir -p /mnt/run/tmp /mnt/run/netns /mnt/run/guest
mount --bind /mnt/run /run
mount --bind /mnt/guest /run/guest
mount --bind /mnt/run/tmp /tmp
export TMPDIR=/tmp

mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up 2>/dev/null

/bin/sh /run/guest/command </dev/null
echo "guest: exit $?"
echo o >/proc/sysrq-trigger
sleep 10

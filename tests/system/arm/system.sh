# The ARM system that tests/system/arm/run boots: sourced, not run. Made once, with dpkg of this machine as far as it goes, since
# each of its own programs runs emulated.
# shellcheck shell=bash

release=bookworm
# The last is what the package recommends: apt would look for it in vain, without a network.
packages=systemd,systemd-sysv,udev,dbus,mosquitto,procps,iproute2,kmod,ca-certificates

# know_board ARCH: what the emulators and Debian call things.
know_board() {
    board=$1
    case $board in
        arm64) user=qemu-aarch64-static binfmt=qemu-aarch64 kernel='linux-image-[0-9.-]+-cloud-arm64' ;;
        armhf) user=qemu-arm-static binfmt=qemu-arm kernel='linux-image-[0-9.-]+-armmp' ;;
        *) give_up "no such board: $1; expected arm64 or armhf" ;;
    esac
}

# make_system DIRECTORY: leaves disk.img, vmlinuz and initramfs there.
make_system() {
    local at=$1 mirror
    [ "$(cat "$at/packages" 2>/dev/null)" = "$packages" ] && return 0
    rm -rf "$at" && mkdir -p "$at" || return 1
    use_proxy_of_apt
    for mirror in $(mirrors $release); do
        debootstrap --arch="$board" --foreign --variant=minbase --include=$packages $release "$at/root" "$mirror" && break
        rm -rf "$at/root"
    done >"$at/log" 2>&1
    [ -d "$at/root" ] || { tail -n 20 "$at/log"; return 1; }
    { unpack_kernel "$at" "$mirror" && configure_packages "$at/root" && set_up "$at/root" && make_disk "$at"; } >>"$at/log" 2>&1 ||
        { tail -n 30 "$at/log"; return 1; }
    rm -rf "$at/root" "$at/kernel" "$at/apt"
    printf %s $packages >"$at/packages"
}

# The board's packages, asked for with lists of their own.
fetch() {
    local at=$1 mirror=$2
    shift 2
    mkdir -p "$at"/apt/{state/lists/partial,cache/archives/partial,debs} || return 1
    printf '%s\n' "Dir::Etc::sourcelist \"$at/apt/sources.list\";" 'Dir::Etc::sourceparts "-";' "Dir::State \"$at/apt/state\";" \
        "Dir::State::status \"$at/apt/status\";" "Dir::Cache \"$at/apt/cache\";" \
        "APT::Architecture \"$board\";" "APT::Architectures { \"$board\"; };" >"$at/apt/apt.conf"
    : >"$at/apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main" >"$at/apt/sources.list"
    (export APT_CONFIG=$at/apt/apt.conf && cd "$at/apt/debs" && "$@")
}

download_kernel() {
    local image
    apt-get -q update || return 1
    image=$(apt-cache search --names-only "^$kernel\$" | awk '{ print $1 }' | sort -V | tail -n 1)
    # Kernels are kept without their signature too; which one it is does not matter here.
    [ -n "$image" ] || image=$(apt-cache search --names-only "^$kernel-unsigned\$" | awk '{ print $1 }' | sort -V | tail -n 1)
    [ -n "$image" ] && apt-get -q download "$image" busybox-static
}

# The kernel with its modules, and an initramfs that mounts the disk: the drivers for it are modules.
unpack_kernel() {
    local at=$1 mirror=$2 deb version module number
    fetch "$at" "$mirror" download_kernel || return 1
    mkdir -p "$at"/initramfs/{bin,dev,proc,root} "$at/kernel" || return 1
    for deb in "$at"/apt/debs/*.deb; do dpkg-deb -x "$deb" "$at/kernel" || return 1; done
    cp "$at"/kernel/boot/vmlinuz-* "$at/vmlinuz" && cp "$at/kernel/bin/busybox" "$at/initramfs/bin/" || return 1
    version=$(ls "$at/kernel/lib/modules")
    depmod -b "$at/kernel" "$version" || return 1
    for module in virtio_mmio virtio_pci virtio_blk ext4 crc32c_generic; do
        modprobe -S "$version" -d "$at/kernel" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' >"$at/modules"
    # Numbered, so that what another needs is loaded before it.
    number=10
    while read -r module; do
        cp "$module" "$at/initramfs/$number.ko" && number=$((number + 1)) || return 1
    done <"$at/modules"
    cat >"$at/initramfs/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in /*.ko; do /bin/busybox insmod $module; done
until disk=$(/bin/busybox findfs LABEL=board); do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 "$disk" /root
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
INIT
    chmod 755 "$at/initramfs/init"
    (cd "$at/initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$at/initramfs.gz" && rm -rf "$at/initramfs"
    mkdir -p "$at/root/lib/modules" && cp -r "$at/kernel/lib/modules/$version" "$at/root/lib/modules/"
}

# Unpacked by this machine's dpkg. What the packages do to set themselves up they do emulated.
configure_packages() {
    local root=$1 registered=''
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || return 1
    if [ ! -e /proc/sys/fs/binfmt_misc/"$binfmt" ]; then
        registered=yes
        register_emulator || return 1
    fi
    (
        export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C container=lxc
        printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" && chmod 755 "$root/usr/sbin/policy-rc.d"
        rm -rf "$root/debootstrap"
        mkdir -p "$root/var/lib/dpkg/info" && touch "$root/var/lib/dpkg/status" "$root/var/lib/dpkg/available"
        # What debootstrap leaves in a container.
        [ ! -L "$root/proc" ] || { rm "$root/proc" && mkdir "$root/proc"; }
        # Before D-Bus and systemd each look for that of the other.
        rm -f "$root/etc/machine-id" && tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
        dpkg --root="$root" --force-architecture --force-depends --force-unsafe-io --unpack "$root"/var/cache/apt/archives/*.deb &&
            rm -f "$root"/var/cache/apt/archives/*.deb &&
            chroot "$root" dpkg --force-unsafe-io --configure -a && rm "$root/usr/sbin/policy-rc.d"
    )
    local status=$?
    [ -z "$registered" ] || echo -1 >/proc/sys/fs/binfmt_misc/"$binfmt"
    return $status
}

register_emulator() {
    local magic mask
    magic=$(sed -n 's/^magic //p' "/usr/share/binfmts/$binfmt") mask=$(sed -n 's/^mask //p' "/usr/share/binfmts/$binfmt")
    # F: the emulator is opened now, so that it is found from within a root without it.
    printf '%s' ":$binfmt:M::$magic:$mask:$(command -v "$user"):F" >/proc/sys/fs/binfmt_misc/register
}

# A network card for Kafka, one for the test, and a shell behind the latter.
set_up() {
    local root=$1 card
    echo board >"$root/etc/hostname"
    printf '127.0.0.1 localhost board\n' >"$root/etc/hosts"
    echo 'LABEL=board / ext4 defaults 0 1' >"$root/etc/fstab"
    for card in 2 3; do
        printf '[Match]\nMACAddress=52:54:00:00:00:0%s\n[Network]\nAddress=10.0.%s.15/24\nLinkLocalAddressing=no\n' $card $card \
            >"$root/etc/systemd/network/$card.network"
    done
    mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system/sockets.target.wants"
    printf '[Journal]\nStorage=persistent\n' >"$root/etc/systemd/journald.conf.d/test.conf"
    printf '[Socket]\nListenStream=9999\nAccept=yes\n[Install]\nWantedBy=sockets.target\n' >"$root/etc/systemd/system/shell.socket"
    printf '[Service]\nExecStart=/bin/bash\nStandardInput=socket\nStandardOutput=socket\nStandardError=inherit\n' >"$root/etc/systemd/system/shell@.service"
    ln -s ../shell.socket "$root/etc/systemd/system/sockets.target.wants/"
    systemctl --root="$root" -q enable systemd-networkd || return 1
    printf 'listener 1883\nallow_anonymous true\nmax_inflight_messages 200\nmax_queued_messages 100000\n' >"$root/etc/mosquitto/conf.d/test.conf"
}

make_disk() {
    mkfs.ext4 -q -L board -d "$1/root" "$1/disk.img" 3G
}

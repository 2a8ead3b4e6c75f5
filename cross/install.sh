#!/bin/sh
# Installs Tidegate from this directory on a Linux without Debian's packages, or takes it away again:
#
#   sudo ./install.sh               the binary in /usr/bin, the unit, the user, pages and completions
#   sudo ./install.sh uninstall     takes these away; the configuration and what is stored stay
#   sudo ./install.sh purge         takes those away too
#
# Like the package it starts nothing by itself and overwrites no configuration; a gateway that runs is restarted with the new
# version. DESTDIR=/somewhere puts the files below that directory, and makes no user.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
root=${DESTDIR:-}
say() { printf 'install.sh: %s\n' "$*"; }
give_up() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
with_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# put MODE SOURCE TARGET. The new file takes the old one's place whole, which a running binary does not notice.
put() {
    mkdir -p "$root$(dirname "$3")"
    install -m "$1" "$2" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
}

make_user() {
    [ -z "$root" ] || return 0
    if ! command -v systemd-sysusers >/dev/null || ! systemd-sysusers /usr/lib/sysusers.d/tidegate.conf; then
        getent group tidegate >/dev/null || groupadd --system tidegate
        getent passwd tidegate >/dev/null ||
            useradd --system --gid tidegate --home-dir /var/lib/tidegate --no-create-home --shell /usr/sbin/nologin tidegate
        # The unit names it, whether ports belong to it or not.
        getent group dialout >/dev/null || groupadd --system dialout
    fi
    # Serial ports belong to dialout on Debian and its relatives, to uucp on others.
    for group in dialout uucp; do
        ! getent group $group >/dev/null || usermod --append --groups $group tidegate
    done
}

install_all() {
    # It must run here before it replaces one that does.
    [ -n "$root" ] || "$here/bin/tidegate" --version >/dev/null ||
        give_up "bin/tidegate does not run here: is this the archive for $(uname -m)? (its libraries: ldd bin/tidegate)"
    put 755 "$here/bin/tidegate" /usr/bin/tidegate
    for unit in "$here"/systemd/*.service; do put 644 "$unit" "/usr/lib/systemd/system/${unit##*/}"; done
    put 644 "$here/systemd/tidegate.sysusers" /usr/lib/sysusers.d/tidegate.conf
    for page in "$here"/man/*.1; do put 644 "$page" "/usr/share/man/man1/${page##*/}"; done
    put 644 "$here/completions/tidegate.bash" /usr/share/bash-completion/completions/tidegate
    put 644 "$here/completions/_tidegate" /usr/share/zsh/site-functions/_tidegate
    put 644 "$here/completions/tidegate.fish" /usr/share/fish/vendor_completions.d/tidegate.fish
    # Whole, so that nothing of an earlier version is left between.
    rm -rf "$root/usr/share/doc/tidegate"
    mkdir -p "$root/usr/share/doc"
    cp -r "$here/doc" "$root/usr/share/doc/tidegate"
    # Whatever they were unpacked with.
    chmod -R u=rwX,go=rX "$root/usr/share/doc/tidegate"
    make_user
    [ -e "$root/etc/tidegate" ] || mkdir -p -m 750 "$root/etc/tidegate"
    [ -e "$root/var/lib/tidegate" ] || [ -L "$root/var/lib/tidegate" ] || mkdir -p -m 700 "$root/var/lib/tidegate"
    if [ -z "$root" ]; then
        # Only what was just made: whoever changed the owner had a reason.
        [ "$(stat -c %G:%a /etc/tidegate)" != root:750 ] || chgrp tidegate /etc/tidegate
        [ -L /var/lib/tidegate ] || [ "$(stat -c %U:%a /var/lib/tidegate)" != root:700 ] || chown tidegate:tidegate /var/lib/tidegate
    fi
    if with_systemd; then
        systemctl daemon-reload
        # Not waited for: to get ready may take minutes.
        systemctl --no-block try-restart tidegate.service 'tidegate@*.service' || true
    fi
    say "installed $("$root/usr/bin/tidegate" --version 2>/dev/null || echo tidegate)"
    [ -e "$root/etc/tidegate/gateway.toml" ] ||
        say "write /etc/tidegate/gateway.toml (example: /usr/share/doc/tidegate/gateway.example.toml), then systemctl enable --now tidegate"
}

uninstall() {
    if with_systemd; then
        systemctl stop tidegate.service 'tidegate@*.service' || true
    fi
    rm -f "$root"/etc/systemd/system/*.wants/tidegate.service "$root"/etc/systemd/system/*.wants/tidegate@*.service
    rm -f "$root/usr/bin/tidegate" "$root/usr/lib/sysusers.d/tidegate.conf"
    rm -f "$root/usr/share/bash-completion/completions/tidegate" "$root/usr/share/zsh/site-functions/_tidegate"
    rm -f "$root/usr/share/fish/vendor_completions.d/tidegate.fish"
    rm -f "$root"/usr/lib/systemd/system/tidegate.service "$root"/usr/lib/systemd/system/tidegate@.service
    rm -f "$root"/usr/share/man/man1/tidegate.1 "$root"/usr/share/man/man1/tidegate-*.1
    rm -rf "$root/usr/share/doc/tidegate"
    ! with_systemd || systemctl daemon-reload
    say "removed; /etc/tidegate and /var/lib/tidegate are still there"
}

# delete DIRECTORY. A disk that is mounted there, or on a directory below, stays mounted, and is empty.
delete() {
    errors=$(rm -rf "$1" 2>&1) && return 0
    [ -n "$(find "$1" ! -type d | head -n 1)" ] || return 0
    printf 'install.sh: not all of %s could be deleted:\n%s\n' "$1" "$errors" >&2
    return 1
}

purge() {
    left=0
    for directory in /etc/tidegate /var/lib/tidegate /var/lib/private/tidegate; do
        delete "$root$directory" || left=1
    done
    [ $left -eq 0 ] || exit 1
    say "and now they are not; the user tidegate stays"
}

[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || give_up "needs root: sudo ./install.sh ${1:-}"
case ${1:-install} in
    install) install_all ;;
    uninstall) uninstall ;;
    purge)
        uninstall
        purge
        ;;
    *) give_up "unknown '$1'; expected install, uninstall or purge" ;;
esac

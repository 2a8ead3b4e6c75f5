# Where Debian's packages come from: sourced by what fetches some or makes a Debian, not run.
# shellcheck shell=bash

# mirrors RELEASE: places that may have that release of Debian, the likeliest first, one a line: what DEBIAN_MIRROR names and no
# other, or where this machine's apt has it from, where apt has another release from, Debian's own place, and its archive, to
# which old releases move.
mirrors() {
    [ -z "${DEBIAN_MIRROR:-}" ] || { echo "$DEBIAN_MIRROR"; return; }
    # shellcheck disable=SC2016 # apt's own variables
    {
        apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
            awk -v release="$1" '$1 != "Debian" || $3 !~ /^https?:/ { next }
                $2 == release { print 1, $3 } $2 != release && $2 !~ /-/ { print 2, $3 }' | sort -s -k 1,1 | cut -d ' ' -f 2
        echo http://deb.debian.org/debian
        echo http://archive.debian.org/debian
    } | sed 's#/*$##' | awk '!seen[$0]++'
}

# debootstrap asks the environment for a proxy, and apt its configuration.
use_proxy_of_apt() {
    local proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null)"
    [ -z "$proxy" ] || [ "$proxy" = DIRECT ] || export http_proxy=${http_proxy:-$proxy}
}

# make_debian RELEASE PACKAGES DIRECTORY: a Debian of the smallest kind with these packages, unless it is there with the same.
# What debootstrap says is in DIRECTORY.log if that fails.
make_debian() {
    local release=$1 packages=$2 root=$3 mirror
    [ "$(cat "$root/packages" 2>/dev/null)" = "$packages" ] && return 0
    mkdir -p "$(dirname "$root")" || return 1
    use_proxy_of_apt
    : >"$root.log"
    for mirror in $(mirrors "$release"); do
        rm -rf "$root" "$root.new" || return 1
        printf '\nfrom %s:\n' "$mirror" >>"$root.log"
        debootstrap --variant=minbase --include="$packages" "$release" "$root.new" "$mirror" >>"$root.log" 2>&1 || continue
        # Last, so that a root that is not whole is made again.
        printf '%s' "$packages" >"$root.new/packages" && mv "$root.new" "$root" && rm -f "$root.log"
        return
    done
    tail -n 20 "$root.log"
    return 1
}

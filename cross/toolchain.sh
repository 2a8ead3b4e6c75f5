# What cross/build and cross/package need besides Debian's cc, make, perl and python3: sourced by them, not run.
# All of it is fetched once, by the ordinary clients of PyPI, rustup and Debian, into one directory that may be deleted.
# shellcheck shell=bash

# shellcheck source=cross/mirror.sh
. "$(dirname "${BASH_SOURCE[0]}")/mirror.sh"

cache=${TIDEGATE_CROSS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate-cross}

say() { printf '%s\n' "${0#./}: $*" >&2; }
give_up() { say "$*"; exit 1; }

# The oldest C library that the result has to run on: Debian 11, Raspberry Pi OS bullseye, Ubuntu 20.04.
glibc=2.31

# know_target TARGET: sets arch (Debian's name), zig (its name of the target, with the C library's version),
# cpu (what the C compiler may use) and more (what it uses besides, but not for zig's own start files: Thumb-2, which every
# ARMv7 has and which takes fewer bytes), or says which targets there are.
know_target() {
    local armv6='-mcpu=generic+v6+strict_align+vfp2-d32'
    target=$1 cpu='' more=''
    case $target in
        aarch64-unknown-linux-gnu) arch=arm64 zig=aarch64-linux-gnu.$glibc ;;
        armv7-unknown-linux-gnueabihf)
            arch=armhf zig=arm-linux-gnueabihf.$glibc cpu='-mcpu=generic+v7a+vfp3-d32+thumb2-neon' more=+thumb_mode ;;
        arm-unknown-linux-gnueabihf) arch=armv6 zig=arm-linux-gnueabihf.$glibc cpu=$armv6 ;;
        x86_64-unknown-linux-gnu) arch=amd64 zig=x86_64-linux-gnu.$glibc ;;
        aarch64-unknown-linux-musl) arch=arm64-musl zig=aarch64-linux-musl ;;
        x86_64-unknown-linux-musl) arch=amd64-musl zig=x86_64-linux-musl ;;
        arm-unknown-linux-musleabihf) arch=armv6-musl zig=arm-linux-musleabihf cpu=$armv6 ;;
        *)
            say "unknown target $target; expected aarch64-unknown-linux-gnu, armv7-unknown-linux-gnueabihf," \
                "arm-unknown-linux-gnueabihf, x86_64-unknown-linux-gnu, aarch64-unknown-linux-musl, arm-unknown-linux-musleabihf" \
                "or x86_64-unknown-linux-musl"
            exit 2
            ;;
    esac
}

zig_version=0.17.1

# zig is the C compiler and linker: it has the symbols of every glibc, so the build machine's own does not matter.
fetch_zig() {
    local venv=$cache/venv wanted="ziglang==$zig_version cargo-zigbuild==0.24.1"
    PATH=$venv/bin:$PATH
    [ "$(cat "$venv/complete" 2>/dev/null)" = "$wanted" ] && return 0
    say "fetching $wanted"
    # shellcheck disable=SC2086
    rm -rf "$venv" && python3 -m venv "$venv" && "$venv/bin/pip" -q --disable-pip-version-check install $wanted ||
        give_up "could not fetch $wanted from PyPI; needs python3 with venv (Debian: python3-venv) and the network"
    # bash remembers the python3 that it has just run.
    hash -r
    printf '%s' "$wanted" >"$venv/complete"
}

# A compiler with a standard library for the target, in RUSTC; build_std says that the library is built along.
fetch_std() {
    build_std=''
    if [ -n "${RUSTC:-}" ]; then
        has_std "$RUSTC" || give_up "$RUSTC, which RUSTC names, has no standard library for $target"
        say "the standard library for $target is that of $RUSTC, which RUSTC names"
        return 0
    fi
    has_std rustc && { say "the standard library for $target is installed: $(rustc --print sysroot)"; return 0; }
    if command -v rustup >/dev/null; then
        say "fetching the standard library for $target by rustup"
        # It is 30 MB, and a place that does not answer is asked again and again.
        timeout 60 rustup target add "$target" >"$cache/rustup.log" 2>&1 && has_std rustc &&
            { say "the standard library for $target is rustup's"; return 0; }
        say "rustup has none ($(grep -m 1 -E 'error|Caused|not' "$cache/rustup.log" || echo 'no answer within a minute'))"
    fi
    fetch_debian_rust
    say "the standard library for $target is built from Debian's sources, with Debian's compiler"
}

has_std() { compgen -G "$("$1" --print target-libdir --target "$target" 2>/dev/null)/libstd-*.rlib" >/dev/null; }

# Debian keeps a compiler that is new enough for browsers, and its sources: the library is built from these. The packages
# are unpacked, not installed. A compiler and a library of different origin do not work together.
fetch_debian_rust() {
    local root=$cache/rustc-web package
    if ! [ -e "$root/complete" ]; then
        command -v apt-get >/dev/null || give_up "no standard library for $target, and no apt-get to fetch Debian's compiler"
        say "fetching Debian's compiler and the sources of the standard library (150 MB)"
        rm -rf "$root" && mkdir -p "$root/debs" || exit 1
        local std llvm
        [ "$(id -u)" -ne 0 ] || apt-get -q update >&2 || true
        # Which of the two names it has differed between versions.
        std=$(apt-cache depends rustc-web libstd-rust-web-dev | sed -n 's/.*Depends: \(libstd-rust-web-[0-9.]*\)$/\1/p' | sort -u)
        [ -n "$std" ] || give_up "apt knows no rustc-web (Debian 12's security archive has it); apt-get update may help"
        llvm=$(apt-cache depends "$std" | sed -n 's/.*Depends: \(libllvm[0-9]*\)$/\1/p')
        (cd "$root/debs" && apt-get -q download rustc-web "$std" "$llvm" libstd-rust-web-dev rust-web-src) >&2 ||
            give_up "apt could not fetch rustc-web, $std, $llvm, libstd-rust-web-dev and rust-web-src"
        for package in "$root"/debs/*.deb; do dpkg-deb -x "$package" "$root" || exit 1; done
        rm -rf "$root/debs"
        touch "$root/complete"
    fi
    export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export RUSTC=$root/usr/bin/rustc RUSTDOC=$root/usr/bin/rustdoc
    # Building the library is not a stable feature of cargo yet.
    export RUSTC_BOOTSTRAP=1
    build_std=-Zbuild-std=std,panic_unwind
}

# compilers: small scripts that are the C compiler, the C++ compiler, the archiver and the linker for the target.
write_compilers() {
    compilers=$cache/compilers/$target-$glibc
    mkdir -p "$compilers" || exit 1
    local tool binary
    binary=$(python3 -c 'import pathlib, ziglang; print(pathlib.Path(ziglang.__file__).parent / "zig")') || exit 1
    for tool in cc c++ ar ranlib; do
        case $tool in
            c*) compiler_script "$tool" ;;
            *) printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$binary" "$tool" ;;
        esac >"$compilers/$tool.new"
        chmod 755 "$compilers/$tool.new"
        # What another build may be running is not written over.
        mv "$compilers/$tool.new" "$compilers/$tool"
    done
}

# zig compiles by itself, with its own name of the target in the place of those that others give. To link it needs
# cargo-zigbuild, which knows what rustc says that zig does not understand, but takes ten times as long to begin.
compiler_script() {
    cat <<SCRIPT
#!/bin/sh
compile= more=$more
for argument; do
    shift
    case \$argument in
        --target=* | -march=* | -mfpu=* | -mfloat-abi=*) continue ;;
        -c) compile=yes ;;
        # Assembly is written for one of them.
        *.[sS]) more= ;;
    esac
    set -- "\$@" "\$argument"
done
[ -z "\$compile" ] || exec "$binary" $1 -g0 -fno-sanitize=all -target $zig $cpu\$more "\$@"
export CARGO_ZIGBUILD_ZIG_COMMAND="$binary" CARGO_ZIGBUILD_ZIG_VERSION=$zig_version
exec cargo-zigbuild zig $1 -- -g0 -fno-sanitize=all -target $zig $cpu "\$@"
SCRIPT
}

# needed_glibc FILE: the newest version of glibc's symbols that it uses, such as 2.30; nothing for a static one.
needed_glibc() { readelf -V --wide "$1" | { grep -o 'GLIBC_[0-9.]*' || true; } | sort -uV | tail -n 1 | sed 's/GLIBC_//'; }

# fetch_sysroot: sets sysroot to a directory with the oldest C library that the result has to run on, for qemu. It is Debian
# 11's own, fetched with lists of its own, so that the machine's sources stay as they are.
fetch_sysroot() {
    sysroot=''
    case $target in *-musl*) return 0 ;; esac
    [ "$arch" != amd64 ] || { sysroot=/; return 0; }
    local package=libc6-arm64-cross triple=aarch64-linux-gnu root=$cache/sysroot-$glibc
    case $target in arm*) package=libc6-armhf-cross triple=arm-linux-gnueabihf ;; esac
    sysroot=$root/usr/$triple
    [ ! -e "$root/complete-$package" ] || return 0
    say "fetching Debian 11's $package"
    mkdir -p "$root"/apt/{state/lists/partial,cache/archives/partial} || exit 1
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    printf '%s\n' "Dir::Etc::sourcelist \"$root/apt/sources.list\";" 'Dir::Etc::sourceparts "-";' \
        "Dir::State \"$root/apt/state\";" "Dir::Cache \"$root/apt/cache\";" >"$root/apt/apt.conf"
    : >"$root/apt.log"
    for mirror in $(mirrors bullseye); do
        echo "deb [signed-by=$keys] $mirror bullseye main" >"$root/apt/sources.list"
        (
            export APT_CONFIG=$root/apt/apt.conf
            cd "$root/apt" && apt-get -q update && apt-get -q download "$package"
        ) >>"$root/apt.log" 2>&1 || continue
        dpkg-deb -x "$root"/apt/"$package"_*.deb "$root" && rm -rf "$root/apt" && touch "$root/complete-$package"
        return
    done
    cat "$root/apt.log" >&2
    give_up "apt could not fetch Debian 11's $package; DEBIAN_MIRROR may name a place that has it"
}

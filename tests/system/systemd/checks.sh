# What the checks are written with. They run in the container.
# shellcheck shell=bash

unit=tidegate.service
data=/var/lib/tidegate

passed=0 failed=0
# check WORDS COMMAND...: what is true if the command succeeds.
check() {
    local words=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        printf 'ok      %s\n' "$words"
    else
        failed=$((failed + 1))
        printf 'FAILED  %s\n' "$words"
        [ -z "$output" ] || printf '%s\n' "$output" | sed 's/^/        /'
    fi
}

# within SECONDS COMMAND...: it succeeds before so many seconds have passed.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { echo "not within the time; at last:"; "$@"; return 1; }
        sleep 0.1
    done
}

says_nothing() { local output; output=$("$@" 2>&1); [ -z "$output" ] || { printf '%s\n' "$output"; return 1; }; }
not() { ! "$@"; }
is() { [ "$1" = "$2" ] || { echo "expected $2, found $1"; return 1; }; }
has() { [[ "$1" == *"$2"* ]] || { echo "expected '$2' in '$1'"; return 1; }; }

property() { systemctl show --value -p "$1" "$unit"; }
property_is() { is "$(property "$1")" "$2"; }
property_has() { has "$(property "$1")" "$2"; }
pid() { property MainPID; }
process_has() { grep -E -- "$1" "/proc/$(pid)/status" || { cat "/proc/$(pid)/status"; return 1; }; }

status() { tidegate status --data-dir "$data"; }
backlog() { status | sed -n 's/^backlog *\([0-9]*\) records.*/\1/p'; }
backlog_is() { is "$(backlog)" "$1"; }
link_is() { status | grep -E -- "^$1 +$2" || { echo "expected link $1 to be '$2', found:"; status; return 1; }; }

journal() { journalctl -o cat -u "$unit" "$@"; }
# told WORDS [ARGUMENT...]: the journal has them.
told() {
    local words=$1
    shift
    journal "$@" | grep -q -- "$words" || { echo "expected '$words' in the journal, found:"; journal "$@" | tail -n 15; return 1; }
}
warned() { journal -p warning | grep -- "$1"; }
# What came since this moment: the journal's cursor.
now() { journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'; }

publish() { # topic, how many, from which number on
    local i
    for ((i = $3; i < $3 + $2; i++)); do printf '{"temperature": %s}\n' "$i"; done |
        mosquitto_pub -h 127.0.0.1 -u tidegate -P 'a secret' -q 1 -t "$1/kitchen" -l
}

# drop_in NAME: standard input becomes a drop-in of the unit.
drop_in() {
    mkdir -p "/etc/systemd/system/$unit.d"
    cat >"/etc/systemd/system/$unit.d/$1.conf"
    systemctl daemon-reload
}
no_drop_in() {
    rm -f "/etc/systemd/system/$unit.d/$1.conf"
    systemctl daemon-reload
}

# What the sandbox leaves of the machine, tried in the service's own view of the file system.
in_its_view() { nsenter -t "$(pid)" -m -- "$@"; }
cannot_write() { in_its_view test -d "$1" && ! in_its_view touch "$1/tidegate-test"; }
exposure_below_2() { # unit
    systemd-analyze security --no-pager "$1" | tail -n 1 |
        awk -v unit="$1:" '{ for (i = 1; i < NF; i++) if ($i == unit) { print "exposure", $(i + 1); exit !($(i + 1) < 2) } }'
}
runs_as() { is "$(process_has '^Uid:' | awk '{ print $2 }')" "$(id -u "$1")"; }
data_is_private() {
    is "$(stat -c %U:%a "$data")" tidegate:700 && is "$(stat -c %a "$data/status.sock")" 600 && is "$(find "$data" -perm /077 | wc -l)" 0
}
stops_in() {
    local begin=${EPOCHREALTIME/./} ms
    systemctl stop "$unit"
    ms=$(((${EPOCHREALTIME/./} - begin) / 1000))
    echo "it took $ms ms"
    [ "$ms" -lt "$1" ]
}

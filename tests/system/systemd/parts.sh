# The parts around the service, installed as systemd/README.md says. They run in the container.
# shellcheck shell=bash

units=/share/units

install_parts() {
    install -m 644 $units/tidegate.sysusers /usr/lib/sysusers.d/tidegate.conf
    systemd-sysusers tidegate.conf
    install -d /etc/tidegate
    printf 'a secret' >/etc/tidegate/mqtt-password
    printf 'another' >/etc/tidegate/kafka-password
    certificates
    openssl rand -hex 32 >/etc/tidegate/outbox-key
    chmod 600 /etc/tidegate/*-password /etc/tidegate/*-key /etc/tidegate/*.key
    sed 's/^#LoadCredential/LoadCredential/' $units/tidegate.service >/etc/systemd/system/tidegate.service
    install -m 644 $units/tidegate@.service /etc/systemd/system/
    configure
    echo '127.0.0.1 localhost' >/etc/hosts
    devices
    mkfifo /run/meter-line
    exec {line}<>/run/meter-line
    plug_in_meter
    broker
    # Less patience than the unit has, since this is a test of the order of things and not of patience. A stop takes longer than
    # TimeoutStopSec, and asks for it. A system call that the sandbox refuses is the end of the process here, which shows; in the
    # unit it is an error that nobody may notice.
    drop_in test <<'CONF'
[Service]
WatchdogSec=10
RestartSec=1
TimeoutStopSec=2
SystemCallErrorNumber=kill
CONF
}

configure() {
    cat >/etc/tidegate/gateway.toml <<'TOML'
[gateway]
id = "test"
stop_timeout = "3s"
[mqtt.home]
url = "mqtt://localhost"
user = "tidegate"
password = { file = "mqtt-password" }
profiles = ["generic/json"]
[mqtt.guarded]
url = "mqtts://127.0.0.1"
user = "tidegate"
password = { file = "mqtt-password" }
tls = { ca = "ca.pem", certificate = "client.pem", key = "${CREDENTIALS_DIRECTORY}/client.key" }
profiles = [{ id = "generic/json", prefix = "guarded" }]
[serial.meter]
port = "/run/meter"
profile = "generic/json-line"
[serial.usb]
port = "/dev/ttyUSB7"
profile = "generic/json-line"
[serial.acm]
port = "/dev/ttyACM7"
profile = "generic/json-line"
[serial.onboard]
port = "/dev/ttyS77"
profile = "generic/json-line"
[serial.no-port]
port = "/dev/no-port"
profile = "generic/json-line"
[serial.no-group]
port = "/dev/ttyUSB8"
profile = "generic/json-line"
[kafka]
brokers = ["localhost:9"]
sasl = { mechanism = "PLAIN", user = "test", password = { file = "kafka-password" } }
TOML
}

# Devices that have no driver here: who may open them is told another error than who may not. 216 is Bluetooth's.
devices() {
    mknod /dev/ttyUSB7 c 188 7
    mknod /dev/ttyUSB8 c 188 8
    mknod /dev/ttyACM7 c 166 7
    mknod /dev/ttyS77 c 4 141
    mknod /dev/no-port c 216 7
    chgrp dialout /dev/tty{USB7,ACM7,S77} /dev/no-port
    chmod 660 /dev/tty{USB7,USB8,ACM7,S77} /dev/no-port
}

broker() {
    mosquitto_passwd -b -c /etc/mosquitto/passwords tidegate 'a secret'
    chown mosquitto /etc/mosquitto/*
    cat >/etc/mosquitto/conf.d/test.conf <<'CONF'
allow_anonymous false
password_file /etc/mosquitto/passwords
listener 1883 127.0.0.1
listener 8883 127.0.0.1
cafile /etc/mosquitto/ca.pem
certfile /etc/mosquitto/server.pem
keyfile /etc/mosquitto/server.key
require_certificate true
CONF
    systemctl restart mosquitto
}

# An authority, and what it signed: the broker's certificate and the gateway's.
certificates() {
    printf '[req]\ndistinguished_name = name\n[name]\n' >/run/openssl.cnf
    local new=(openssl req -x509 -config /run/openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2)
    (
        cd /etc/tidegate || exit 1
        "${new[@]}" -subj '/CN=Test authority' -addext basicConstraints=critical,CA:TRUE -keyout /run/ca.key -out ca.pem
        "${new[@]}" -subj /CN=gateway -CA ca.pem -CAkey /run/ca.key -addext extendedKeyUsage=clientAuth \
            -keyout client.key -out client.pem
        cp ca.pem /etc/mosquitto/
        cd /etc/mosquitto || exit 1
        "${new[@]}" -subj /CN=broker -CA ca.pem -CAkey /run/ca.key -addext subjectAltName=IP:127.0.0.1 \
            -keyout server.key -out server.pem
    ) 2>/dev/null
    chmod 644 /etc/tidegate/*.pem
}

meter=''
plug_in_meter() {
    [ -z "$meter" ] || { kill "$meter"; wait "$meter"; } 2>/dev/null
    socat -u "FD:$line" PTY,link=/run/meter,raw,echo=0,group=dialout,mode=660 &
    meter=$!
}

# A gateway among several: NAME, and the prefix of its topics.
configure_instance() {
    install -d "/etc/tidegate/$1"
    install -m 600 /etc/tidegate/mqtt-password "/etc/tidegate/$1/"
    cat >"/etc/tidegate/$1.toml" <<TOML
[gateway]
id = "$1"
stop_timeout = "1s"
[mqtt.home]
url = "mqtt://localhost"
user = "tidegate"
password = { file = "mqtt-password" }
profiles = [{ id = "generic/json", prefix = "$1" }]
[kafka]
brokers = ["localhost:9"]
TOML
}

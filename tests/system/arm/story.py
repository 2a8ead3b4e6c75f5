"""What tests/system/arm/run does with the board, once all that it needs is there.

    story.py ARCH SYSTEM KAFKA OLD NEW

SYSTEM is the directory that system.sh made, KAFKA that of the server's jars, OLD and NEW are the two packages. A sensor on
this side of the network publishes numbered readings to the board's mosquitto; at the end each of them must be in Kafka, but
for those that only mosquitto had when the power went. Prints a line for each thing that is checked, and ends with
"N passed, N failed".
"""

import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import paho.mqtt.client as mqtt
from kafka import KafkaConsumer, TopicPartition

ARCH, SYSTEM, KAFKA, OLD, NEW = sys.argv[1], *map(pathlib.Path, sys.argv[2:6])
DATA = "/var/lib/tidegate"
passed = failed = 0
begun = time.monotonic()


def check(words, right, otherwise=""):
    global passed, failed
    passed, failed = passed + bool(right), failed + (not right)
    print(f"{'ok    ' if right else 'FAILED'}  {time.monotonic() - begun:5.0f} s  {words}", flush=True)
    if not right and otherwise:
        print("\n".join("        " + line for line in str(otherwise).splitlines()[-40:]), flush=True)


def within(seconds, question, *arguments):
    """What `question` answers, as soon as that is true, or at last."""
    end = time.monotonic() + seconds
    while True:
        answer = question(*arguments)
        if answer or time.monotonic() > end:
            return answer
        time.sleep(1)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Kafka:
    """One node of Apache Kafka, which the board reaches as 10.0.2.2."""

    def __init__(self, directory):
        self.outer, self.inner, controller = free_ports(3)
        self.directory, self.process = directory, None
        directory.mkdir()
        (directory / "server.properties").write_text(
            "process.roles=broker,controller\nnode.id=1\n"
            f"controller.quorum.voters=1@127.0.0.1:{controller}\ncontroller.listener.names=CONTROLLER\n"
            "inter.broker.listener.name=HERE\n"
            f"listeners=HERE://127.0.0.1:{self.inner},BOARD://127.0.0.1:{self.outer},CONTROLLER://127.0.0.1:{controller}\n"
            f"advertised.listeners=HERE://127.0.0.1:{self.inner},BOARD://10.0.2.2:{self.outer}\n"
            "listener.security.protocol.map=HERE:PLAINTEXT,BOARD:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
            f"log.dirs={directory}/data\nnum.partitions=3\noffsets.topic.replication.factor=1\n"
            "offsets.topic.num.partitions=1\ntransaction.state.log.replication.factor=1\n"
            "transaction.state.log.min.isr=1\nnum.network.threads=2\nnum.io.threads=2\n"
        )
        (directory / "log4j2.properties").write_text("status=error\nrootLogger.level=error\n")
        java = ["java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{KAFKA}/lib/*"]
        java.insert(1, f"-Dlog4j2.configurationFile={directory}/log4j2.properties")
        properties = str(directory / "server.properties")
        form = ["kafka.tools.StorageTool", "format", "-t", "dGlkZWdhdGUtdGVzdHMhIQ", "-c", properties]
        subprocess.run(java + form, check=True, stdout=subprocess.DEVNULL)
        with open(directory / "log", "wb") as log:
            self.process = subprocess.Popen([*java, "kafka.Kafka", properties], stdout=log, stderr=log)

    def records(self):
        """All readings so far: their numbers, and the ce_id of each record."""
        consumer = KafkaConsumer(bootstrap_servers=f"127.0.0.1:{self.inner}", group_id=None, auto_offset_reset="earliest")
        partitions = [TopicPartition("iot.readings", each) for each in consumer.partitions_for_topic("iot.readings") or []]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends, numbers, ids = consumer.end_offsets(partitions), [], []
        while any(consumer.position(each) < ends[each] for each in partitions):
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    value = json.loads(record.value)
                    # Ends of streams are in the topic too.
                    if value["kind"] == "reading":
                        numbers.append(int(value["values"]["n"]))
                        ids.append(dict(record.headers)["ce_id"])
        consumer.close()
        return numbers, ids

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Board:
    """An emulated board with a disk of its own. What it had not flushed when the power goes is lost."""

    def __init__(self, directory):
        self.directory, self.process = directory, None
        self.shell_port, self.mqtt_port, self.monitor_port = free_ports(3)
        disk = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str((SYSTEM / "disk.img").resolve())]
        subprocess.run([*disk, str(directory / "disk.qcow2")], check=True)
        packages = directory / "packages"
        packages.mkdir()
        shutil.copy(OLD, packages / "old.deb")
        shutil.copy(NEW, packages / "new.deb")
        image = ["mkfs.ext4", "-q", "-L", "packages", "-d", str(packages), str(directory / "packages.img"), "64M"]
        subprocess.run(image, check=True, stderr=subprocess.DEVNULL)

    def boot(self, cable="on"):
        machine = {
            "arm64": ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53"],
            "armhf": ["qemu-system-arm", "-M", "virt,highmem=off", "-cpu", "cortex-a15"],
        }[ARCH]
        there = self.directory
        command = [
            *machine, "-smp", "2", "-m", "1024", "-display", "none", "-nodefaults",
            "-serial", f"file:{there}/console", "-monitor", f"tcp:127.0.0.1:{self.monitor_port},server=on,wait=off",
            "-kernel", f"{SYSTEM}/vmlinuz", "-initrd", f"{SYSTEM}/initramfs.gz", "-append", "console=ttyAMA0 quiet",
            "-drive", f"if=none,id=disk,format=qcow2,file={there}/disk.qcow2", "-device", "virtio-blk-device,drive=disk",
            "-drive", f"if=none,id=packages,format=raw,readonly=on,file={there}/packages.img",
            "-device", "virtio-blk-device,drive=packages", "-device", "virtio-rng-device",
            "-netdev", "user,id=kafka,net=10.0.2.0/24", "-device", "virtio-net-device,netdev=kafka,mac=52:54:00:00:00:02",
            "-netdev", f"user,id=test,net=10.0.3.0/24,restrict=on,hostfwd=tcp:127.0.0.1:{self.shell_port}-10.0.3.15:9999,"
            f"hostfwd=tcp:127.0.0.1:{self.mqtt_port}-10.0.3.15:1883",
            "-device", "virtio-net-device,netdev=test,mac=52:54:00:00:00:03",
        ]  # fmt: skip
        with open(there / "qemu.log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # Before anything in there can use it.
        within(10, self.link, cable)
        return within(600, lambda: self.process.poll() is not None or self.does("true"))

    def shell(self, script, seconds=600):
        """What the commands print, and how they ended; nothing and None if the board does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.shell_port), timeout=seconds) as connection:
                connection.sendall(f"exec 2>&1\n( {script}\n) </dev/null\nprintf '\\n%s' $?\nexit\n".encode())
                answer = b""
                while more := connection.recv(65536):
                    answer += more
        except OSError:
            return "", None
        text, _, status = answer.decode(errors="replace").rpartition("\n")
        return text, int(status) if status.isdigit() else None

    def does(self, script):
        return self.shell(script)[1] == 0

    def must(self, words, script, seconds=600):
        text, status = self.shell(script, seconds)
        check(words, status == 0, text or "no answer")
        return text

    def status(self):
        """What the gateway says of itself, or nothing."""
        text, status = self.shell(f"tidegate status --json --data-dir {DATA}")
        try:
            return json.loads(text) if status == 0 else None
        except ValueError:
            return None

    def waiting(self):
        status = self.status()
        return status["backlog"]["records"] if status else -1

    def committed(self):
        """How many readings this run has made durable."""
        counters = (self.status() or {"counters": []})["counters"]
        return sum(each["count"] for each in counters if each["name"] == "outbox_committed_total" and each["value"] == "raw")

    def link(self, to):
        """Plugs the cable to Kafka in, or out."""
        try:
            with socket.create_connection(("127.0.0.1", self.monitor_port), timeout=10) as monitor:
                monitor.sendall(f"set_link kafka {to}\n".encode())
                time.sleep(0.5)
        except OSError:
            return False
        return True

    def cut_power(self):
        self.process.kill()
        self.process.wait()


class Sensor:
    """Publishes {"n": 1}, {"n": 2}, … and knows how far mosquitto has acknowledged them."""

    def __init__(self, port):
        self.port, self.last, self.gone = port, 0, set()

    def publish(self, count, a_second):
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="sensor")
        client.connect("127.0.0.1", self.port, keepalive=600)
        client.loop_start()
        for _ in range(count):
            sent = client.publish("sensors/pump", json.dumps({"n": self.last + 1}), qos=1)
            sent.wait_for_publish(30)
            if not sent.is_published():
                break
            self.last += 1
            time.sleep(1 / a_second)
        client.disconnect()
        client.loop_stop()


CONFIGURATION = """
[gateway]
id = "board"
[mqtt.home]
url = "mqtt://localhost"
profiles = ["generic/json"]
[kafka]
brokers = ["10.0.2.2:%d"]
"""


def version_of(package):
    return subprocess.run(["dpkg-deb", "-f", package, "Version"], check=True, capture_output=True, text=True).stdout.strip()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def raise_manifest(board):
    """Leaves what a release would that writes the outbox in another way. The manifest before is /root/older."""
    board.must("the gateway is stopped", f"systemctl stop tidegate && cp {DATA}/outbox/MANIFEST /root/older")
    text = board.shell(f"cat {DATA}/outbox/MANIFEST")[0].splitlines()[0].replace('"version":1', '"version":2')
    newer = f"{text}\n{crc32c(text.encode()):08x}"
    board.must("a newer release's data", f"cat >/root/newer <<'JSON'\n{newer}\nJSON\ncat /root/newer >{DATA}/outbox/MANIFEST")


def told(board, text):
    return board.does(f"journalctl -q -o cat -u tidegate | grep -qF -- '{text}'")


def story(board, kafka):
    old, new = version_of(OLD), version_of(NEW)
    sensor = Sensor(board.mqtt_port)

    check(f"a Debian for {ARCH} boots", board.boot())
    board.must("with the packages at hand", "mount -o ro LABEL=packages /mnt")
    board.must(f"apt installs {old}", "apt-get -q -y install /mnt/old.deb")
    board.must(
        "it is configured, enabled and started",
        f"cat >/etc/tidegate/gateway.toml <<'TOML'\n{CONFIGURATION % kafka.outer}\nTOML\n"
        "tidegate check && systemctl enable --now tidegate && sync",
    )
    links = within(120, lambda: (s := board.status()) and all(l["state"] == "up" for l in s["links"].values()) and s["links"])
    check("mosquitto and Kafka are reached", links, board.shell("tidegate status; journalctl -q -u tidegate | tail -n 20")[0])

    sensor.publish(200, 50)
    check("200 readings are delivered", within(120, lambda: board.waiting() == 0), board.waiting())
    check("and are in Kafka", set(kafka.records()[0]) == set(range(1, 201)))

    board.link("off")
    sensor.publish(400, 50)
    check("without the network 400 wait", within(120, lambda: board.waiting() >= 400), board.waiting())
    before_cut = board.committed()

    # The power goes while readings come. What this run had committed is durable; the rest is mosquitto's.
    stream = threading.Thread(target=sensor.publish, args=(100_000, 40))
    stream.start()
    within(120, lambda: board.committed() > before_cut + 100)
    durable = board.committed()
    board.cut_power()
    stream.join()
    print(f"        the power was cut when {durable} were committed and mosquitto had acknowledged {sensor.last}", flush=True)
    check("the power was cut in the middle of it", before_cut < durable <= sensor.last, f"{before_cut} {durable} {sensor.last}")
    sensor.gone = set(range(durable + 1, sensor.last + 1))

    check("the board boots again, without the network", board.boot(cable="off"))
    check("the gateway is there again", within(300, board.status), board.shell("journalctl -q -u tidegate | tail -n 20")[0])
    waiting = board.waiting()
    check(f"with all that was committed: {waiting} wait", waiting >= durable - 200, waiting)
    sensor.publish(100, 50)
    # And a word about the run that ended.
    check("100 more are taken", within(120, lambda: board.committed() >= 100), board.committed())
    waiting = board.waiting()

    board.must("mount", "mount -o ro LABEL=packages /mnt")
    board.must(f"apt upgrades it to {new} with that backlog", "apt-get -q -y install /mnt/new.deb </dev/null")
    says = f"tidegate {new.partition('-')[0]} has its outbox open"
    check("which runs", within(300, told, board, says), board.shell("journalctl -q -u tidegate | tail -n 20")[0])
    within(60, board.status)
    # And a word about the run that ended, perhaps.
    check("and has the whole backlog", board.waiting() >= waiting, f"{board.waiting()}, expected {waiting}")
    board.link("on")
    check("which it delivers", within(300, lambda: board.waiting() == 0), board.waiting())

    board.link("off")
    sensor.publish(100, 50)
    check("without the network 100 wait", within(120, lambda: board.waiting() >= 100), board.waiting())
    raise_manifest(board)
    board.must(f"apt goes back to {old}, as told", "apt-get -q -y --allow-downgrades install /mnt/old.deb </dev/null && systemctl --no-block start tidegate")
    refused = "has version 2, this program knows up to 1: install the release that wrote it"
    check("which refuses the newer data in one clear line", within(120, told, board, refused), board.shell("journalctl -q -u tidegate | tail")[0])
    print("        " + board.shell(f"journalctl -q -o cat -u tidegate | grep -F -m 1 -- '{refused}'")[0].strip(), flush=True)
    board.must("it does not run, and has touched nothing", f"systemctl stop tidegate; cmp {DATA}/outbox/MANIFEST /root/newer")
    board.must(
        f"apt installs {new} again, over its own data",
        f"cat /root/older >{DATA}/outbox/MANIFEST && apt-get -q -y install /mnt/new.deb </dev/null && systemctl start tidegate",
    )
    check("the backlog is untouched", within(300, lambda: board.waiting() >= 100), board.waiting())
    board.link("on")
    check("and delivered", within(300, lambda: board.waiting() == 0), board.waiting())

    numbers, ids = kafka.records()
    missing = set(range(1, sensor.last + 1)) - set(numbers)
    check("every reading is in Kafka that the gateway had acknowledged", not missing - sensor.gone, sorted(missing - sensor.gone)[:50])
    check("each under one number only, or lost with mosquitto's memory", len(set(ids)) == len(set(numbers)), f"{len(set(ids))} {len(set(numbers))}")
    print(
        f"        {sensor.last} published, {len(set(numbers))} in Kafka, {len(missing)} lost that only mosquitto had at the"
        f" power cut, {len(ids) - len(set(ids))} records came twice",
        flush=True,
    )

    board.must("apt purges it", "apt-get -q -y purge tidegate </dev/null")
    left = board.shell(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /var/cache"
        " -o -path /mnt \\) -prune -o -name '*tidegate*' -print"
    )[0].strip()
    check("and nothing is left", left == "", left)


def main():
    directory = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-arm-"))
    kafka = board = None
    try:
        kafka = Kafka(directory / "kafka")
        board = Board(directory)
        story(board, kafka)
    except Exception as error:  # noqa: BLE001 the end of the story, whatever it was
        check("the story came to its end", False, traceback.format_exc())
    finally:
        if board and board.process and board.process.poll() is None:
            if failed:
                print(board.shell("journalctl -q --no-pager -u tidegate | tail -n 40")[0])
            board.cut_power()
        if kafka:
            kafka.stop()
        if failed:
            print((directory / "console").read_text(errors="replace")[-3000:] if (directory / "console").exists() else "")
        shutil.rmtree(directory)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


sys.exit(main())

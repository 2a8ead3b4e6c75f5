"""A node of Sparkplug B with one device. Its payloads are made and read by Eclipse Tahu, which the specification's authors wrote.

    sparkplug.py PORT CONNECTIONS COMMANDS

CONNECTIONS is how often it was connected before. COMMANDS is a file; what is appended to it is done, a line after the other, and
told with `did LINE`: birth (of node and device), data (of both), gap (a message is lost before the next one), late-death (the will
of the connection before this one comes only now). It gives birth anew when it is asked to. To kill it is to send its will.
"""

import sys
import time

import paho.mqtt.client as mqtt
from tahutils.tahu import sparkplug_b as tahu
from tahutils.tahu.sparkplug_b import MetricDataType as Type

PORT, CONNECTIONS, COMMANDS = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# 2026-05-04 12:00, and a minute before.
NOW, BEFORE = 1_777_896_000_000, 1_777_895_940_000
NODE, DEVICE = "spBv1.0/plant1/{}/tahu", "spBv1.0/plant1/{}/tahu/press"


def unit(metric, code):
    metric.properties.keys.append("engUnit")
    value = metric.properties.values.add()
    value.type = Type.String
    value.string_value = code


def of_birth(metric):
    """Data of later messages: an alias alone, since name and type were told."""
    metric.ClearField("datatype")
    return metric


def birth():
    node = tahu.getNodeBirthPayload()
    tahu.addMetric(node, "Node Control/Rebirth", None, Type.Boolean, False, NOW)
    unit(tahu.addMetric(node, "Temperatures/Inlet", 1, Type.Float, 21.3, NOW), "degC")
    send(NODE, "NBIRTH", node)
    device = tahu.getDeviceBirthPayload()
    # Aliases are those of the node and all its devices.
    unit(tahu.addMetric(device, "Energy", 10, Type.Double, 1234.5, NOW), "kWh")
    for alias, (name, kind, value) in enumerate(
        [
            ("int8", Type.Int8, -5), ("int16", Type.Int16, -300), ("int32", Type.Int32, -70_000), ("int64", Type.Int64, -7),
            ("uint8", Type.UInt8, 255), ("uint16", Type.UInt16, 65_535), ("uint32", Type.UInt32, 4_294_967_295),
            ("uint64", Type.UInt64, 18_446_744_073_709_551_615), ("running", Type.Boolean, True), ("state", Type.String, "idle"),
            ("text", Type.Text, "a b"), ("serviced", Type.DateTime, BEFORE), ("bytes", Type.Bytes, b"\x00\xff"),
        ],
        11,
    ):
        tahu.addMetric(device, name, alias, kind, value, NOW)
    tahu.addNullMetric(device, "nothing", 30, Type.Int32, NOW)
    table = tahu.initDatasetMetric(device, "table", 31, ["a", "b"], [Type.Int8, Type.String])
    row = table.rows.add()
    row.elements.add().int_value = 1
    row.elements.add().string_value = "x"
    # The library stamps it with the time of now.
    device.metrics[-1].timestamp = NOW
    level = tahu.addHistoricalMetric(device, "level", 32, Type.Double, 0.75)
    level.timestamp = BEFORE
    send(DEVICE, "DBIRTH", device)


def data():
    node = tahu.getDdataPayload()
    of_birth(tahu.addMetric(node, None, 1, Type.Float, -4.5, NOW))
    send(NODE, "NDATA", node)
    device = tahu.getDdataPayload()
    of_birth(tahu.addMetric(device, None, 11, Type.Int8, -6, NOW))
    tahu.addMetric(device, None, 13, Type.Int32, -70_001, NOW)
    of_birth(tahu.addMetric(device, None, 10, Type.Double, 1235.5, NOW))
    tahu.addNullMetric(device, None, 19, Type.Boolean, NOW)
    send(DEVICE, "DDATA", device)


def gap():
    tahu.getSeqNum()


def late_death():
    payload = tahu.Payload()
    tahu.addMetric(payload, "bdSeq", None, Type.Int64, CONNECTIONS - 1)
    send(NODE, "NDEATH", payload)


def send(topic, message, payload):
    client.publish(topic.format(message), payload.SerializeToString()).wait_for_publish(10)


def is_rebirth(message):
    payload = tahu.Payload()
    payload.ParseFromString(message.payload)
    return any(
        metric.name == "Node Control/Rebirth" and metric.datatype == Type.Boolean and metric.boolean_value
        for metric in payload.metrics
    )


tahu.bdSeq = CONNECTIONS
will = tahu.getNodeDeathPayload()
asked = []
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.will_set(NODE.format("NDEATH"), bytes(will.SerializeToString()), qos=1)
client.on_message = lambda _client, _userdata, message: asked.append(is_rebirth(message))
client.on_connect = lambda *_: client.subscribe(NODE.format("NCMD"), qos=1)
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", PORT)
client.loop_start()
done = 0
# The test ends it; this is only a bound.
for _ in range(6_000):
    while asked:
        if asked.pop():
            birth()
            print("did a rebirth", flush=True)
    with open(COMMANDS, encoding="ascii") as file:
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
    for line in (line.strip() for line in lines[done:]):
        {"birth": birth, "data": data, "gap": gap, "late-death": late_death}[line]()
        done += 1
        print(f"did {line}", flush=True)
    time.sleep(0.02)

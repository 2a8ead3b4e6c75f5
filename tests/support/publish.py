"""Publishes {"n":0,...}, {"n":1,...} ... at QoS 1 and notes the numbers that the broker has acknowledged.

    publish.py PORT TOPIC COUNT RATE ACKNOWLEDGED_FILE

Reconnects by itself and sends again what was not acknowledged, as MQTT 3.1.1 demands of a client. Ends when all are.
"""

import sys
import threading
import time

import paho.mqtt.client as mqtt


def main():
    port, topic, count, rate, path = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    acknowledged = open(path, "w", buffering=1)
    numbers, lock, done, left = {}, threading.Lock(), threading.Event(), [count]

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho-publisher", clean_session=False)
    client.max_inflight_messages_set(100)
    client.max_queued_messages_set(0)
    client.reconnect_delay_set(min_delay=1, max_delay=1)

    def on_publish(_client, _userdata, mid, _reason, _properties):
        with lock:
            n = numbers.pop(mid, None)
            if n is None:
                return
            acknowledged.write(f"{n}\n")
            left[0] -= 1
            if left[0] == 0:
                done.set()

    client.on_publish = on_publish
    client.connect("127.0.0.1", port, keepalive=10)
    client.loop_start()
    start = time.monotonic()
    for n in range(count):
        delay = start + n / rate - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        # Message ids are 16 bits wide: never more on the way than half of them.
        while len(numbers) > 30000:
            time.sleep(0.01)
        # The acknowledgement may come before publish() has returned.
        with lock:
            info = client.publish(topic, f'{{"n":{n},"temperature":21.5}}', qos=1)
            numbers[info.mid] = n
    if not done.wait(120):
        print(f"{left[0]} messages not acknowledged", file=sys.stderr)
        return 1
    client.disconnect()
    client.loop_stop()
    return 0


sys.exit(main())

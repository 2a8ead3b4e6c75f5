"""Publishes {"n":0,...}, {"n":1,...} ... at QoS 1 and notes the numbers that the broker has acknowledged.

    publish.py PORT TOPIC COUNT RATE ACKNOWLEDGED_FILE

Reconnects by itself and sends again what was not acknowledged, as MQTT 3.1.1 demands of a client. Ends when all are.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt


def main():
    port, topic, count, rate, path = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    acknowledged = open(path, "w", buffering=1)
    # Message ids by way of a queue: a lock that is held while publishing would meet Paho's own in its thread.
    acks = queue.SimpleQueue()
    numbers, early, left = {}, set(), count

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho-publisher", clean_session=False)
    client.max_inflight_messages_set(100)
    client.max_queued_messages_set(0)
    client.reconnect_delay_set(min_delay=1, max_delay=1)
    client.on_publish = lambda _client, _userdata, mid, _reason, _properties: acks.put(mid)
    client.connect("127.0.0.1", port, keepalive=10)
    client.loop_start()

    def note(n):
        nonlocal left
        acknowledged.write(f"{n}\n")
        left -= 1

    def take(timeout):
        """Notes the acknowledgements that come until `timeout` has passed; false if none came."""
        try:
            mid = acks.get(timeout=max(timeout, 0.0001))
            while True:
                n = numbers.pop(mid, None)
                if n is None:
                    early.add(mid)
                else:
                    note(n)
                mid = acks.get_nowait()
        except queue.Empty:
            return False

    start = time.monotonic()
    for n in range(count):
        # Message ids are 16 bits wide: never more on the way than half of them.
        while len(numbers) > 30000 or time.monotonic() < start + n / rate:
            take(min(0.01, start + n / rate - time.monotonic()))
        mid = client.publish(topic, f'{{"n":{n},"temperature":21.5}}', qos=1).mid
        if mid in early:
            # The acknowledgement came before publish() had returned.
            early.discard(mid)
            note(n)
        else:
            numbers[mid] = n
    deadline = time.monotonic() + 120
    while left > 0 and time.monotonic() < deadline:
        take(0.1)
    client.disconnect()
    client.loop_stop()
    if left > 0:
        print(f"{left} messages not acknowledged", file=sys.stderr)
        return 1
    return 0


sys.exit(main())

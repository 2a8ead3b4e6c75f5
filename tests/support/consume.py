"""Reads topics from their beginning and prints each record as one line of JSON.

    consume.py HOST:PORT DISTINCT TIMEOUT_S TOPIC...

Ends well when records with DISTINCT different ce_id headers have been seen and everything that the topics held at that
moment is printed; ends with 1, and says how many there were, when the timeout has passed.
"""

import base64
import json
import sys
import time

from kafka import KafkaConsumer, TopicPartition


def text(data):
    """Bytes as text; what is not UTF-8 as `base64:...`; nothing as nothing."""
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode("ascii")


def main():
    address, wanted, timeout, topics = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    deadline = time.monotonic() + timeout
    consumer = KafkaConsumer(
        bootstrap_servers=address,
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metadata_max_age_ms=1000,
    )
    seen, assigned, end = set(), set(), None
    while time.monotonic() < deadline:
        # A topic is made by its first record: look again until all are known.
        if end is None:
            known = set()
            for topic in topics:
                partitions = consumer.partitions_for_topic(topic) or set()
                known |= {TopicPartition(topic, partition) for partition in partitions}
            if known != assigned:
                # assign() forgets positions that had been reached, so they are taken along.
                positions = {partition: consumer.position(partition) for partition in assigned}
                consumer.assign(sorted(known))
                for partition in known:
                    consumer.seek(partition, positions.get(partition, 0))
                assigned = known
        if not assigned:
            if wanted == 0:
                return 0
            time.sleep(0.2)
            continue
        for partition, records in consumer.poll(timeout_ms=300, max_records=20000).items():
            for record in records:
                headers = {name: text(value) for name, value in record.headers}
                seen.add(headers.get("ce_id") or (record.topic, record.partition, record.offset))
                line = {
                    "topic": record.topic,
                    "partition": record.partition,
                    "offset": record.offset,
                    "timestamp": record.timestamp,
                    "key": text(record.key),
                    "headers": headers,
                    "value": text(record.value),
                }
                sys.stdout.write(json.dumps(line) + "\n")
        if len(seen) >= wanted:
            if end is None:
                end = consumer.end_offsets(list(assigned))
            if all(consumer.position(partition) >= offset for partition, offset in end.items()):
                return 0
    sys.stdout.flush()
    print(f"{len(seen)} distinct records of {wanted} after {timeout} s in {topics}", file=sys.stderr)
    return 1


sys.exit(main())

"""A recorded day of many meters, and what pandas makes of it: the oracle for windows.

    day.py messages SEED DEVICES STEP     payloads in the order of arrival, a line each, for sensors/day
    day.py recorded SEED DEVICES STEP     the same as lines of `tidegate run --print --format ndjson`
    day.py expect WINDOW LATENESS [FUTURE]  reads such lines (either form), writes one line of JSON: the aggregates, and
                                          how many readings were late or, with FUTURE, too far ahead

Times are in seconds. Each device reports `power` every STEP for a day. 10 % of the readings arrive up to four minutes
late, 1 % half an hour or more, 1 % are sent twice, and the clock of one device is a day ahead.
"""

import json
import random
import sys
from datetime import datetime, timezone

DAY = 24 * 3600
START = datetime(2026, 5, 4, tzinfo=timezone.utc).timestamp()


def text(seconds):
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03}Z"


def arrivals(seed, devices, step):
    chance = random.Random(seed)
    found = []
    for device in range(devices):
        phase = chance.randrange(step * 1000) / 1000
        level = chance.uniform(50, 2000)
        for n in range(DAY // step):
            at = START + phase + n * step
            level = max(0.0, level + chance.gauss(0, 20))
            delay, roll = chance.uniform(0.05, 0.5), chance.random()
            if roll < 0.01:
                delay = chance.uniform(1800, 3600)
            elif roll < 0.11:
                delay = chance.uniform(60, 240)
            reading = (f"meter-{device}", at + (DAY if device == 7 else 0), round(level, chance.randrange(0, 4)))
            # Nothing comes long after the day: silence would close the last windows, which the oracle knows nothing of.
            arrival = min(at + delay, START + DAY + chance.uniform(0, 1))
            found.append((arrival, *reading))
            if chance.random() < 0.01:
                found.append((arrival + chance.uniform(0, 2), *reading))
    found.sort()
    return found


def messages(seed, devices, step):
    for _, device, at, power in arrivals(seed, devices, step):
        print(json.dumps({"device": device, "time": text(at), "power": power}, separators=(",", ":")))


def recorded(seed, devices, step):
    for seq, (arrival, device, at, power) in enumerate(arrivals(seed, devices, step), 1):
        print(json.dumps({
            "schema": 1, "kind": "reading", "gateway": "test", "device": device, "profile": "generic/json",
            "time": text(at), "received": text(arrival), "time_quality": "device", "stream": "print", "seq": seq,
            "values": {"power": power}, "units": {"power": "W"},
        }))


def expect(window, lateness, future=None):
    import pandas

    lines = [json.loads(line) for line in sys.stdin]
    frame = pandas.DataFrame({
        "device": [line["device"] for line in lines],
        "time": pandas.to_datetime([line["time"] for line in lines], utc=True).as_unit("ms").astype("int64"),
        "power": [line.get("power", line.get("values", {}).get("power")) for line in lines],
    })
    ahead = pandas.Series(False, index=frame.index)
    if future is not None:
        received = pandas.to_datetime([line["received"] for line in lines], utc=True).as_unit("ms").astype("int64")
        ahead = frame.time > pandas.Series(received, index=frame.index) + future * 1000
    frame = frame[~ahead]
    length, wait = window * 1000, lateness * 1000
    # What a device has reported so far, before each of its readings.
    frame["before"] = frame.groupby("device").time.transform(lambda time: time.cummax().shift(fill_value=-(2**62)))
    frame["start"] = frame.time // length * length
    late = frame.start + length + wait <= frame.before
    final = frame.groupby("device").time.transform("max")
    closed = frame.start + length + wait <= final
    kept = frame[~late & closed].sort_values("time", kind="stable")
    groups = kept.groupby(["device", "start"]).power
    table = groups.agg(["count", "sum", "min", "max", "mean", "first", "last"]).reset_index()
    print(json.dumps({
        "late": int(late.sum()),
        "ahead": int(ahead.sum()),
        "open": int((~late & ~closed).sum()),
        "aggregates": table.to_dict(orient="records"),
    }))


command, arguments = sys.argv[1], [int(argument) for argument in sys.argv[2:]]
{"messages": messages, "recorded": recorded, "expect": expect}[command](*arguments)

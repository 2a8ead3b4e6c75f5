"""Meters on an M-Bus, and a wire to them that a test can make a bad one.

    mbus.py LINK FAULTS SEED

LINK is made: the name of the end that the gateway opens. FAULTS is a file that says what the wire does (wire.py); `collide` has
two meters answer at once. What a meter says is built here from the standard's tables, and pyMeterBus must read in it what it
was built of, before anybody is answered.

Meters: 5 a heat meter, 7 a water meter, 8 an electricity meter with three telegrams, 9 a water meter that acknowledges no
reset; the number 19550001 a gas meter whose primary address nobody set. Any other address says nothing.
"""

import os
import struct
import sys
from decimal import Decimal

import meterbus
from wire import Wire, plug, pty, write_all

RESET, SELECT, REQUEST, REQUEST_TOGGLED = 0x40, 0x53, 0x5B, 0x7B
SELECTED = 253
MORE_FOLLOW = b"\x1f"


def bcd(number, size):
    digits = f"{abs(number):0{2 * size}d}"
    return bytes.fromhex("f" + digits[1:] if number < 0 else digits)[::-1]


class Record:
    """Bytes, and what pyMeterBus must read in them."""

    def __init__(self, head, data, value=None):
        self.bytes, self.value = bytes.fromhex(head) + data, value


def whole(head, number, format, value):
    return Record(head, struct.pack("<" + format, number), value)


def digits(head, number, size, value):
    return Record(head, bcd(number, size), value)


class Meter:
    def __init__(self, address, number, medium, telegrams, acknowledges=True):
        self.address, self.number, self.medium = address, number, medium
        self.telegrams, self.acknowledges = telegrams, acknowledges
        self.access = 0
        self.reset()

    def reset(self):
        self.expected, self.at = True, -1

    def id(self):
        # TST, five bits a letter.
        maker = (ord("T") - 64) << 10 | (ord("S") - 64) << 5 | (ord("T") - 64)
        return bytes.fromhex(self.number)[::-1] + struct.pack("<HBB", maker, 1, self.medium)

    def telegram(self, at):
        records = b"".join(record.bytes for record in self.telegrams[at])
        more = MORE_FOLLOW if at + 1 < len(self.telegrams) else b""
        body = bytes([0x08, self.address, 0x72]) + self.id() + bytes([self.access % 256, 0, 0, 0]) + records + more
        return bytes([0x68, len(body), len(body), 0x68]) + body + bytes([sum(body) % 256, 0x16])

    def said(self, toggled):
        if toggled == self.expected:
            self.expected, self.at = not self.expected, self.at + 1
            self.access += 1
        return self.telegram(min(max(self.at, 0), len(self.telegrams) - 1))

    def check(self):
        for at, records in enumerate(self.telegrams):
            read = meterbus.load(self.telegram(at))
            assert read.header.aField.parts == [self.address]
            for record, found in zip(records, read.records):
                if record.value is not None:
                    value = Decimal(found.interpreted["value"])
                    assert abs(value - Decimal(record.value)) < Decimal("1e-9"), (record.bytes.hex(), found.interpreted)


METERS = [
    Meter(5, "68714201", 0x04, [[
        digits("0c 06", 12345, 4, "12345000"),
        digits("0c 14", 678912, 4, "6789.12"),
        digits("0b 2d", 57, 3, "5700"),
        digits("0b 3b", 420, 3, "0.42"),
        whole("05 5b", 68.25, "f", "68.25"),
        digits("0a 5e", 412, 2, "41.2"),
        digits("0b 61", -18, 3, "-0.18"),
        digits("4c 06", 11000, 4, "11000000"),
    ]]),
    Meter(7, "17429000", 0x07, [[
        whole("04 13", 123456, "i", "123.456"),
        whole("02 3b", -12, "h", "-0.012"),
    ]]),
    Meter(8, "19550819", 0x02, [
        [whole("04 05", 9876543, "i", "987654300"), whole("84 10 05", 6000000, "i", "600000000")],
        [whole("04 2b", -1500, "i", "-1500")],
        [whole("02 fd 48", 2303, "h", "230.3"), whole("06 fd 59", 2200, "q", None)],
    ]),
    Meter(9, "17429001", 0x16, [[whole("04 13", 7000, "i", "7")]], acknowledges=False),
    Meter(0, "19550001", 0x03, [[digits("0c 14", 1234567, 4, "12345.67")]]),
]
# Six bytes, of which struct knows eight.
METERS[2].telegrams[2][1].bytes = METERS[2].telegrams[2][1].bytes[:-2]


class Line:
    def __init__(self):
        self.selected = None

    def answers(self, frame):
        """What each meter that answers says."""
        if len(frame) == 5:
            control, address = frame[1], frame[2]
            meters = [self.selected] if address == SELECTED else [meter for meter in METERS if meter.address == address]
            meters = [meter for meter in meters if meter is not None]
            if control == RESET:
                for meter in meters:
                    meter.reset()
                if address == SELECTED:
                    self.selected = None
                return [b"\xe5" for meter in meters if meter.acknowledges]
            if control in (REQUEST, REQUEST_TOGGLED):
                return [meter.said(control == REQUEST_TOGGLED) for meter in meters]
            return []
        control, address, information, wanted = frame[4], frame[5], frame[6], frame[7:-2]
        if (control, address, information) != (SELECT, SELECTED, 0x52):
            return []
        fits = [all(w in (0xFF, own) for w, own in zip(wanted, meter.id())) for meter in METERS]
        self.selected = next((meter for meter, fit in zip(METERS, fits) if fit), None)
        if self.selected is None:
            return []
        self.selected.reset()
        return [b"\xe5"]


def frames(buffer):
    """The first whole frame in what came, and the rest."""
    while buffer:
        length = {0x10: 5, 0x68: 6 + buffer[1] if len(buffer) > 1 else None}.get(buffer[0], 0)
        if length is None or 0 < len(buffer) < length:
            return None, buffer
        if length == 0:
            buffer = buffer[1:]
            continue
        frame = buffer[:length]
        begin = 1 if length == 5 else 4
        assert frame[-1] == 0x16 and sum(frame[begin:-2]) % 256 == frame[-2], frame.hex()
        return frame, buffer[length:]
    return None, buffer


def main():
    link, faults, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    for meter in METERS:
        meter.check()
        meter.reset()
    wire, line = Wire(faults, seed), Line()
    side, name = pty()
    plug(link, name)
    print("ready", flush=True)
    buffer = b""
    while True:
        buffer += os.read(side, 4096)
        frame, buffer = frames(buffer)
        while frame is not None:
            with open(faults, encoding="ascii") as file:
                collide = file.read().strip() == "collide"
            said = line.answers(frame)
            if collide and said and len(said[0]) > 1:
                # Where two talk each bit is low that one of them has low.
                other = bytes(wire.random.randrange(256) for _ in said[0])
                said = [bytes(a & b for a, b in zip(said[0], other))]
            for data in said:
                write_all(side, wire.answer(data))
            frame, buffer = frames(buffer)


main()

"""A line of Modbus devices: pymodbus answers, and what it says goes through a wire that a test can make a bad one.

    modbus.py LINK FAULTS SEED

LINK is made: the name of the end that the gateway opens. FAULTS is a file with a word that is read for each answer: clean,
noise, drop, cut, corrupt, any (one of these), mute. Bytes that come from the gateway are passed on as they are.

Devices: 1 an SDM120, 2 a PZEM-004T v3, 3 one with a value of every kind, 4 one that refuses everything, 5 an SDM630MCT of which
each float is half more than its address, 254 an S8. Registers that a device does not have are refused, gaps between others
included; an address that is not there says nothing.
"""

import asyncio
import os
import random
import sys
import threading
import tty

from pymodbus import FramerType
from pymodbus.client.mixin import ModbusClientMixin
from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusDeviceContext, ModbusServerContext, ModbusSparseDataBlock
from pymodbus.server import ModbusSerialServer

TYPE = ModbusClientMixin.DATATYPE


def words(value, kind, order="big"):
    return ModbusClientMixin.convert_to_registers(value, kind, word_order=order)


def block(values):
    """Registers by address; pymodbus counts from 1."""
    return ModbusSparseDataBlock({address + 1: word for start, row in values.items() for address, word in enumerate(row, start)})


def floats(values):
    return block({address: words(value, TYPE.FLOAT32) for address, value in values.items()})


NOTHING = ModbusSparseDataBlock({65_000: 0})


def device(**tables):
    return ModbusDeviceContext(**{"di": NOTHING, "co": NOTHING, "ir": NOTHING, "hr": NOTHING, **tables})


class Eastron(ModbusDeviceContext):
    """Refuses more than 30 floats at once, and half of one."""

    def getValues(self, func_code, address, count=1):
        if count > 60 or count % 2 or address % 2:
            return ExcCodes.ILLEGAL_ADDRESS
        return super().getValues(func_code, address, count)


DEVICES = {
    1: device(
        ir=floats({
            0x00: 230.2, 0x06: 1.5, 0x0C: -345.25, 0x12: 352.3, 0x18: 12.25, 0x1E: -0.98,
            0x46: 50.02, 0x48: 1234.567, 0x4A: 4.75, 0x4C: 61.5, 0x4E: 0.25, 0x156: 1247.0, 0x158: 61.75,
        })
    ),
    2: device(ir=block({0: [2302, 8690, 0, 20005, 0, 1234, 0, 500, 100, 0]})),
    3: device(
        hr=block({
            0: words(65535, TYPE.UINT16),
            1: words(-2, TYPE.INT16),
            2: words(4_000_000_000, TYPE.UINT32),
            4: words(-70_000, TYPE.INT32, "little"),
            6: words(9_007_199_254_740_993, TYPE.UINT64),
            10: words(-5, TYPE.INT64, "little"),
            14: words(3.25, TYPE.FLOAT32, "little"),
            16: words(-1.5e-9, TYPE.FLOAT64),
            20: words("AB-12345", TYPE.STRING),
            24: [0x1234, 0x5678],
        }),
        co=ModbusSparseDataBlock({address + 1: address % 3 == 0 for address in range(20)}),
        di=ModbusSparseDataBlock({8: True}),
    ),
    4: device(),
    5: Eastron(di=NOTHING, co=NOTHING, hr=NOTHING, ir=floats({at: at + 0.5 for at in range(0, 0x17E, 2)})),
    254: device(ir=block({0: [0, 0, 0, 400]})),
}


def pty():
    """The side of the wire, and the name of the side of a device."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    name = os.ttyname(theirs)
    # It stays open, or a wire whose device is not there yet would be cut.
    return ours, name


class Wire:
    def __init__(self, faults, seed):
        self.faults = faults
        self.random = random.Random(seed)

    def noise(self, most):
        return self.random.randbytes(self.random.randint(1, most))

    def answer(self, data):
        with open(self.faults, encoding="ascii") as file:
            fault = file.read().strip()
        if fault == "any":
            fault = self.random.choice(["clean", "noise", "drop", "cut", "corrupt"])
        if fault == "noise":
            return self.noise(40) + data + self.noise(10)
        if fault in ("drop", "mute"):
            return b""
        if fault == "cut":
            return data[: self.random.randrange(len(data))]
        if fault == "corrupt":
            at = self.random.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :]
        return data


def relay(source, target, change):
    while True:
        data = os.read(source, 4096)
        changed = change(data)
        while changed:
            changed = changed[os.write(target, changed) :]


async def main():
    link, faults, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    wire = Wire(faults, seed)
    gateway_side, gateway_name = pty()
    server_side, server_name = pty()
    server = ModbusSerialServer(
        ModbusServerContext(devices=DEVICES, single=False),
        framer=FramerType.RTU,
        ignore_missing_devices=True,
        port=server_name,
        baudrate=9600,
    )
    threading.Thread(target=relay, args=(gateway_side, server_side, lambda data: data), daemon=True).start()
    threading.Thread(target=relay, args=(server_side, gateway_side, wire.answer), daemon=True).start()
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(gateway_name, link)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())

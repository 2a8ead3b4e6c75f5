"""A wire between the gateway and devices that are played: two pseudo-terminals, and what comes between them."""

import os
import random
import tty


def pty():
    """The side of the wire, and the name of the side of a device."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    name = os.ttyname(theirs)
    # It stays open, or a wire whose device is not there yet would be cut.
    return ours, name


def plug(link, name):
    """The name of the end that the gateway opens."""
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(name, link)


class Wire:
    """What a fault makes of an answer. FAULTS is a file with a word that is read for each of them: clean, noise, drop, cut,
    corrupt, any (one of these), mute."""

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


def write_all(target, data):
    while data:
        data = data[os.write(target, data) :]


def relay(source, target, change):
    while True:
        write_all(target, change(os.read(source, 4096)))

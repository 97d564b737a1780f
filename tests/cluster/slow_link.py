"""A link with a delay: carries frames between two new network cards, each later than it came.

`slow_link.py CARD CARD SECONDS` says `ready` when they are there; tc's netem is not in each kernel.
"""

import fcntl
import os
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from select import select

SET_CARD, TAP, NO_INFO = 0x400454CA, 0x2, 0x1000  # of linux/if_tun.h


def card(name: str) -> int:
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, SET_CARD, struct.pack("16sH", name.encode(), TAP | NO_INFO))
    return handle


def carry(one: int, other: int, delay: float) -> None:
    frames: deque[tuple[float, int, bytes]] = deque()
    while True:
        pause = max(0.0, frames[0][0] - time.monotonic()) if frames else None
        for handle in select([one, other], [], [], pause)[0]:
            with suppress(OSError):
                frame = os.read(handle, 2**16)
                frames.append((time.monotonic() + delay, one + other - handle, frame))
        while frames and frames[0][0] <= time.monotonic():
            _, handle, frame = frames.popleft()
            with suppress(OSError):  # lost, as frames are
                os.write(handle, frame)


if __name__ == "__main__":
    cards = [card(name) for name in sys.argv[1:3]]
    print("ready", flush=True)
    carry(*cards, float(sys.argv[3]))

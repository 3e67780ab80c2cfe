"""An interpreter of classic BPF programs, with the checks that the kernel makes before it accepts a filter."""

import struct

MAX_INSTRUCTIONS = 4096


def load(program: bytes) -> list[tuple[int, int, int, int]]:
    """Return the instructions of a filter. Raise ``ValueError`` as the kernel refuses it (seccomp_check_filter)."""
    if not program or len(program) % 8:
        raise ValueError("the program is no array of instructions")
    instructions = list(struct.iter_unpack("<HBBI", program))
    if len(instructions) > MAX_INSTRUCTIONS:
        raise ValueError("the program is too long")
    for place, (code, true, false, constant) in enumerate(instructions):
        match code:
            case 0x20:
                if constant % 4 or constant > 60:
                    raise ValueError(f"instruction {place} loads outside of the data")
            case 0x15 | 0x25 | 0x45:
                if place + 1 + max(true, false) >= len(instructions):
                    raise ValueError(f"instruction {place} jumps out of the program")
            case 0x06:
                pass
            case _:
                raise ValueError(f"instruction {place} has the unknown code {code:#x}")
    if instructions[-1][0] != 0x06:
        raise ValueError("the program does not end with a verdict")
    return instructions


def run(instructions, *, number: int, architecture: int, arguments: tuple[int, ...] = ()) -> int:
    """Return the verdict for one system call. ``arguments`` are up to six numbers of 64 bits."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture, 0, *values)
    accumulator = place = 0
    while True:
        code, true, false, constant = instructions[place]
        place += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, constant)
            case 0x15:
                place += true if accumulator == constant else false
            case 0x25:
                place += true if accumulator > constant else false
            case 0x45:
                place += true if accumulator & constant else false
            case 0x06:
                return constant

"""Text of options to values: durations with units, sizes of memory, lists of cores."""

from __future__ import annotations

import re

from fastvhost.control.errors import UsageError

# Units per second, or seconds per unit: whole numbers, so that 50us become exactly 5e-05.
PER_SECOND = {"us": 1_000_000, "ms": 1_000, "s": 1, "": 1}
SECONDS = {"m": 60}
BINARY = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
"""Shifts."""
DECIMAL = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000, "T": 1_000_000_000_000}
# Linux knows at most 8192 CPUs (NR_CPUS on x86-64); a larger number is a typing error.
MAX_CORE = 8191


def duration(option: str, value: object, least: float, most: float) -> float:
    """Seconds from 50us, 100ms, 1.5s, 2m or a bare number of seconds, within least and most."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m|)", _text(value))
    if not match:
        raise UsageError(f"--{option} {value}: not a duration; write 50us, 100ms, 2s or a number of seconds")
    seconds = float(match[1]) * SECONDS.get(match[2], 1) / PER_SECOND.get(match[2], 1)
    if not least <= seconds <= most:
        raise UsageError(f"--{option} {value}: out of range; use {format_duration(least)} to {format_duration(most)}")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest of 50us, 100ms, 2s."""
    for unit in ("s", "ms"):
        if seconds * PER_SECOND[unit] >= 1:
            return f"{seconds * PER_SECOND[unit]:g}{unit}"
    return f"{seconds * PER_SECOND['us']:g}us"


def size(option: str, value: object, least: int, most: int) -> int:
    """Bytes from 512M, 64G, 1T or a bare number of bytes (powers of 1024, as QEMU has them), within least and most."""
    match = re.fullmatch(r"(\d{1,20})\s*([KMGT]?)", _text(value))
    if not match:
        raise UsageError(f"{option}={value}: not a size; write 512M, 64G or a number of bytes")
    number = int(match[1]) << BINARY[match[2]]
    if not least <= number <= most:
        raise UsageError(f"{option}={value}: out of range; use {format_size(least)} to {format_size(most)}")
    return number


def count(option: str, value: object, least: int, most: int) -> int:
    """A number such as 1000, 64k or 1M (powers of 1024), within least and most."""
    match = re.fullmatch(r"(\d{1,12})\s*([kKM]?)", _text(value))
    if not match:
        raise UsageError(f"--{option} {value}: not a number; write 1000, 64k or 1M")
    number = int(match[1]) << BINARY[match[2].upper()]
    if not least <= number <= most:
        raise UsageError(f"--{option} {value}: out of range; use {least} to {most}")
    return number


def number(option: str, value: object, least: int, most: int) -> int:
    """A plain number, within least and most."""
    text = _text(value)
    if not text.isascii() or not text.isdecimal() or not least <= int(text[:12]) <= most or len(text) > 12:
        raise UsageError(f"{option}={value}: not a number from {least} to {most}")
    return int(text)


def bit_rate(option: str, value: object, least: int, most: int) -> int:
    """Bits a second from 1Gbit, 1.5Mbit, 100k (powers of 1000), within least and most. The unit must be there."""
    match = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,12}))?\s*(bit|[kMGT](?:bit)?)", _text(value))
    if not match:
        fault = "a rate without a unit" if _text(value).isdecimal() else "not a rate"
        raise UsageError(f"{option}={value}: {fault}; write bits a second, such as 1Gbit, 100Mbit or 500kbit")
    digits, unit = match[2] or "", DECIMAL[match[3].removesuffix("bit")]
    number = int(match[1]) * unit + int(digits.ljust(12, "0")) * unit // DECIMAL["T"]
    if not least <= number <= most:
        raise UsageError(f"{option}={value}: out of range; use {format_bit_rate(least)} to {format_bit_rate(most)}")
    return number


def format_bit_rate(number: int) -> str:
    """The shortest of 1500Mbit, 2Gbit, without loss."""
    unit = next(unit for unit in reversed(DECIMAL) if not unit or (number and not number % DECIMAL[unit]))
    return f"{number // DECIMAL[unit]}{unit}bit"


def per_second(option: str, value: object, least: int, most: int) -> int:
    """A number of frames a second such as 500, 100k or 1M (powers of 1000), within least and most."""
    match = re.fullmatch(r"(\d{1,12})\s*([kMG]?)", _text(value))
    if not match:
        raise UsageError(f"{option}={value}: not a number of frames a second; write 500, 100k or 1M")
    number = int(match[1]) * DECIMAL[match[2]]
    if not least <= number <= most:
        raise UsageError(f"{option}={value}: out of range; use {least} to {format_per_second(most)}")
    return number


def format_per_second(number: int) -> str:
    """The shortest of 1500, 100k, 1M, without loss."""
    return format_bit_rate(number).removesuffix("bit")


def format_size(number: int) -> str:
    """The shortest of 1536, 512M, 64G, without loss."""
    unit = next(unit for unit in reversed(BINARY) if not unit or (number and not number % (1 << BINARY[unit])))
    return f"{number >> BINARY[unit]}{unit}"


def core_list(value: object) -> tuple[int, ...]:
    """Cores from a list such as 0,2-3, in its order; a core named twice gets two workers."""
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    text = _text(value)
    cores: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if not match:
            raise UsageError(f"--cores {text}: not a list of cores; write 0,2-3 (a list, not a mask)")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last > MAX_CORE:
            raise UsageError(f"--cores {text}: {part.strip()} is not a range of cores; write the lower number first")
        cores.extend(range(first, last + 1))
    return tuple(cores)


def format_cores(cores: tuple[int, ...] | frozenset[int]) -> str:
    """0,2-3 again."""
    runs: list[list[int]] = []
    for core in sorted(set(cores)):
        if runs and runs[-1][-1] == core - 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _text(value: object) -> str:
    # TOML values may be numbers; True is an int in Python, but not a number here.
    return "" if isinstance(value, bool) or value is None else str(value).strip()

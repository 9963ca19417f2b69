"""Joules, where the board tells: NVML on RTX cards, the input rail on Jetson, RAPL on CPUs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_RAPL = Path("/sys/class/powercap/intel-rapl:0")
_HWMON = Path("/sys/class/hwmon")


@dataclass(frozen=True)
class EnergyMeter:
    """What tells how much energy was used."""

    source: str
    """What is read."""

    read: Callable[[], float]
    """Joules since some moment that stays the same."""


def open_meter(*, gpu: bool, index: int = 0) -> EnergyMeter | None:
    """Return a meter of what runs the engine, None where nothing tells; index: of the GPU."""
    if gpu:
        return _nvml(index) or _jetson()
    return _rapl()


def _nvml(index: int) -> EnergyMeter | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:
        # Not installed, no driver, or a board that does not count: NVML has an error for each.
        return None
    return EnergyMeter(
        "NVML, the whole board",
        lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3,
    )


def _rapl(folder: Path = _RAPL) -> EnergyMeter | None:
    counter = folder / "energy_uj"
    try:
        limit = float((folder / "max_energy_range_uj").read_text())
        last = float(counter.read_text())
    except (OSError, ValueError):
        return None
    state = {"last": last, "turns": 0.0}

    def read() -> float:
        now = float(counter.read_text())
        if now < state["last"]:
            state["turns"] += limit
        state["last"] = now
        return (state["turns"] + now) / 1e6

    return EnergyMeter("RAPL, the CPU package", read)


def _jetson(folder: Path = _HWMON) -> EnergyMeter | None:
    """Power of the input rail of the INA3221, integrated between readings."""
    for label in sorted(folder.glob("hwmon*/in*_label")):
        if not re.search(r"VDD_IN|VIN_SYS", label.read_text()):
            continue
        number = re.findall(r"\d+", label.name)[0]
        volts, amperes = (
            label.with_name(f"in{number}_input"),
            label.with_name(f"curr{number}_input"),
        )
        if volts.is_file() and amperes.is_file():
            return EnergyMeter("INA3221, the input rail", _integrated(volts, amperes))
    return None


def _integrated(volts: Path, amperes: Path) -> Callable[[], float]:
    state = {"joules": 0.0, "at": time.monotonic()}

    def read() -> float:
        watts = float(volts.read_text()) * float(amperes.read_text()) / 1e6
        now = time.monotonic()
        state["joules"] += watts * (now - state["at"])
        state["at"] = now
        return state["joules"]

    return read

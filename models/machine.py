"""The machine: its name in measurements, and the cores that this process may use."""

from __future__ import annotations

import os
import platform


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_name() -> str:
    """Processor and number of cores, as measurements name their machine."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = [
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            ]
        processor = models[0]
    except (OSError, IndexError):
        pass
    return f"{processor}, {os.cpu_count()} cores"

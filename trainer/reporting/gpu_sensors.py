"""What the driver says of a rank's GPU: how busy, how hot, and with how much power."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import fmean

import torch

EVERY_S = 10.0
"""Shortest time between two questions to the driver, each of which takes milliseconds."""
NAMES = ("gpu_utilization", "gpu_power_w", "gpu_temperature_c")


class GpuSensors:
    """Reads the sensors of this rank's GPU from NVML, where it answers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._can_read = device.type == "cuda"
        self._read_at = -EVERY_S
        self._values: tuple[float, ...] = (float("nan"),) * len(NAMES)

    def read(self) -> tuple[float, ...]:
        """The values of NAMES, no older than EVERY_S: the share of time in which kernels ran, watts, degrees Celsius.

        nan on a CPU, or where NVML does not answer (without the package nvidia-ml-py, or in some containers).
        """
        if self._can_read and time.monotonic() - self._read_at >= EVERY_S:
            self._read_at = time.monotonic()
            try:
                self._values = (
                    self._ask(torch.cuda.utilization) / 100,
                    self._ask(torch.cuda.power_draw) / 1000,
                    self._ask(torch.cuda.temperature),
                )
            except Exception:  # NVML has many, and none may end a training
                self._can_read = False
                self._values = (float("nan"),) * len(NAMES)
        return self._values

    def _ask(self, question: Callable[[torch.device], int]) -> float:
        return float(question(self._device))


def render_sensors(by_sensor: Sequence[Sequence[float]]) -> dict[str, float]:
    """The entries of a `step` event from the values of all ranks, for each of NAMES: the mean of those that answered,
    of the temperatures the highest."""
    answered = {name: [v for v in values if not math.isnan(v)] for name, values in zip(NAMES, by_sensor, strict=True)}
    return {
        name: max(values) if name == "gpu_temperature_c" else fmean(values)
        for name, values in answered.items()
        if values
    }

"""A GPU's energy, power limit and driver by NVIDIA's management library (NVML). None where NVML does not have them."""

from collections.abc import Callable
from typing import Any, TypeVar

import pynvml
import torch

T = TypeVar("T")


class Gpu:
    """One GPU. On a CPU, and where NVML fails, every answer is None."""

    def __init__(self, device: torch.device) -> None:
        self._handle: Any = None
        if device.type != "cuda":
            return
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        except pynvml.NVMLError:
            self._handle = None

    def energy_joules(self) -> float | None:
        """Return the energy since the driver was loaded, of all that the GPU computed."""
        millijoules = self._ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if millijoules is None else millijoules / 1000

    def power_limit_watts(self) -> float | None:
        milliwatts = self._ask(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(self._handle))
        return None if milliwatts is None else milliwatts / 1000

    def driver_version(self) -> str | None:
        return self._ask(lambda: str(pynvml.nvmlSystemGetDriverVersion()))

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return None if self._handle is None else question()
        except pynvml.NVMLError:  # older GPUs and virtual ones do not know it
            return None

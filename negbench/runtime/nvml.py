"""A GPU's energy, power limit and driver by NVIDIA's management library (NVML). None where NVML does not have them."""

from typing import Any

import pynvml
import torch


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
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def power_limit_watts(self) -> float | None:
        milliwatts = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1000

    def driver_version(self) -> str | None:
        try:
            return None if self._handle is None else str(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError:
            return None

    def _ask(self, function: str) -> int | None:
        if self._handle is None:
            return None
        try:
            return int(getattr(pynvml, function)(self._handle))
        except pynvml.NVMLError:  # older GPUs and virtual ones do not know it
            return None

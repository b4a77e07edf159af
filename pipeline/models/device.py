"""Which device a process computes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch

from pipeline.config import Device
from pipeline.errors import DeviceError

_LOG = logging.getLogger(__name__)


def choose_device(device: Device, addresses: Sequence[str] = ()) -> torch.device:
    """Choose the device of this process. Touches no GPU memory.

    A GPU address is the index that ``nvidia-smi`` prints, or a UUID; Spark's discovery scripts
    report one of the two. CUDA counts what ``CUDA_VISIBLE_DEVICES`` shows, from 0. So an address
    is, in this order:

    1. its place in ``CUDA_VISIBLE_DEVICES``, where that names it;
    2. the CUDA device of that index, where there is one;
    3. ``cuda:0`` where just one GPU is visible: the cluster manager isolated it, and addresses
       count what the host has.

    Set ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` on hosts with unlike GPUs, else CUDA and ``nvidia-smi``
    may count differently.

    Args:
        device: ``cpu``; ``cuda``: a GPU or an error; ``auto``: a GPU where there is one.
        addresses: GPU addresses Spark assigned to the task; the first counts. Empty: the first GPU.

    Raises:
        DeviceError: If ``cuda`` finds no GPU, or the assigned address is none of those visible.
    """
    if device == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        if device == "cuda":
            raise DeviceError(
                "a GPU was asked for and none can be used",
                where="model.device",
                expected="a CUDA device",
                got=f"none (torch {torch.__version__})",
                todo="check the driver with nvidia-smi, or set model.device to auto or cpu",
            )
        if addresses:
            _LOG.warning("task was given GPU %s but CUDA finds none; using the CPU", addresses[0])
        return torch.device("cpu")
    if not addresses:
        return torch.device("cuda", 0)
    return torch.device("cuda", _index_of(addresses[0].strip(), count))


def _index_of(address: str, count: int) -> int:
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if address in visible[:count]:
        return visible.index(address)
    if address.isdecimal() and int(address) < count:
        return int(address)
    for index in range(count):
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        if address.removeprefix("GPU-") == uuid:
            return index
    if count == 1:
        return 0
    raise DeviceError(
        "the GPU assigned to the task is not visible to this process",
        where=f"address {address}",
        expected=f"an index below {count}, or one of CUDA_VISIBLE_DEVICES",
        got=f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')!r}",
        todo="make the discovery script report what executors see",
    )

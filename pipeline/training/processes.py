"""What processes that train together tell each other; with one process, nothing.

A launcher outside (torchrun, Spark's TorchDistributor) starts the processes and tells each, in the
environment, who it is. Collectives go through tensors only: nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.config import Device
from pipeline.models.device import choose_device

# A process may wait for another one that decodes a slower share of the images.
_PATIENCE = timedelta(hours=2)
# Gradients travel in buffers of this many numbers (128 MiB in float32).
_BUFFER_NUMBERS = 1 << 25


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        index: 0 to count - 1; 0 writes what is written.
        count: How many there are.
        device: Where tensors have to be to travel: the GPU with NCCL, the CPU with gloo.
    """

    index: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this one writes bundle, checkpoint and progress."""
        return self.index == 0

    def add_up(self, numbers: Tensor) -> Tensor:
        """The sum over processes, element by element, on the device of ``numbers``."""
        if self.count == 1:
            return numbers
        travelling = numbers.detach().clone().to(self.device)
        dist.all_reduce(travelling)
        return travelling.to(numbers.device)

    def least(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        if self.count == 1:
            return number
        travelling = torch.tensor(number, device=self.device)
        dist.all_reduce(travelling, dist.ReduceOp.MIN)
        return int(travelling)

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, [sum of N, ...], in the processes' order, on the CPU.

        Args:
            rows: [N, ...], N of each process its own.
        """
        if self.count == 1:
            return rows.cpu()
        if rows.dtype == torch.bool:  # not every backend lets them travel
            return self.gather(rows.to(torch.uint8)).to(torch.bool)
        counts = torch.zeros(self.count, dtype=torch.int64)
        counts[self.index] = len(rows)
        lengths = self.add_up(counts).tolist()
        padded = rows.new_zeros(max(lengths), *rows.shape[1:], device=self.device)
        padded[: len(rows)] = rows.to(self.device)
        gathered = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(gathered, padded)
        parts = zip(gathered, lengths, strict=True)
        return torch.cat([part[:length].cpu() for part, length in parts])

    def share_text(self, text: str) -> str:
        """The text of process 0, in every process."""
        if self.count == 1:
            return text
        content = torch.tensor(list(text.encode()) if self.leads else [], dtype=torch.uint8)
        return bytes(self.gather(content).tolist()).decode()

    def add_up_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over processes into every gradient.

        Not DistributedDataParallel's mean: a step's loss is a mean over what all processes know,
        and each has divided by that already. Label texts pass the text tower once a step, however
        many micro-batches there are, which its wrapper of ``forward`` does not allow for.
        """
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        while gradients:
            buffer = [gradients.pop()]
            while gradients and sum(g.numel() for g in buffer) < _BUFFER_NUMBERS:
                buffer.append(gradients.pop())
            travelling = torch.cat([g.flatten().to(self.device) for g in buffer])
            dist.all_reduce(travelling)
            sizes = [g.numel() for g in buffer]
            for gradient, added in zip(buffer, torch.split(travelling, sizes), strict=True):
                gradient.copy_(added.view(gradient.shape))

    def share(self, module: nn.Module) -> None:
        """Give every process the weights and statistics of process 0.

        Weights are equal already, up to what unlike devices round; batch norms are not: each
        process keeps statistics of its own images, and those of process 0 stand.
        """
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in module.state_dict().values():
                travelling = tensor.detach().to(self.device).contiguous()
                dist.broadcast(travelling, src=0)
                tensor.copy_(travelling)


SINGLE = Processes()


def told_index() -> int:
    """Which process this is, as its launcher told it in the environment; 0 without one."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def join_processes(device: Device) -> Iterator[tuple[Processes, torch.device]]:
    """Meet the processes that the environment names (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``).

    Args:
        device: Where to train: NCCL between GPUs, gloo between CPUs.

    Yields:
        This process among them, and its device.

    Raises:
        DeviceError: A GPU was asked for and none can be used.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    # Several processes of one machine see all GPUs that were given to it.
    local = os.environ.get("LOCAL_RANK")
    chosen = choose_device(device, () if local is None or count == 1 else (local,))
    if count == 1:
        yield SINGLE, chosen
        return
    on_gpu = chosen.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), count, chosen if on_gpu else torch.device("cpu")), chosen
    finally:
        dist.destroy_process_group()

"""Which device a process takes, with and without GPUs that are not there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipeline.config import Device
from pipeline.errors import DeviceError
from pipeline.models.device import choose_device


@pytest.fixture
def make_gpus(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A function that makes torch see so many GPUs, and CUDA_VISIBLE_DEVICES name them."""

    def make(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda index: SimpleNamespace(uuid=f"aaaa-000{index}"),
        )
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


@pytest.mark.parametrize(
    ("device", "addresses", "gpus", "expected"),
    [
        ("cpu", ["0"], (4, None), "cpu"),
        ("auto", [], (0, None), "cpu"),
        ("auto", [], (4, None), "cuda:0"),
        ("cuda", [], (4, None), "cuda:0"),
        ("auto", ["2"], (4, None), "cuda:2"),
        ("cuda", ["3", "2"], (4, None), "cuda:3"),
        ("cuda", [" 1 "], (2, None), "cuda:1"),
        # the host's numbers, renumbered for this process
        ("cuda", ["6"], (2, "4,6"), "cuda:1"),
        ("cuda", ["0"], (2, "1,0"), "cuda:1"),
        # one isolated GPU, the host's number
        ("cuda", ["5"], (1, None), "cuda:0"),
        ("cuda", ["5"], (1, "GPU-aaaa-0000"), "cuda:0"),
        # UUIDs
        ("cuda", ["GPU-aaaa-0001"], (2, None), "cuda:1"),
        ("cuda", ["GPU-bbbb"], (2, "GPU-cccc,GPU-bbbb"), "cuda:1"),
    ],
)
def test_the_device_is_the_one_spark_assigned(
    make_gpus,  # type: ignore[no-untyped-def]
    device: Device,
    addresses: list[str],
    gpus: tuple[int, str | None],
    expected: str,
) -> None:
    make_gpus(*gpus)
    assert str(choose_device(device, addresses)) == expected


def test_auto_with_an_assigned_gpu_that_cuda_does_not_find_warns(
    make_gpus,  # type: ignore[no-untyped-def]
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_gpus(0)
    assert choose_device("auto", ["1"]).type == "cpu"
    assert "GPU 1" in caplog.text


@pytest.mark.parametrize("addresses", [[], ["0"]])
def test_a_gpu_asked_for_and_missing_is_told_in_one_line(
    make_gpus,  # type: ignore[no-untyped-def]
    addresses: list[str],
) -> None:
    make_gpus(0)
    with pytest.raises(DeviceError) as caught:
        choose_device("cuda", addresses)
    assert "\n" not in str(caught.value)
    assert "set model.device to auto or cpu" in str(caught.value)


@pytest.mark.parametrize("address", ["2", "7", "GPU-dddd", "x"])
def test_an_address_that_is_none_of_several_gpus_is_refused(
    make_gpus,  # type: ignore[no-untyped-def]
    address: str,
) -> None:
    make_gpus(2)
    with pytest.raises(DeviceError, match=f"address {address}"):
        choose_device("auto", [address])

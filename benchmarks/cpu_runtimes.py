"""What an image tower costs on one core of a CPU: PyTorch, ours, and other runtimes.

    .venv/bin/python benchmarks/cpu_runtimes.py [--architecture ViT-B-32] [--batch 32] [--rounds 5]

Random weights and random input; one thread; in turns. Seconds are the process's own on the CPU, so
that whatever else runs on the machine counts little. ``open_clip`` is the tower as it comes,
``arranged`` as the job runs it in fp32, ``int8`` as it runs it in int8. ONNX Runtime and OpenVINO
join where they are installed (``pip install --target F onnx onnxruntime openvino nncf``, then
``PYTHONPATH=F``); they run the arranged tower, once in fp32 and once in eight bits as each of them
quantises. ``cosine`` is the mean one with open_clip's rows after the means are subtracted. The last
line is the result as JSON: images/s, and as a ratio to open_clip.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from agreement import centred_cosine
from torch import nn

from pipeline.models.inference_blocks import arrange_blocks
from pipeline.models.int8 import quantize_linears

Run = Callable[[torch.Tensor], Any]


def torch_runs(tower: nn.Module, x: torch.Tensor) -> dict[str, Run]:
    """As it comes, and as the job runs it."""
    arranged, eight = copy.deepcopy(tower), copy.deepcopy(tower)
    for one in (arranged, eight):
        arrange_blocks(one, class_token_only=True)
    quantize_linears(eight, torch.device("cpu"), x)
    towers = {"open_clip": tower, "arranged": arranged, "int8": eight}
    return {name: lambda x, one=one: one(x).numpy() for name, one in towers.items()}


def export(tower: nn.Module, x: torch.Tensor, path: Path) -> Path:
    """The arranged tower as an ONNX file."""
    arranged = copy.deepcopy(tower)
    arrange_blocks(arranged, class_token_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            arranged, (x,), str(path), dynamo=False, input_names=["x"], opset_version=17
        )
    return path


def onnx_runs(path: Path) -> dict[str, Run]:
    """ONNX Runtime, and its dynamic quantisation."""
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    eight = path.with_suffix(".int8.onnx")
    quantize_dynamic(
        path,
        eight,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=True,
        extra_options={"MatMulConstBOnly": True},
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    runs: dict[str, Run] = {}
    for name, file in (("onnxruntime", path), ("onnxruntime int8", eight)):
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        runs[name] = lambda x, one=session: one.run(None, {"x": x.numpy()})[0]
    return runs


def openvino_runs(path: Path, x: torch.Tensor) -> dict[str, Run]:
    """OpenVINO, and NNCF's quantisation after training, calibrated on random input."""
    import nncf  # noqa: PLC0415
    import openvino  # noqa: PLC0415

    model = openvino.convert_model(path)
    calibration = nncf.Dataset([torch.randn(x.shape).numpy() for _ in range(2)])
    eight = nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER, subset_size=2)
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    runs: dict[str, Run] = {}
    for name, one in (("openvino", model), ("openvino int8", eight)):
        compiled = openvino.Core().compile_model(one, "CPU", options)
        runs[name] = lambda x, one=compiled: one([x.numpy()])[0]
    return runs


def main() -> None:
    """Runs all in turns, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tower = open_clip.create_model(asked.architecture).visual.eval()
    x = torch.randn(asked.batch, 3, *open_clip.transformer.to_2tuple(tower.image_size))
    seconds: dict[str, list[float]] = {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        runs = torch_runs(tower, x)
        if importlib.util.find_spec("onnx"):
            onnx = export(tower, x, Path(folder) / "tower.onnx")
            runs |= onnx_runs(onnx)
            runs |= openvino_runs(onnx, x)
        for number in range(asked.rounds + 1):
            for name, run in runs.items():
                began = time.process_time()
                rows[name] = run(x)
                if number:  # the first round warms up
                    seconds.setdefault(name, []).append(time.process_time() - began)
    median = {name: statistics.median(spent) for name, spent in seconds.items()}
    found = {
        name: {
            "images_per_s": round(asked.batch / spent, 2),
            "ratio": round(median["open_clip"] / spent, 2),
            "cosine": round(centred_cosine(np.asarray(rows[name]), rows["open_clip"]), 4),
        }
        for name, spent in median.items()
    }
    result = {"benchmark": "cpu_runtimes", **vars(asked)}
    print(json.dumps(result | {"runs": found}))


if __name__ == "__main__":
    sys.exit(main())

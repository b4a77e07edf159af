"""Two processes that train together do what one would do with all images."""

from __future__ import annotations

import json
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tiny_models import make_towers
from tiny_trainings import (
    CPU,
    RECIPE,
    changed,
    make_cma_trainer,
    make_images,
    make_titled_images,
    make_trainer,
    run,
    weights,
)

from pipeline.config import CheckpointConfig
from pipeline.errors import CheckpointError, ConfigurationError, ManifestError
from pipeline.training.pixels import PixelSet
from pipeline.training.processes import SINGLE, Processes
from pipeline.training.trainer import Trainer

COUNT = 2
Tensors = dict[str, torch.Tensor]


@contextmanager
def joined(folder: Path, index: int) -> Iterator[Processes]:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=index, world_size=COUNT
    )
    try:
        yield Processes(index, COUNT, CPU)
    finally:
        dist.destroy_process_group()


def run_together(folder: Path, body: Callable[[Path, int], None]) -> None:
    """Run a function in two processes and wait; what it raises there fails here."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.training.loop", "open_clip", "tiny_trainings"])
    started = [context.Process(target=body, args=(folder, index)) for index in range(COUNT)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=240)
        assert process.exitcode == 0


def batch_of(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eight images; of the first four hardly a label is known."""
    images = make_images(8, side=36, seed=seed)
    pixels, targets, _ = images.batch(np.arange(8))
    known = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.8
    known[:4, 1:] = False
    return pixels, targets.masked_fill(~known, torch.nan), known


def take_steps(folder: Path, processes: Processes) -> tuple[Tensors, Tensors, float]:
    """Gradients of one step, weights after twenty of SGD, and the last loss."""
    own = slice(processes.index * 4, processes.index * 4 + 4) if processes.count > 1 else slice(8)
    trainer = make_trainer(folder, replace(RECIPE, clip_norm=1e9), processes=processes)
    trainer.network.train_trained()
    trainer.compute_gradients(*(part[own] for part in batch_of(0)))
    named = trainer.network.named_parameters()
    gradients = {name: p.grad.clone().contiguous() for name, p in named if p.grad is not None}
    trainer.optimizer = torch.optim.SGD(trainer.moving, lr=0.05)
    loss = torch.zeros(())
    for step in range(20):
        loss = trainer.step(*(part[own] for part in batch_of(step)))
    state = {n: t.contiguous() for n, t in trainer.network.state_dict().items()}
    return gradients, state, float(loss)


def step_together(folder: Path, index: int) -> None:
    own = folder / str(index)
    own.mkdir()
    with joined(folder, index) as processes:
        gradients, state, loss = take_steps(own, processes)
        save_file(gradients, own / "gradients.safetensors")
        save_file(state, own / "weights.safetensors")
        (own / "loss.json").write_text(json.dumps(loss))


@pytest.mark.long
def test_two_processes_with_unequal_knowledge_step_as_one(tmp_path: Path) -> None:
    _, _, known = batch_of(0)
    assert known[:4].sum() * 3 < known[4:].sum()
    run_together(tmp_path, step_together)
    gradients, state, loss = take_steps(tmp_path, SINGLE)
    for index in range(COUNT):
        own = tmp_path / str(index)
        found = load_file(own / "gradients.safetensors")
        assert found.keys() == gradients.keys()
        for name, value in gradients.items():
            # float32 itself rounds at 1e-7 of the largest
            atol = 1e-6 * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)
        after = load_file(own / "weights.safetensors")
        moved = 0.0
        for name, value in state.items():
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5, msg=name)
            moved = max(moved, float((after[name] - value).abs().max()))
        assert moved > 0  # they did round on their own
        assert json.loads((own / "loss.json").read_text()) == pytest.approx(loss, abs=1e-5)
    first, second = (load_file(tmp_path / str(i) / "weights.safetensors") for i in (0, 1))
    assert changed(first, second) == set()


def take_cma_step(folder: Path, processes: Processes) -> Tensors:
    """Gradients of CMA-CLIP in one step; in the first half of the batch little is known."""
    own = np.arange(8)
    if processes.count > 1:
        own = own[processes.index * 4 : processes.index * 4 + 4]
    trainer = make_cma_trainer(folder, replace(RECIPE, clip_norm=1e9), processes=processes)
    images = make_titled_images(8, make_towers(folder).tokenizer)
    images.known[:3, :] = False
    assert images.texts is not None
    trainer.network.train_trained()
    trainer.compute_gradients(*images.batch(own), None, images.texts.batch(own))
    named = trainer.network.named_parameters()
    return {name: p.grad.clone().contiguous() for name, p in named if p.grad is not None}


def step_cma_together(folder: Path, index: int) -> None:
    own = folder / str(index)
    own.mkdir()
    with joined(folder, index) as processes:
        save_file(take_cma_step(own, processes), own / "gradients.safetensors")


@pytest.mark.long
def test_two_processes_step_as_one_where_tasks_are_known_unequally(tmp_path: Path) -> None:
    run_together(tmp_path, step_cma_together)
    expected = take_cma_step(tmp_path, SINGLE)
    for index in range(COUNT):
        found = load_file(tmp_path / str(index) / "gradients.safetensors")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            atol = 1e-6 * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


def share_of(images: PixelSet, processes: Processes) -> PixelSet:
    own = slice(processes.index, None, processes.count)
    return replace(
        images,
        pixels=images.pixels[own],
        targets=images.targets[own],
        known=images.known[own],
        ids=images.ids[own],
    )


def tell_and_train(folder: Path, index: int) -> None:
    own = folder / str(index)
    own.mkdir()
    with joined(folder, index) as processes:
        # what they tell each other
        rows = torch.full((index + 1, 2), index, dtype=torch.bool)
        assert processes.gather(rows).tolist() == [[False] * 2, [True] * 2, [True] * 2]
        assert processes.gather(torch.zeros(0, 3)).shape == (0, 3)
        assert processes.least(7 + index) == 7
        assert processes.add_up(torch.tensor([1, index])).tolist() == [2, 1]
        assert processes.share_text(f"from {index}: Übermut") == "from 0: Übermut"

        def train(**options: Any) -> Any:
            recipe = replace(RECIPE, ema_decay=0.5, micro_batch_size=2)
            return run(
                own,
                share_of(make_images(25, side=72), processes),
                share_of(make_images(9, side=64, seed=1), processes),
                optimizer=recipe,
                kind="resnet",
                processes=processes,
                **options,
            )

        undisturbed = train()
        figures = [epoch.validation for epoch in undisturbed.epochs]
        assert all(found is not None and found.images == 9 for found in figures)
        save_file(weights(undisturbed), own / "weights.safetensors")
        (own / "figures.json").write_text(json.dumps([f.to_dict() for f in figures if f]))

        # cut off in the second epoch, and taken up again
        step, left = Trainer.step, iter(range(4))

        def mortal(self: Trainer, *args: Any, **options: Any) -> torch.Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(self, *args, **options)

        checkpoint = CheckpointConfig(folder=str(folder / "checkpoint"), every_s=0.0)
        Trainer.step = mortal  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            train(checkpoint=checkpoint)
        Trainer.step = step  # type: ignore[method-assign]
        dist.barrier()
        again = train(checkpoint=checkpoint)
        assert changed(weights(again), weights(undisturbed)) == set()
        assert again.epochs == undisturbed.epochs

        # each sees a folder of its own: then they do not go on together
        elsewhere = folder / "checkpoint" if index == 0 else folder / "elsewhere"
        with pytest.raises(CheckpointError, match="different checkpoints"):
            train(checkpoint=replace(checkpoint, folder=str(elsewhere)))


@pytest.mark.long
def test_two_processes_keep_the_same_weights_and_go_on_together(tmp_path: Path) -> None:
    run_together(tmp_path, tell_and_train)
    first, second = (load_file(tmp_path / str(i) / "weights.safetensors") for i in (0, 1))
    assert changed(first, second) == set()
    first_told, second_told = ((tmp_path / str(i) / "figures.json").read_text() for i in (0, 1))
    assert first_told == second_told
    assert not (tmp_path / "elsewhere" / "checkpoint.json").exists()


def test_one_process_has_nobody_to_tell() -> None:
    assert SINGLE.leads
    assert SINGLE.add_up(torch.tensor([2])).tolist() == [2]
    assert SINGLE.gather(torch.ones(2, 1)).tolist() == [[1], [1]]
    assert SINGLE.share_text("x") == "x"
    assert SINGLE.least(3) == 3


def test_a_step_that_cannot_be_shared_evenly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"shared evenly .* multiple of .* \(3\); got 8"):
        make_trainer(tmp_path, processes=Processes(0, 3))


def test_no_image_at_all_is_a_manifest_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no training image"):
        run(tmp_path, make_images(0))

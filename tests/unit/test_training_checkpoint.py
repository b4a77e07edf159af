"""Trainings that are cut off go on to the bit, or say in one line why they do not."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_trainings import RECIPE, changed, make_images, run, weights

from pipeline.config import CheckpointConfig, LossConfig
from pipeline.errors import CheckpointError
from pipeline.training import checkpoint as checkpoints
from pipeline.training.checkpoint import Checkpoint, Saved, remove_checkpoint
from pipeline.training.loop import TrainedModel
from pipeline.training.trainer import Trainer

# Everything that has a state: averages, batch norms, augmentation, the best epoch, the start.
HARD = replace(RECIPE, epochs=3, ema_decay=0.8, interpolation=0.7)
IMAGES, VALIDATION = make_images(24, side=72), make_images(6, side=64, seed=1)
# Where only the first step matters.
FEW = make_images(16, side=36)
EASY = {"kind": "vit", "training": FEW, "validation": make_images(4)}


class Killed(BaseException):
    """As hard a stop as there is within a process."""


def train(
    folder: Path, *, checkpointed: bool = True, every_s: float = 0.0, **changes: Any
) -> TrainedModel:
    config = CheckpointConfig(folder=str(folder / "checkpoint"), every_s=every_s)
    given: dict[str, Any] = {
        "training": IMAGES,
        "validation": VALIDATION,
        "optimizer": HARD,
        "loss": LossConfig(),
        "kind": "resnet",
        **changes,
    }
    return run(folder, checkpoint=config if checkpointed else None, **given)


def train_until(folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Train and die in the step after so many."""
    left = iter(range(steps))
    step = Trainer.step

    def mortal(self: Trainer, *args: Any, **options: Any) -> torch.Tensor:
        if next(left, None) is None:
            raise Killed
        return step(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", mortal)
        with pytest.raises(Killed):
            train(folder, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(tmp_path_factory.mktemp("undisturbed"), checkpointed=False)


def assert_equal_to_the_bit(found: TrainedModel, expected: TrainedModel) -> None:
    assert changed(weights(found), weights(expected)) == set()
    assert found.epochs == expected.epochs
    assert (found.best, found.validation) == (expected.best, expected.validation)


@pytest.mark.parametrize("every_s", [0.0, 1e9], ids=["each step", "each epoch"])
def test_a_training_killed_three_times_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: TrainedModel, every_s: float
) -> None:
    for steps in (2, 1, 4):  # in the first epoch, after it, in the last; three steps an epoch
        train_until(tmp_path, steps, monkeypatch, every_s=every_s)
    assert_equal_to_the_bit(train(tmp_path, every_s=every_s), undisturbed)


def test_checkpoints_change_nothing(tmp_path: Path, undisturbed: TrainedModel) -> None:
    assert_equal_to_the_bit(train(tmp_path), undisturbed)
    # One that is taken up after its end has nothing left to do.
    assert_equal_to_the_bit(train(tmp_path), undisturbed)


def train_in_a_process(folder: Path) -> None:
    torch.set_num_threads(1)
    step = Trainer.step

    def slow(self: Trainer, *args: Any, **options: Any) -> torch.Tensor:
        time.sleep(0.1)  # so that the parent gets to kill it between two of them
        return step(self, *args, **options)

    Trainer.step = slow  # type: ignore[method-assign]
    trained = train(folder, kind="vit")
    save_file(weights(trained), folder / "result.safetensors")


@pytest.mark.long
def test_a_process_killed_three_times_by_sigkill_ends_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    undisturbed = train(tmp_path, checkpointed=False, kind="vit")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.training.loop", "open_clip", "tiny_trainings"])
    marker = tmp_path / "checkpoint" / "checkpoint.json"
    result = tmp_path / "result.safetensors"
    seen = -1
    for _ in range(3):
        process = context.Process(target=train_in_a_process, args=(tmp_path,))
        process.start()
        while process.is_alive() and steps_done(marker) < seen + 1:
            time.sleep(0.01)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert steps_done(marker) > seen
        seen = steps_done(marker)
        assert not result.exists()
    process = context.Process(target=train_in_a_process, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert changed(load_file(result), weights(undisturbed)) == set()


def steps_done(marker: Path) -> int:
    if not marker.exists():
        return -1
    facts = json.loads(marker.read_text())["facts"]
    return 3 * len(facts["epochs"]) + int(facts["step"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer": replace(HARD, learning_rate=1e-4)}, "optimizer"),
        ({"optimizer": replace(HARD, epochs=4)}, "optimizer"),
        ({"loss": LossConfig(kind="softmax")}, "loss"),
        ({"augmented": False}, "augment"),
        ({"training": make_images(16, side=36, seed=9)}, "training images"),
        ({"training": replace(FEW, known=FEW.known & ~FEW.targets)}, "training images"),
        ({"training": replace(FEW, pixels=FEW.pixels + 1)}, "training images"),
        ({"validation": make_images(4, seed=9)}, "validation images"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: str
) -> None:
    train_until(tmp_path, 1, monkeypatch, **EASY)
    before = contents(tmp_path / "checkpoint")
    with pytest.raises(CheckpointError, match=rf"another training .* the same {named}; choose"):
        train(tmp_path, **{**EASY, **change})
    assert contents(tmp_path / "checkpoint") == before


def test_other_starting_weights_are_another_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(tmp_path, 1, monkeypatch, **EASY)
    with pytest.raises(CheckpointError, match=r"another training .* starting weights"):
        train(tmp_path, **{**EASY, "kind": "coca"})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- the folder itself


def saved(number: int, *, best: int = 0) -> Saved:
    return Saved(
        facts={"step": number},
        state={"a": torch.full((3, 2), float(number)), "n": torch.tensor(number)},
        best={"a": torch.full((2,), float(best))},
        best_epoch=best,
    )


def open_checkpoint(folder: Path, **options: Any) -> Checkpoint:
    return Checkpoint(folder, {"loss": "1"}, every_s=0.0, **options)


def write_checkpoint(folder: Path, *numbers: int) -> None:
    checkpoint = open_checkpoint(folder)
    for number in numbers:
        checkpoint.write(saved(number))
    checkpoint.close()


def read_step(folder: Path) -> int:
    found = open_checkpoint(folder, writes=False).read()
    assert found is not None
    step = int(found.facts["step"])
    assert found.state["n"] == step
    assert found.state["a"].tolist() == [[step] * 2] * 3
    return step


def test_only_the_last_checkpoint_stays_and_the_best_weights_are_written_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "best-model.safetensors").write_bytes(b"of somebody else")
    assert open_checkpoint(tmp_path, writes=False).read() is None
    write_checkpoint(tmp_path, 1)
    [best] = [name for name in contents(tmp_path) if name.startswith("best-") and len(name) > 30]
    write_checkpoint(tmp_path, 2)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.read() is not None
    checkpoint.write(saved(3))
    checkpoint.write(saved(4, best=4))
    checkpoint.close()
    assert read_step(tmp_path) == 4
    assert best not in contents(tmp_path)
    files = [name for name in contents(tmp_path) if name.endswith(".safetensors")]
    assert len(files) == 3
    remove_checkpoint(tmp_path)
    assert {name for name in contents(tmp_path) if name != ".lock"} == {"best-model.safetensors"}


def test_a_kill_at_any_moment_of_writing_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for moment in range(12):
        folder = tmp_path / str(moment)
        write_checkpoint(folder, 1)
        left = iter(range(moment))

        def die(*_: Any, left: Any = left, **__: Any) -> None:
            if next(left, None) is None:
                raise Killed

        with monkeypatch.context() as patched:
            for module, name in ((checkpoints, "_synchronise"), (checkpoints, "save_file")):
                patched.setattr(module, name, after(die, getattr(module, name)))
            patched.setattr(Path, "replace", after(die, Path.replace))
            patched.setattr(Path, "unlink", after(die, Path.unlink))
            checkpoint = open_checkpoint(folder)
            try:
                checkpoint.write(saved(2, best=2))
            except Killed:
                pass
            finally:
                checkpoint.close()
        found.append(read_step(folder))
        write_checkpoint(folder, 5)
        assert read_step(folder) == 5
        assert len([name for name in contents(folder) if "safetensors" in name]) == 2
    assert found == sorted(found)
    assert {1, 2} == set(found)


def after(first: Any, then: Any) -> Any:
    def both(*args: Any, **options: Any) -> Any:
        first()
        return then(*args, **options)

    return both


def damage_nothing_but_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    for number, harm in enumerate((damage_nothing_but_a_byte, cut, Path.unlink)):
        for role in ("state", "best", "checkpoint"):
            folder = tmp_path / f"{number}-{role}"
            write_checkpoint(folder, 1)
            [path] = folder.glob(f"{role}*")
            if (role, harm) == ("checkpoint", Path.unlink):
                continue  # then there is none
            if (role, harm) == ("checkpoint", damage_nothing_but_a_byte):
                path.write_text(path.read_text().replace('"step": 1', '"step": 2'))
            else:
                harm(path)
            with pytest.raises(CheckpointError, match="damaged") as caught:
                open_checkpoint(folder, writes=False).read()
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "7", "\udc80", "[" * 5000])
def test_what_is_no_checkpoint_at_all_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "checkpoint.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(tmp_path, writes=False).read()


def test_a_checkpoint_of_a_newer_product_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_FORMAT", 2)
        write_checkpoint(tmp_path, 1)
    with pytest.raises(CheckpointError, match="newer product"):
        open_checkpoint(tmp_path, writes=False).read()


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    first = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="another training uses"):
        open_checkpoint(tmp_path)
    open_checkpoint(tmp_path, writes=False)  # a process of the same training only reads
    first.close()
    open_checkpoint(tmp_path).close()


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be used"):
        open_checkpoint(tmp_path / "file" / "folder")

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from tests.training.conftest import REPOSITORY
from training.config import ConfigError, LossConfig, ModelConfig, StageConfig, TrainConfig, load_config
from training.data.sources import JOINT
from training.data.splits import SplitRow, read_split, write_split
from training.engine import checkpoint, curves
from training.engine.device import choose_device, cpu_flags, warn_if_slower
from training.engine.meter import Losses
from training.engine.origins import origins
from training.engine.stopping import has_stalled, recall_at_specificity
from training.engine.teacher import Teachers
from training.engine.train import Trainer
from training.engine.validation import auroc
from training.errors import CheckpointError, TrainingError
from training.models import create

if TYPE_CHECKING:
    from training.data.mixture import SourceSampler

pytestmark = pytest.mark.training


class Killed(Exception):
    """Stands for a pulled plug."""


class KilledTrainer(Trainer):
    """Writes its state after one step and dies before another."""

    saved_after = 0
    dies_after = 0

    def run(self) -> None:
        self._last_saved = math.inf
        if self.saved_after == 0:
            self._save_last()
        super().run()

    def _step(self, stage: StageConfig, batch: dict[str, Tensor]) -> Losses:
        if self.progress.step == self.dies_after:
            raise Killed
        self._last_saved = -math.inf if self.progress.step + 1 == self.saved_after else math.inf
        return super()._step(stage, batch)


def run_with_a_kill(config: TrainConfig, folder: Path, *, saved_after: int, dies_after: int) -> Trainer:
    """Return the run that went on after the kill."""
    killed = KilledTrainer(config, Path("x.yaml"), folder)
    killed.saved_after, killed.dies_after = saved_after, dies_after
    with pytest.raises(Killed):
        killed.run()
    resumed = Trainer(config, Path("x.yaml"), folder)
    resumed.resume()
    assert resumed.progress.step >= saved_after
    resumed.run()
    return resumed


def assert_same_run(first: Trainer, second: Trainer) -> None:
    for name, value in first.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name
    assert first.progress.trace == second.progress.trace
    clocks = {"minutes", "tiles_per_s", "step_over_compute"}
    rows = [
        [{key: row[key] for key in row if key not in clocks} for row in run.progress.history] for run in (first, second)
    ]
    assert rows[0] == rows[1]


class ListeningTrainer(Trainer):
    """Keeps the loss of each step."""

    losses: list[float]

    def _step(self, stage: StageConfig, batch: dict[str, Tensor]) -> Losses:
        losses = super()._step(stage, batch)
        self.losses.append(losses.tile)
        return losses


def small_config(data_root: Path, splits: Path, cache: Path, **changes: object) -> TrainConfig:
    stages = [
        {
            "name": name,
            "px": 64,
            "steps": 4,
            "batch": 4,
            "lr": 1e-3,
            "warmup": 2,
            "sources": {"uav75": 1, "metu-ccic": 1},
        }
        for name in ("first", "second")
    ]
    content = {
        "name": "small",
        "model": {"name": "opnet"},
        "data": {"root": data_root, "cache": cache, "splits": splits},
        "validation": {"every_steps": 3, "tiles_per_set": 10, "sets": {"uav75": 1.0}},
        "stages": stages,
    }
    return TrainConfig.model_validate(content | changes)


@pytest.fixture
def config(data_root: Path, splits: Path, cache: Path) -> TrainConfig:
    return small_config(data_root, splits, cache)


@pytest.fixture(scope="module")
def straight(data_root: Path, splits: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    run = Trainer(small_config(data_root, splits, cache), Path("x.yaml"), tmp_path_factory.mktemp("straight"))
    run.run()
    return run


def saved_net(path: Path, seed: int, **options: float) -> Path:
    torch.manual_seed(seed)
    net = create("opnet", **options)
    net.train()(torch.rand(4, 3, 64, 64) * 255)  # the batch norms have seen something
    checkpoint.save(path, {"model": "opnet", "options": options, "state_dict": net.state_dict()})
    return path


def test_a_run_starts_from_the_average_of_several(config: TrainConfig, tmp_path: Path) -> None:
    paths = [saved_net(tmp_path / f"{seed}.pt", seed) for seed in (1, 2, 3)]
    several = config.model_copy(update={"model": ModelConfig(name="opnet", init=paths)})
    started = Trainer(several, Path("x.yaml"), tmp_path / "run").model.state_dict()
    states = [checkpoint.load(path)["state_dict"] for path in paths]
    for key, value in started.items():
        mean = sum(state[key].double() for state in states) / 3
        torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(value, states[0][key]) for key, value in started.items())
    alone = checkpoint.average_state(paths[:1])
    assert all(torch.equal(value, states[0][key]) for key, value in alone.items())


def test_other_networks_are_not_averaged(tmp_path: Path) -> None:
    first, other = saved_net(tmp_path / "a.pt", 1), saved_net(tmp_path / "b.pt", 1, width=0.5)
    with pytest.raises(CheckpointError, match=r"b\.pt: cannot be averaged with .*a\.pt"):
        checkpoint.average_state([first, other])
    with pytest.raises(ValidationError, match="the list of checkpoints is empty"):
        ModelConfig(name="opnet", init=[])


@settings(max_examples=4, derandomize=True)
@given(saved_after=st.integers(0, 7), further=st.integers(0, 4))
def test_a_run_killed_at_any_step_goes_on_to_exactly_the_same_result(
    straight: Trainer, tmp_path_factory: pytest.TempPathFactory, saved_after: int, further: int
) -> None:
    resumed = run_with_a_kill(
        straight.config,
        tmp_path_factory.mktemp("killed"),
        saved_after=saved_after,
        dies_after=min(7, saved_after + further),
    )
    assert_same_run(straight, resumed)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_with_short_numbers_resumes_exactly(config: TrainConfig, precision: str, tmp_path: Path) -> None:
    short = config.model_copy(update={precision: True, "stages": config.stages[:1]})
    whole = Trainer(short, Path("x.yaml"), tmp_path / "whole")
    whole.run()
    resumed = run_with_a_kill(short, tmp_path / "killed", saved_after=2, dies_after=3)
    assert_same_run(whole, resumed)
    assert whole._scaler.state_dict() == resumed._scaler.state_dict()
    assert all(parameter.dtype == torch.float32 for parameter in resumed.model.parameters())


def test_a_stage_ends_when_recall_at_fixed_specificity_no_longer_rises(config: TrainConfig, tmp_path: Path) -> None:
    watched = config.validation.model_copy(update={"every_steps": 1, "stop_specificity": 0.9, "patience": 1})
    stages = [stage.model_copy(update={"lr": 1e-9, "steps": 12}) for stage in config.stages]
    stopping = config.model_copy(update={"validation": watched, "stages": stages})
    run = Trainer(stopping, Path("x.yaml"), tmp_path)
    run.run()
    for name in ("first", "second"):
        values = [row["recall_at_specificity"] for row in run.progress.history if row["stage"] == name]
        assert 2 <= len(values) < 12
        assert not has_stalled(values[:-2], 1)
        assert has_stalled(values[:-1], 1) or has_stalled(values, 1)
    steps = [row["step"] for row in run.progress.history]
    assert len(set(steps)) == len(steps)  # what ends a stage is validated once
    with (tmp_path / "history.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == steps
    assert "uav75/recall_at_specificity" in run.progress.history[0]
    assert run.summary()["steps"] == run.progress.step < run.summary()["configured_steps"]


def test_what_stops_a_stage_also_says_which_moment_is_kept(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = [(0.5, 0.9), (0.7, 0.2), (0.7, 0.3), (0.6, 0.8)]  # recall at the specificity, criterion
    watched = config.validation.model_copy(update={"stop_specificity": 0.9, "patience": 5})
    for wanted, kept in ((watched, 7), (config.validation, 3)):
        rows = iter(scripted)

        def scripted_row(
            self: Trainer, stage: StageConfig, rows: Iterator[tuple[float, float]] = rows
        ) -> dict[str, Any]:
            recall, criterion = next(rows)
            row = {"step": self.progress.step, "stage": stage.name, "criterion": criterion}
            watching = self.config.validation.stop_specificity is not None
            return row | ({"recall_at_specificity": recall} if watching else {})

        monkeypatch.setattr(Trainer, "_validate", scripted_row)
        run = Trainer(config.model_copy(update={"validation": wanted}), Path("x.yaml"), tmp_path / str(kept))
        run.run()
        assert [row["step"] for row in run.progress.history] == [3, 4, 7, 8]
        assert checkpoint.load(run.folder / "best.pt")["step"] == kept
        assert run.summary()["best_step"] == kept
        assert run.summary()["criterion"] == run.progress.best


def test_stopping_needs_cracked_and_sound_tiles(config: TrainConfig, tmp_path: Path) -> None:
    only_cracks = config.validation.model_copy(update={"sets": {"omu-quay": 1.0}, "stop_specificity": 0.9})
    with pytest.raises(ConfigError, match="cracked and sound"):
        Trainer(config.model_copy(update={"validation": only_cracks}), Path("x.yaml"), tmp_path)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), max_size=20), st.floats(0.05, 0.99))
def test_recall_at_specificity_is_the_best_of_all_thresholds(tiles: list[tuple[int, bool]], specificity: float) -> None:
    logits = np.array([logit for logit, _ in tiles], np.float64)
    labels = np.array([label for _, label in tiles], bool)
    found = recall_at_specificity(logits, labels, specificity)
    if not labels.any() or labels.all():
        assert found is None
        return
    called = [logits > threshold for threshold in np.arange(-5.5, 5)]
    fine = [calls for calls in called if (~calls[~labels]).mean() >= specificity - 1e-9]
    assert found == pytest.approx(max(calls[labels].mean() for calls in fine))


@pytest.mark.parametrize(
    ("values", "patience", "stalled"),
    [([0.5, 0.6], 2, False), ([0.6, 0.5, 0.6], 2, True), ([0.6, 0.5, 0.7], 2, False), ([], 1, False)],
)
def test_a_run_has_stalled_after_patience_validations_without_a_rise(
    values: list[float], patience: int, stalled: bool
) -> None:
    assert has_stalled(values, patience) is stalled


def test_tensorboard_shows_each_step_once_after_a_kill(config: TrainConfig, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = config.model_copy(update={"tensorboard": True})
    resumed = run_with_a_kill(shown, tmp_path, saved_after=2, dies_after=6)
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = resumed.progress.history
    assert [event.step for event in events.Scalars("criterion")] == [row["step"] for row in rows]
    assert [event.value for event in events.Scalars("criterion")] == pytest.approx([row["criterion"] for row in rows])
    assert [event.step for event in events.Scalars("step/loss")] == [int(row[0]) for row in resumed.progress.trace]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GPU 0 is asked for, this machine has 0"):
        Trainer(config.model_copy(update={"device": "cuda"}), Path("x.yaml"), tmp_path)
    assert choose_device("auto") == torch.device("cpu")


def test_a_cpu_that_imitates_bfloat16_is_named(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = tmp_path / "cpuinfo"
    for line, warned in [
        ("flags\t\t: fpu avx512f avx512_vnni\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16\n", False),
        ("Features\t: fp asimd\n", True),
        ("Features\t: fp asimd bf16\n", False),
        ("model name\t: unknown\n", False),
    ]:
        cpu.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\n{line}")
        caplog.clear()
        warn_if_slower(config.model_copy(update={"bf16": True}), torch.device("cpu"), cpu_flags(cpu))
        assert ("imitates bfloat16" in caplog.text) is warned
        caplog.clear()
        warn_if_slower(config, torch.device("cpu"), cpu_flags(cpu))
        warn_if_slower(config.model_copy(update={"bf16": True}), torch.device("cuda"), cpu_flags(cpu))
        assert not caplog.text
    assert cpu_flags(tmp_path / "missing") == frozenset()


def test_a_loss_that_is_not_finite_ends_the_run(config: TrainConfig, tmp_path: Path) -> None:
    run = Trainer(config, Path("x.yaml"), tmp_path)
    with torch.no_grad():
        run.model.head.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="not finite at step 0 of stage first"):
        run.run()


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_gradient_that_is_not_finite_moves_no_weight(config: TrainConfig, precision: str, tmp_path: Path) -> None:
    short = config.model_copy(update={} if precision == "float32" else {precision: True})
    run = Trainer(short, Path("x.yaml"), tmp_path)
    run.model.head.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]  # torch lacks it
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    stage = config.stages[0]
    batch = next(iter(run._batches(stage)))
    if precision == "fp16":  # the scaler tries again with a smaller scale
        scale = run._scaler.get_scale()
        run._step(stage, batch)
        assert run._scaler.get_scale() < scale
    else:
        with pytest.raises(TrainingError, match=r"x\.yaml: the gradient is not finite at step 0 of stage first"):
            run._step(stage, batch)
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [({}, torch.float32), ({"bf16": True}, torch.bfloat16), ({"fp16": True}, torch.float16)],
)
def test_convolutions_compute_with_the_numbers_that_are_asked_for(
    config: TrainConfig, changes: dict[str, bool], dtype: torch.dtype, tmp_path: Path
) -> None:
    run = Trainer(config.model_copy(update=changes), Path("x.yaml"), tmp_path)
    seen: list[torch.dtype] = []
    convolution = next(module for module in run.model.modules() if isinstance(module, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _module, _given, answer: seen.append(answer.dtype))
    run._step(config.stages[0], next(iter(run._batches(config.stages[0]))))
    assert seen == [dtype]


def test_the_weights_that_are_kept_are_a_moving_average(config: TrainConfig, tmp_path: Path) -> None:
    run = Trainer(config.model_copy(update={"ema_decay": 0.15}), Path("x.yaml"), tmp_path)
    by_hand = {name: value.clone() for name, value in run.model.state_dict().items()}
    stage = config.stages[0]
    for step, (batch, decay) in enumerate(zip(run._batches(stage), (0.1, 0.15, 0.15), strict=False)):
        run.progress.step = run.progress.step_in_stage = step
        run._step(stage, batch)
        for name, value in run.model.state_dict().items():
            by_hand[name] = decay * by_hand[name] + (1 - decay) * value if value.is_floating_point() else value.clone()
    found, model = run.average.state_dict(), run.model.state_dict()
    for name, value in by_hand.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
    moving = [name for name in found if name.endswith(("running_mean", "running_var")) or name.startswith("head")]
    assert sum(name.endswith("running_var") for name in moving) > 0
    assert not any(torch.allclose(found[name], model[name], rtol=1e-4, atol=1e-7) for name in moving)


def test_the_backbone_learns_at_its_share_of_the_rate(config: TrainConfig, tmp_path: Path) -> None:
    run = Trainer(config.model_copy(update={"backbone_lr": 0.5}), Path("x.yaml"), tmp_path)
    run.progress.step_in_stage = 2
    run._set_rate(config.stages[0])
    rates = {id(parameter): group["lr"] for group in run.optimiser.param_groups for parameter in group["params"]}
    head = {id(parameter) for parameter in (*run.model.head.parameters(), *run.auxiliary.parameters())}
    (full,) = {rates[key] for key in head}
    (half,) = {rate for key, rate in rates.items() if key not in head}
    assert half == pytest.approx(0.5 * full)


def test_a_run_is_over_only_when_all_of_it_is_written(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def killed(path: Path, content: dict[str, Any]) -> None:
        if path.name == "final.pt":
            raise Killed
        save(path, content)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(Killed):
        Trainer(config, Path("x.yaml"), tmp_path).run()
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 8
    assert not list(tmp_path.glob("*.partial"))


def test_wherever_a_best_moment_is_a_run_goes_on_from_its_validation(config: TrainConfig, tmp_path: Path) -> None:
    killed = KilledTrainer(config, Path("x.yaml"), tmp_path)
    killed.saved_after, killed.dies_after = 100, 3  # dies right after the first validation
    with pytest.raises(Killed):
        killed.run()
    assert checkpoint.load(tmp_path / "best.pt")["step"] == 3
    resumed = Trainer(config, Path("x.yaml"), tmp_path)
    resumed.resume()
    assert resumed.progress.step == 3
    assert [row["step"] for row in resumed.progress.history] == [3]


def test_a_stage_that_a_validation_ended_is_not_validated_again_after_a_kill(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = config.validation.model_copy(update={"every_steps": 1, "stop_specificity": 0.9, "patience": 1})
    stages = [config.stages[0].model_copy(update={"lr": 1e-9, "steps": 12})]
    stopping = config.model_copy(update={"validation": watched, "stages": stages})
    save = Trainer._save_last

    def killed(self: Trainer) -> None:
        save(self)
        if self._has_stalled():
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save_last", killed)
        with pytest.raises(Killed):
            Trainer(stopping, Path("x.yaml"), tmp_path).run()
    resumed = Trainer(stopping, Path("x.yaml"), tmp_path)
    resumed.resume()
    before = list(resumed.progress.history)
    assert resumed.progress.stage == 0
    resumed.run()
    assert resumed.progress.history == before


def test_without_a_state_resuming_says_how_to_begin(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt: no state of a run .*; start without --resume$"):
        Trainer(config, Path("x.yaml"), tmp_path).resume()
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.pt: no state of a run .*; start anew \(--anew\)$"):
        Trainer(config, Path("x.yaml"), tmp_path).resume()


def test_a_model_is_not_taken_for_the_state_of_a_run(straight: Trainer, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes((straight.folder / "best.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"last\.pt: not the state of a run"):
        Trainer(straight.config, Path("x.yaml"), tmp_path).resume()


def test_a_run_leaves_a_model_a_history_and_where_its_data_came_from(straight: Trainer) -> None:
    folder = straight.folder
    content = checkpoint.load(folder / "best.pt")
    assert content["model"] == "opnet"
    assert content["config_path"] == "x.yaml"
    assert "<svg" in (folder / "curves.svg").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 8
    assert summary["step_over_compute"] >= 1
    assert summary["criterion"] == straight.progress.best
    assert {row["name"] for row in content["data"]} == {"uav75", "metu-ccic"}
    assert all(len(row["sha256"]) == 64 and row["train_tiles"] > 0 and row["licence"] for row in content["data"])
    assert not any(key.startswith("auxiliary") for key in content["state_dict"])
    with (folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 4, 7, 8]
    logit, cells = checkpoint.load_model(folder / "best.pt")(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert logit.shape == (1,)
    assert cells.shape == (1, 4, 4)


def test_curves_show_every_loss_and_every_set_apart_with_units(
    tmp_path: Path, figures_of: Callable[[ModuleType], list[Any]]
) -> None:
    history: list[dict[str, Any]] = [
        {"step": step, "stage": "only", "loss": 0.5, "criterion": 0.9, "a/recall": 1.0, "b/recall": 1.0, "b/auroc": 0.9}
        for step in (20, 40)
    ]
    trace = [[float(step), 1e-3, step / 40, 0.2, 0.0] for step in range(1, 41)]
    figures = figures_of(curves)
    curves.draw_curves(tmp_path / "a.svg", history, trace)
    made = figures[0]
    loss, rate, result, recall, _, auroc = made.axes
    assert [axes.get_ylabel() for axes in made.axes] == [
        "loss (nats)", "rate (no unit)", "share", "share of the tiles", "share of the tiles", "area, 0.5 is chance",
    ]  # fmt: skip
    raw, smooth, *cells = loss.lines
    assert list(raw.get_ydata()) == [row[2] for row in trace]
    assert smooth.get_ydata()[-1] == pytest.approx(np.mean([row[2] for row in trace[-15:]]))
    assert len(cells) == 2  # a loss that is always zero is not drawn
    first, second = (line for line in recall.lines if line.get_label() in {"a", "b"})
    for kind in ("get_marker", "get_color", "get_linestyle"):
        assert getattr(first, kind)() != getattr(second, kind)()
    assert first.get_markersize() > second.get_markersize()  # seen where the other lies on it
    assert {line.get_markerfacecolor() for line in (first, second)} == {"none"}
    low, high = result.get_ylim()
    assert high - low >= 0.05
    assert [list(line.get_ydata()) for line in auroc.lines if line.get_label() == "b"] == [[0.9, 0.9]]
    assert len(rate.lines) == 1
    curves.draw_curves(tmp_path / "b.svg", history, trace)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_without_a_trace_the_means_between_validations_are_drawn(
    tmp_path: Path, figures_of: Callable[[ModuleType], list[Any]]
) -> None:
    history = [{"step": 4, "stage": "only", "loss": 0.5, "cell_loss": 0.0, "criterion": 0.9, "a/recall": 1.0}]
    figures = figures_of(curves)
    curves.draw_curves(tmp_path / "a.svg", history, curves.read_trace(tmp_path / "steps.csv"))
    (points,) = figures[0].axes[0].lines
    assert list(points.get_ydata()) == [0.5]
    (tmp_path / "steps.csv").write_text("step,rate,loss,cell_loss,teacher_loss\n1.0,0.1,0.5,0.0,0.25\n")
    assert curves.read_trace(tmp_path / "steps.csv") == [[1.0, 0.1, 0.5, 0.0, 0.25]]


def test_a_student_resumes_exactly_and_names_its_teacher(config: TrainConfig, tmp_path: Path) -> None:
    teacher = Trainer(config.model_copy(update={"model": ModelConfig(name="opnet-lse")}), Path("x.yaml"), tmp_path)
    checkpoint.save(tmp_path / "teacher.pt", teacher._exportable())
    loss = LossConfig(teacher=tmp_path / "teacher.pt", teacher_weight=0.7)
    taught = config.model_copy(update={"loss": loss})
    runs: dict[str, Trainer] = {}
    for name, chosen in (("alone", config), ("straight", taught)):
        runs[name] = Trainer(chosen, Path("x.yaml"), tmp_path / name)
        runs[name].run()
    resumed = run_with_a_kill(taught, tmp_path / "killed", saved_after=3, dies_after=5)
    weights = {name: run.average.head.weight for name, run in runs.items()}
    assert not torch.equal(weights["alone"], weights["straight"])
    assert torch.equal(weights["straight"], resumed.average.head.weight)
    (named,) = checkpoint.load(tmp_path / "killed/final.pt")["teacher"]
    assert named["sha256"] == hashlib.sha256((tmp_path / "teacher.pt").read_bytes()).hexdigest()
    assert checkpoint.load_model(tmp_path / "killed/final.pt").pooling == "mean"

    checkpoint.save(tmp_path / "teacher.pt", runs["alone"]._exportable())
    with pytest.raises(checkpoint.CheckpointError, match="not the teacher that the run began with"):
        Trainer(taught, Path("x.yaml"), tmp_path / "killed").resume()


def teaching_net(folder: Path, name: str, seed: int) -> Path:
    torch.manual_seed(seed)
    net = create(name)
    path = folder / f"{name}-{seed}.pt"
    checkpoint.save(path, {"model": name, "options": {}, "state_dict": net.state_dict()})
    return path


def test_several_teachers_of_any_kind_answer_with_their_mean(tmp_path: Path) -> None:
    paths = [teaching_net(tmp_path, name, seed) for name, seed in (("opnet", 1), ("opnet-lse", 2))]
    teachers = Teachers(paths, torch.device("cpu"))
    tiles = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = [checkpoint.load_model(path)(tiles) for path in paths]
        logits, cells = teachers(tiles)
    assert torch.allclose(logits, (expected[0][0] + expected[1][0]) / 2, atol=1e-5)
    assert torch.allclose(cells, (expected[0][1] + expected[1][1]) / 2, atol=1e-5)

    teachers.require_same([dict(row) for row in teachers.rows])
    with pytest.raises(checkpoint.CheckpointError, match="began with 1, not 2"):
        teachers.require_same(teachers.rows[0])
    with pytest.raises(checkpoint.CheckpointError, match=r"opnet-1\.pt: is not the teacher"):
        teachers.require_same(teachers.rows[::-1])


def test_cells_are_learnt_from_teachers_where_the_grids_are_alike(config: TrainConfig, tmp_path: Path) -> None:
    teacher = teaching_net(tmp_path, "opnet-lse", 5)
    losses: dict[float, list[float]] = {}
    for weight in (0.0, 3.0):
        loss = LossConfig(teacher=teacher, cell_head="own", teacher_cell_weight=weight)
        model = ModelConfig(name="opnet-lse")
        trainer = Trainer(
            config.model_copy(update={"loss": loss, "model": model}), Path("x.yaml"), tmp_path / f"{weight}"
        )
        trainer.run()
        losses[weight] = [row["teacher_loss"] for row in trainer.progress.history]
    assert losses[3.0][0] > losses[0.0][0]
    coarse = LossConfig(teacher=teaching_net(tmp_path, "mobilenetv2", 5), cell_head="own", teacher_cell_weight=1.0)
    trainer = Trainer(config.model_copy(update={"loss": coarse, "model": model}), Path("x.yaml"), tmp_path / "coarse")
    with pytest.raises(ConfigError, match=r"x\.yaml: loss\.teacher_cell_weight: the teachers have \(2, 2\) cells"):
        trainer.run()


def test_a_stage_without_steps_keeps_the_average_that_the_run_starts_from(config: TrainConfig, tmp_path: Path) -> None:
    starts = [teaching_net(tmp_path, "opnet-lse", seed) for seed in (1, 2)]
    stage = config.stages[0].model_copy(update={"steps": 0})
    model = ModelConfig(name="opnet-lse", init=starts)
    kept = config.model_copy(update={"model": model, "stages": [stage]})
    trainer = Trainer(kept, Path("x.yaml"), tmp_path / "run")
    trainer.run()
    found = checkpoint.load(tmp_path / "run/best.pt")["state_dict"]
    first, second = (checkpoint.load(path)["state_dict"] for path in starts)
    for key, value in found.items():
        if value.is_floating_point():
            assert torch.allclose(value, (first[key] + second[key]) / 2, atol=1e-6), key
    assert trainer.summary()["steps"] == 0
    assert [row["step"] for row in trainer.progress.history] == [0]


def test_a_teacher_is_heeded_where_it_is_right(config: TrainConfig, tmp_path: Path) -> None:
    """A teacher that calls everything a crack is heeded on cracks alone."""
    path = tmp_path / "alarmist.pt"
    net = create("opnet-lse")
    assert net.head.bias is not None
    torch.nn.init.constant_(net.head.bias, 50.0)
    checkpoint.save(path, {"model": "opnet-lse", "options": {}, "state_dict": net.state_dict()})
    model, labels = ModelConfig(name="opnet-lse"), torch.tensor([1.0, 0.0, 0.0])
    found = {}
    for critical in (False, True):
        loss = LossConfig(teacher=path, teacher_when_right=critical)
        trainer = Trainer(config.model_copy(update={"loss": loss, "model": model}), Path("x.yaml"), tmp_path / "run")
        trainer.model.eval()
        batch = {
            "tiles": torch.zeros(3, 3, 64, 64, dtype=torch.uint8),
            "labels": labels,
            "cracks": torch.zeros(3, 64, 64, dtype=torch.uint8),
        }
        found[critical] = float(trainer._losses(batch)[1][2].detach())
    assert found[True] == pytest.approx(found[False] / 3, rel=1e-4)


def test_joints_weigh_in_tiles_and_cells(config: TrainConfig, tmp_path: Path) -> None:
    cracks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    cracks[1, 20] = JOINT
    batch = {"tiles": torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "labels": torch.zeros(2), "cracks": cracks}
    found = {}
    for weight in (1.0, 3.0):
        loss = LossConfig(joint_weight=weight, cell_head="own")
        trainer = Trainer(
            config.model_copy(update={"loss": loss, "model": ModelConfig(name="opnet-lse")}), Path("x.yaml"), tmp_path
        )
        trainer.model.eval()
        found[weight] = [float(part.detach()) for part in trainer._losses(batch)[1]]
    assert found[3.0][0] == pytest.approx(2 * found[1.0][0], rel=1e-4)
    assert found[3.0][1] != pytest.approx(found[1.0][1], rel=1e-4)


@pytest.mark.parametrize(
    "loss", [{"teacher_cell_weight": 1.0, "cell_head": "own"}, {"teacher_cell_weight": 1.0, "teacher": "a.pt"}]
)
def test_teaching_cells_needs_a_teacher_and_own_cells(loss: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="needs a teacher, and cell_head 'own'"):
        LossConfig.model_validate(loss)


def test_training_moves_the_loss_off_chance(data_root: Path, splits: Path, cache: Path, tmp_path: Path) -> None:
    stage = {"name": "only", "px": 64, "steps": 40, "batch": 8, "lr": 3e-3, "warmup": 2, "preset": "none"}
    config = small_config(data_root, splits, cache, stages=[stage | {"sources": {"metu-ccic": 1}}])
    trainer = ListeningTrainer(config, Path("x.yaml"), tmp_path)
    trainer.losses = []
    trainer.run()
    assert np.mean(trainer.losses[-8:]) < 0.8 * np.mean(trainer.losses[:8])


def test_resuming_with_another_configuration_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(config, Path("x.yaml"), tmp_path)._save_last()
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        Trainer(config.model_copy(update={"seed": 2}), Path("x.yaml"), tmp_path).resume()
    turned = dict(reversed(config.stages[0].sources.items()))  # other batches, though the dictionaries are equal
    stages = [config.stages[0].model_copy(update={"sources": turned}), *config.stages[1:]]
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        Trainer(config.model_copy(update={"stages": stages}), Path("x.yaml"), tmp_path).resume()


def split_again(config: TrainConfig, name: str, exchange: Callable[[SplitRow], str], folder: Path) -> None:
    """Put another split of one set where the run has its splits; the others are those of the folder."""
    shutil.rmtree(config.data.splits)
    shutil.copytree(folder, config.data.splits)
    rows = read_split(name, folder)
    write_split([replace(row, split=exchange(row)) for row in rows], config.data.splits)


@pytest.mark.parametrize("name", ["metu-ccic", "uav75", "omu-quay"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_resuming_after_another_split_is_refused_by_the_name_of_the_set(
    config: TrainConfig, splits: Path, name: str, part: str, tmp_path: Path
) -> None:
    own = tmp_path / "splits"
    shutil.copytree(splits, own, ignore=shutil.ignore_patterns("cache"))
    given = shutil.copytree(own, tmp_path / "given")
    data = config.data.model_copy(update={"splits": own})
    watched = config.validation.model_copy(update={"sets": {"uav75": 1.0, "omu-quay": 1.0}})
    moved = config.model_copy(update={"data": data, "validation": watched})
    Trainer(moved, Path("x.yaml"), tmp_path / "run")._save_last()
    Trainer(moved, Path("x.yaml"), tmp_path / "run").resume()

    first = next(row.path for row in read_split(name, own) if row.split == part)
    split_again(moved, name, lambda row: "test" if row.path == first else row.split, given)
    said = {"train": "training", "val": "validation"}[part]
    with pytest.raises(CheckpointError, match=rf"last\.pt: {name}: its {said} photographs are not .*\(--anew\)"):
        Trainer(moved, Path("x.yaml"), tmp_path / "run").resume()

    split_again(moved, name, lambda row: row.split, given)
    Trainer(moved, Path("x.yaml"), tmp_path / "run").resume()


@pytest.mark.parametrize("name", ["metu-ccic", "omu-quay"])
def test_resuming_with_another_archive_is_refused(config: TrainConfig, name: str, tmp_path: Path) -> None:
    watched = config.validation.model_copy(update={"sets": {"uav75": 1.0, "omu-quay": 1.0}})
    whole = config.model_copy(update={"validation": watched})
    path = tmp_path / "last.pt"
    Trainer(whole, Path("x.yaml"), tmp_path)._save_last()
    content = checkpoint.load(path)
    content["origins"][name]["sha256"] = "0" * 64
    checkpoint.save(path, content)
    with pytest.raises(CheckpointError, match=rf"last\.pt: {name}: its data are not those .*\(--anew\)"):
        Trainer(whole, Path("x.yaml"), tmp_path).resume()


def test_a_state_without_a_record_of_its_data_resumes_with_a_warning(
    config: TrainConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "last.pt"
    Trainer(config, Path("x.yaml"), tmp_path)._save_last()
    Trainer(config, Path("x.yaml"), tmp_path).resume()
    assert not caplog.records
    content = checkpoint.load(path)
    del content["origins"]
    checkpoint.save(path, content)
    Trainer(config, Path("x.yaml"), tmp_path).resume()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{path}: does not say which data and splits it was written with; they are not compared"
    ]


def test_drawn_pictures_are_recorded_with_the_parts_they_are_drawn_from(config: TrainConfig) -> None:
    class Drawn:
        sha256 = "d" * 64

    found = origins(config, {"synthetic": cast("SourceSampler", Drawn())})
    assert found["synthetic"] == {"sha256": "d" * 64}
    assert set(found) == {"synthetic", "metu-ccic", "uav75", "uavcrack"}
    assert found["uavcrack"].keys() == {"train", "val"}
    assert found["uav75"].keys() == {"sha256", "train", "val"}  # validated on as well


def test_the_rate_warms_up_and_falls_and_follows_the_clock_if_minutes_run_out(
    config: TrainConfig, tmp_path: Path
) -> None:
    trainer = Trainer(config, Path("x.yaml"), tmp_path)
    stage = config.stages[0].model_copy(update={"steps": 100, "warmup": 10, "max_minutes": 10.0, "lr_end": 0.1})
    rates = []
    for step, minutes in ((0, 0), (10, 0), (50, 0), (50, 9), (100, 0)):
        trainer.progress.step_in_stage, trainer.progress.seconds_in_stage = step, 60.0 * minutes
        trainer._set_rate(stage)
        rates.append(trainer.optimiser.param_groups[0]["lr"] / stage.lr)
    assert rates[0] == pytest.approx(0.1)
    assert rates[1] > rates[2] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(0.1)


def test_the_rate_falls_along_half_a_cosine(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, Path("x.yaml"), tmp_path)
    stage = config.stages[0].model_copy(update={"steps": 100, "warmup": 10, "lr_end": 0.1})
    # (1 + cos(pi x)) / 2 at a quarter, the half and three quarters
    for step, fallen in ((25, 0.5 + math.sqrt(0.125)), (50, 0.5), (75, 0.5 - math.sqrt(0.125))):
        trainer.progress.step_in_stage = step
        trainer._set_rate(stage)
        assert trainer._rate() == pytest.approx(stage.lr * (0.1 + 0.9 * fallen))


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with pytest.raises(checkpoint.CheckpointError, match="no such checkpoint"):
        checkpoint.load(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(checkpoint.CheckpointError, match=r"best\.pt"):
        checkpoint.load_model(path)


def test_auroc_counts_pairs_in_order() -> None:
    labels = np.array([True, True, False, False])
    assert auroc(np.array([2.0, 1.0, 0.0, -1.0]), labels) == 1.0
    assert auroc(np.array([0.0, 0.0, 0.0, 0.0]), labels) == 0.5
    assert auroc(np.array([1.0]), np.array([True])) is None


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config/training").glob("*.yaml")), ids=lambda path: path.name)
def test_committed_configurations_are_valid(path: Path) -> None:
    assert load_config(path).stages


VALID = """name: x
model: {name: opnet}
stages: [{name: a, px: 64, steps: 4, batch: 4, lr: 0.001, warmup: 3, sources: {uav75: 1}}]
"""


def test_a_stage_of_no_steps_and_a_warm_up_that_ends_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text in (VALID, VALID.replace("steps: 4", "steps: 0")):
        path.write_text(text)
        assert load_config(path).name == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{VALID}seed: 3\nseed: 4\n", ":5: seed: found twice, first in line 4"),
        (f"{VALID}seed: 3\n'seed': 3\n", ":5: seed: found twice, first in line 4"),
        (f"{VALID}loss:\n  kind: bce\n  kind: focal\n", ":6: kind: found twice, first in line 5"),
        (VALID.replace("px: 64", "px: 64, px: 96"), ":3: px: found twice, first in line 3"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(refused.value).startswith(f"{path}{said}")


def test_a_key_may_be_in_several_blocks_and_override_a_merged_one(tmp_path: Path) -> None:
    stage = "{name: a, px: 64, steps: 4, batch: 4, lr: 0.001, warmup: 3, sources: {uav75: 1}}"
    path = tmp_path / "run.yaml"
    path.write_text(f"name: x\nmodel: {{name: opnet}}\nstages: [&first {stage}, {{<<: *first, name: b, px: 96}}]\n")
    assert [(one.name, one.px) for one in load_config(path).stages] == [("a", 64), ("b", 96)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nmodel: {name: opnet}\nstages: []\n", "stages"),
        ("name: x\nmodel: {name: opnet}\ncolour: red\nstages: []\n", "colour"),
        ("name: [\n", "not YAML"),
        ("", "the file"),
        ("name: x\nmodel: {name: opnett}\nstages: []\n", r"model\.name: .*'opnett' is unknown; allowed: .*opnet-lse"),
        (f"{VALID}validation: {{sets: {{nowhere: 1}}}}\n", r"validation\.sets: .*'nowhere' is unknown; allowed: metu"),
        (f"{VALID}validation: {{sets: {{nha12d: 1}}}}\n", r"validation\.sets: .*'nha12d' has no validation part"),
        (f"{VALID}validation: {{sets: {{}}}}\n", r"validation\.sets: .*one of them positive"),
        (f"{VALID}validation: {{sets: {{uav75: 0}}}}\n", r"validation\.sets: .*one of them positive"),
        (f"{VALID}validation: {{sets: {{uav75: 2, metu-ccic: -1}}}}\n", r"validation\.sets: .*0 or more"),
        (VALID.replace("warmup: 3", "warmup: 4"), r"stages\.0: .*warmup: 4 steps, the stage has 4"),
    ],
)
def test_wrong_configurations_are_refused_with_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yaml.*{said}"):
        load_config(path)

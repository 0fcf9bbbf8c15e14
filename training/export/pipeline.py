"""How does a checkpoint become a bundle, step by step, and what stops it on the way?"""

from __future__ import annotations

import logging
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx

from training.data.dataset import EVALUATION_SETS, PUBLISHED, EvaluationSet, evaluation_tiles
from training.data.mixture import RECIPES, SYNTHETIC, load_samplers
from training.data.sources import SOURCES, added_sources
from training.engine.device import cpu_flags
from training.evaluation.calibration import Bin, Calibration, balanced_weights, calibrate, carried_over, reliability
from training.evaluation.evaluate import (
    OnnxScorer,
    Scorer,
    SetResult,
    TorchScorer,
    open_checkpoint,
    result,
    role_of,
    score,
    thin,
)
from training.evaluation.threshold import Bar, Choice, Scored, at_threshold, bars_for, choose, deciding_bars, rates_at
from training.export.benchmark import interleaved_s
from training.export.bundle import Manifest, OperatingPoint, read_manifest, read_model, update_index, write_bundle
from training.export.card import CardFacts, Pair, Speed, kept_threshold, render, threshold_rule
from training.export.lineage import (
    LINEAGE,
    data_of,
    hours_of,
    pretrained_by,
    read_lineage,
    trace,
    training_commands,
    write_lineage,
)
from training.export.measured import read_robustness
from training.export.onnx import ExportError, Scaling, split_scaling, to_onnx
from training.export.parity import MAX_SET_DIFFERENCE, Agreement, ParityError, compare, gate
from training.export.quantize import (
    FLOAT_SCHEME,
    METHODS,
    SCHEME,
    Histogram,
    Method,
    correct_biases,
    correct_logit,
    observe,
    preprocess,
    quantise,
    sensitivities,
)
from training.models import CellClassifier, parameter_count
from training.models.base import AddedBlock
from training.progress import Step

ARCHITECTURES: Final = {
    "opnet": "OPNet",
    "opnet-lse": "OPNet",
    "opnet-context": "OPNet",
    "mobilenetv2": "MobileNetV2",
    "efficientnet-b0": "EfficientNet-B0",
    "efficientnet-lite0": "EfficientNet-Lite0",
    "efficientnet-lite2": "EfficientNet-Lite2",
    "resnet18": "ResNet-18",
    "vgg16": "VGG-16",
}
KEEP_FILES: Final = "--keep-files"
KEEP_THRESHOLD: Final = "--keep-threshold"
SAME_THRESHOLD: Final = 0.05
"""Logits by which the threshold of a robustness sweep may differ from the one that flies without a word about it."""

log = logging.getLogger(__name__)

Judged = tuple[list[Scored], Choice, list[Agreement]]
"""What an 8-bit file says of the validation sets, the chosen threshold, and how far the files agree there."""


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What can be chosen about an export.

    Attributes:
        name: of the bundle; also decides which bars count.
        out: the bundle's folder.
        root: folder of the data sets.
        cache: of decoded pictures.
        splits: folder of the committed splits.
        version: of the bundle.
        licence: of the weights.
        channels: 3 or 4 input channels of the 8-bit file, None for the faster one here (4 if they are equal).
        calibration_tiles: training tiles that set the ranges of the 8-bit file.
        limit: at most so many tiles of each set (for trials; the card says so).
        threads: of ONNX Runtime.
        resamples: of the bootstrap.
        keep_files: the checkpoint is a bundle whose graphs stay as they are: they are judged anew, threshold and
            calibration are chosen anew.
        keep_threshold: these stay, too; then only figures, card and manifest are new.
        default: whether the bundle becomes the index's default.
        robustness: `robustness.json` of these weights; gates and the band of ground sampling distances come from it.
        command: what was typed; the card names it as the way to repeat the export.
        lineage: what is known of earlier runs and bundles.
    """

    name: str
    out: Path
    root: Path
    cache: Path
    splits: Path
    version: str = "0.1.0"
    licence: str = "Apache-2.0 (weights); the training data have their own licences, see CARD.md"
    gsd_mm_px: tuple[float, float, float] = (1.0, 0.1, 2.0)
    channels: Literal[3, 4] | None = None
    calibration_tiles: int = 320
    limit: int | None = None
    threads: int = 1
    resamples: int = 1000
    seed: int = 1
    keep_files: bool = False
    keep_threshold: bool = False
    default: bool = False
    robustness: Path | None = None
    command: str | None = None
    lineage: Path = Path("exported_models") / LINEAGE


@dataclass(frozen=True, slots=True)
class Quantised:
    """The 8-bit graph that was chosen, and how it was made."""

    model: onnx.ModelProto
    channels: Literal[3, 4]
    how: str
    scheme: str


def export(checkpoint: Path, options: ExportOptions, step: Step) -> Manifest:
    """Makes the bundle, or refuses.

    Args:
        checkpoint: `best.pt` or `final.pt` of a run, or a bundle.
        options: see there.
        step: progress.

    Raises:
        CheckpointError, DataError: what is needed cannot be read.
        ExportError: the net cannot be exported, or files are to be kept and there are none, or a threshold without
            its files.
        ParityError: the files do not judge as the net; nothing was written.
    """
    content, net = open_checkpoint(checkpoint)
    if options.keep_threshold and not options.keep_files:
        raise ExportError(f"{KEEP_THRESHOLD} keeps the threshold of files that stay; it needs {KEEP_FILES}")
    kept = _files_of(checkpoint) if options.keep_files else None
    flown = read_manifest(checkpoint) if options.keep_threshold else None
    lineage, run = trace(content, read_lineage(options.lineage))
    measured = (
        None if options.robustness is None else read_robustness(options.robustness, name=options.name, content=content)
    )
    validation = _sets("validation", options)
    with step("ONNX", 1) as advance:
        float_model = to_onnx(net) if kept is None else kept[0]
        advance(1)
    reference = score_all(TorchScorer(net), validation, step, "PyTorch")
    as_float = score_all(OnnxScorer(float_model, threads=options.threads), validation, step, "float")
    trained_on = {row["name"] for row in content.get("data", [])}
    bars = bars_for(options.name)
    deciding = deciding_bars(bars, trained_on)

    def decide(scored: Sequence[Scored]) -> Choice:
        """Choose the threshold, or see what the one that flies comes to."""
        if flown is None:
            return choose(scored, deciding)
        return at_threshold(scored, deciding, _logit_of(flown.operating_point))

    # No way of rounding mends a float file that is wrong: refuse before the long part.
    gate([compare(reference, as_float, ("torch", "fp32"), decide(reference).threshold_logit)])

    def judge(int8_model: onnx.ModelProto) -> Judged:
        """Score the validation sets by an 8-bit file, choose the threshold for both files, and compare all three."""
        as_int8 = score_all(OnnxScorer(int8_model, threads=options.threads), validation, step, "8 bit")
        choice = decide([*as_float, *as_int8])
        agreements = [
            compare(reference, as_float, ("torch", "fp32"), choice.threshold_logit),
            compare(reference, as_int8, ("torch", "int8"), choice.threshold_logit),
            compare(as_float, as_int8, ("fp32", "int8"), choice.threshold_logit),
        ]
        return as_int8, choice, agreements

    if kept is None:
        calibration = calibration_tiles(content, options, step)
        quantised, (as_int8, choice, agreements) = quantise_until_it_agrees(
            float_model, calibration, as_float, deciding, judge, options, step
        )
    else:
        quantised = kept[1]
        as_int8, choice, agreements = judge(quantised.model)
        gate(agreements)
    if measured is not None and abs(measured.threshold_logit - choice.threshold_logit) > SAME_THRESHOLD:
        log.warning(
            "%s was measured at the logit %+.3f, crack is from %+.3f here: sweep this bundle and export again",
            options.robustness,
            measured.threshold_logit,
            choice.threshold_logit,
        )
    speed = _speed(float_model, quantised.model, step)
    calibrated = (
        calibrate(as_int8)
        if flown is None
        else carried_over(as_int8, temperature=flown.operating_point.temperature, bias=flown.operating_point.bias)
    )
    pairs = _pairs(float_model, quantised.model, as_float, as_int8, options, step)
    results = [
        result(pair.int8, pair.split, choice.threshold_logit, resamples=options.resamples, seed=options.seed)
        for pair in pairs
    ]

    rests_on = lineage.ancestors(run)
    hours, unknown = hours_of(rests_on)
    basis = gsd_basis(trained_on)
    pooled_recall = agreements[-1].recall_other
    facts: dict[str, Any] = {
        "name": options.name,
        "version": options.version,
        "architecture": architecture(content["model"], net),
        "parameters": parameter_count(net),
        "licence": options.licence,
        "input": {"tile_px": 224},
        "gsd_mm_px": dict(zip(("nominal", "min", "max"), options.gsd_mm_px, strict=True)) | {"basis": basis}
        if measured is None
        else measured.gsd_mm_px(options.gsd_mm_px, basis),
        **({} if measured is None else {"quality": measured.quality}),
        "default_file": "int8",
        "operating_point": {
            "threshold_p": calibrated.p_crack(choice.threshold_logit)
            if flown is None
            else flown.operating_point.threshold_p,
            "temperature": calibrated.temperature,
            "bias": calibrated.bias,
            "fitted_on": "validation: " + ", ".join(f"{item.name} ({len(item.labels)})" for item in as_int8)
            if flown is None
            else flown.operating_point.fitted_on,
            "wanted": threshold_rule(choice, [item.name for item in validation])
            if flown is None
            else kept_threshold(choice, f"{flown.name} {flown.version}"),
            "recall": pooled_recall,
            "specificity": agreements[-1].specificity_other,
        },
        "metrics": {row.key: _manifest_metrics(row) for row in results},
        "parity": {
            "required": {"same_verdict": 0.995, "recall_difference": 0.002},
            **{f"{item.reference}-{item.other}": item.to_dict() for item in agreements},
            "int8_minus_fp32_by_set": _differences(pairs, choice.threshold_logit),
            "quantisation": quantised.how,
            "speed_int8_over_fp32": {f"batch_{batch}": round(ratio, 3) for batch, ratio in speed.ratio.items()}
            | {"cpu": speed.cpu, "vnni": speed.vnni},
        },
        "training": {
            "config": content.get("config_path"),
            "seed": content.get("seed"),
            "commit": content.get("commit"),
            "hours": content.get("hours"),
            "steps": content.get("step"),
            "hours_of_all_runs": None if unknown else round(hours, 3),
            "data": [source.model_dump() for source in data_of(rests_on)],
            "pretrained": [source.model_dump() for source in pretrained_by(rests_on)],
        },
    }
    card = render(
        CardFacts(
            facts=facts,
            calibration=calibrated,
            reliability=_reliability(calibrated, as_int8),
            choice=choice,
            bars=bars,
            results=results,
            pairs=pairs,
            agreements=agreements,
            quantisation=quantised.how,
            speed=speed,
            commands=[
                "crack-training split",
                *training_commands(lineage, run),
                *([_stands_for(checkpoint, content, options)] if "bundle" in content else []),
                *(export_commands(options.command, options.name, options.robustness) if options.command else []),
            ],
            lineage=lineage,
            run=run,
            limit=options.limit,
            measured=measured,
            kept_from=None if flown is None else f"{flown.name} {flown.version}",
        )
    )
    manifest = write_bundle(
        options.out,
        {
            "fp32": (float_model, 3, FLOAT_SCHEME),
            "int8": (quantised.model, quantised.channels, quantised.scheme),
        },
        facts,
        card,
    )
    folder = options.out.resolve().parent
    update_index(folder, default=options.name if options.default else None)
    released = lineage.with_release(f"{manifest.name} {manifest.version}", run, manifest.files["fp32"].sha256)
    write_lineage(folder / LINEAGE, released)
    return manifest


def _logit_of(point: OperatingPoint) -> float:
    """The raw logit from which on a bundle says crack."""
    return float(np.log(point.threshold_p / (1 - point.threshold_p)) - point.bias) * point.temperature


def gsd_basis(trained: set[str]) -> str:
    """What is known of the ground sampling distances (mm/px) that a net has learnt from.

    Args:
        trained: names of its data sets.
    """
    start = "Assumed, not measured: the training photographs carry no scale. "
    if "uav75" not in trained:
        return start + "No photograph taken by a drone was trained on, so nothing is known of its distances."
    low, high = RECIPES["uav75"].zoom
    return (
        f"{start}The drone photographs of UAV75 are taken to be near 1 mm/px, training varies the scale by {low:g} to "
        f"{high:g}, METU's close-ups stand for the fine end."
    )


def export_commands(typed: str, name: str, robustness: Path | None) -> list[str]:
    """The commands that make the bundle of a checkpoint: with measured gates it is exported, swept, exported again.

    They say how to make it from a run, so nothing of how files of a bundle were kept.
    """
    words = [word for word in shlex.split(typed) if word not in {KEEP_FILES, KEEP_THRESHOLD}]
    typed = shlex.join(words)
    place = next((index for index, word in enumerate(words) if word.split("=")[0] == "--robustness"), None)
    if robustness is None or place is None:
        return [typed]
    del words[place : place + (1 if "=" in words[place] else 2)]
    trial = f"runs/trial/{name}"
    return [f"{shlex.join(words)} --out {trial}", f"crack-training robustness {trial} --limit 500", typed]


def _stands_for(bundle: Path, content: Mapping[str, Any], options: ExportOptions) -> str:
    """The comment that says which checkpoint a bundle was in the command."""
    told = f"# best.pt or final.pt of that run, whichever is of step {content.get('step')}, for {bundle}"
    anew = (["the 8-bit file is made"] if options.keep_files else []) + (
        ["the threshold chosen"] if options.keep_threshold else []
    )
    return told + (f"; {' and '.join(anew)} anew then" if anew else "")


def architecture(name: str, net: CellClassifier) -> str:
    """What the network is, in words: its kind, and in what it departs from it."""
    added = sum(isinstance(module, AddedBlock) for module in net.modules())
    parts = [
        ARCHITECTURES.get(name, name),
        *(["log-sum-exp pooling"] if net.pooling == "lse" else []),
        *([f"{added} blocks that look around"] if added else []),
    ]
    return ", ".join(parts)


def calibration_tiles(content: Mapping[str, Any], options: ExportOptions, step: Step) -> npt.NDArray[np.uint8]:
    """Tiles from the training part of every real source that the weights have seen, in equal shares, in mixed order."""
    trained = {row["name"] for row in content.get("data", [])}
    known = SOURCES if trained <= {*SOURCES, SYNTHETIC} else SOURCES | added_sources()
    names = [name for name, source in known.items() if source.role == "train" and (name in trained or not trained)]
    samplers = load_samplers(
        [name for name in names if name != SYNTHETIC],
        options.root,
        options.cache,
        options.splits,
        synthetic_count=2,
        seed=options.seed,
    )
    rng = np.random.default_rng((options.seed, 8))
    tiles = np.empty((options.calibration_tiles, 224, 224, 3), dtype=np.uint8)
    with step("calibration tiles", len(tiles)) as advance:
        for index in range(len(tiles)):
            sampler = samplers[names[index % len(names)]]
            tiles[index] = sampler.sample(rng, 224, rotate=False)[0]
            advance(1)
    return rng.permutation(tiles)


def score_all(scorer: Scorer, sets: Sequence[EvaluationSet], step: Step, title: str) -> list[Scored]:
    """Scores several sets, one progress bar each."""
    scored = []
    for tiles in sets:
        with step(f"{title}: {tiles.name}", len(tiles)) as advance:
            scored.append(score(scorer, tiles, advance))
    return scored


def quantise_until_it_agrees(
    float_model: onnx.ModelProto,
    calibration: npt.NDArray[np.uint8],
    as_float: Sequence[Scored],
    bars: Sequence[Bar],
    judge: Callable[[onnx.ModelProto], Judged],
    options: ExportOptions,
    step: Step,
) -> tuple[Quantised, Judged]:
    """Makes 8-bit files until one passes the gate: ranges by several rules, then with sensitive layers left in float.

    One that passes, but differs by more than half a point on a rate with a bar, is kept while others are tried.

    Raises:
        ParityError: none passes; names what the best of them broke.
    """
    core, scaling = split_scaling(float_model)
    core = preprocess(core)
    fit, check = calibration[: len(calibration) * 3 // 4], calibration[len(calibration) * 3 // 4 :]
    wanted = OnnxScorer(float_model, threads=options.threads).logits(check)
    with step("value ranges", 2 * len(fit)) as advance:
        histograms = observe(core, scaling, fit, threads=options.threads, progress=advance)
    channels = options.channels or _faster_channels(core, scaling, histograms, step)
    ranked = _rank_methods(core, scaling, histograms, check, wanted, channels, options, step)

    refused: list[tuple[int, ParityError]] = []
    passed: list[tuple[float, tuple[Quantised, Judged]]] = []
    kept: list[str] = []
    for method, keep_share in [
        (ranked[0], 0.0),
        (ranked[1], 0.0),
        (ranked[0], 0.06),
        (ranked[0], 0.2),
    ]:
        if keep_share and not kept:
            with step("sensitivity of the layers", 1) as advance:
                kept = sensitivities(
                    core, scaling, histograms, check[:16], method=method, channels=channels, threads=options.threads
                )
                advance(1)
        keep = tuple(kept[: max(1, round(keep_share * len(kept)))]) if keep_share else ()
        model = quantise(core, scaling, histograms, method=method, channels=channels, keep_float=keep)
        with step(f"bias correction ({method.name}, {len(keep)} layers in float)", _layers(model)) as advance:
            model = correct_biases(model, core, scaling, fit[:20], threads=options.threads, progress=advance)
            model = correct_logit(model, core, scaling, fit, threads=options.threads)
        judged = judge(model)
        as_int8, choice, agreements = judged
        how = f"ranges by {method.name} over {len(fit)} training tiles, biases and logit corrected" + (
            f", {len(keep)} layers in float ({', '.join(keep)})" if keep else ""
        )
        log.info("%s: %s", how, agreements[-1])
        try:
            gate(agreements)
        except ParityError as error:
            refused.append((sum(not item.passed for item in agreements), error))
            if passed:
                break
            continue
        apart = _worst_difference(as_float, as_int8, choice.threshold_logit, bars)
        scheme = SCHEME + (f"; {len(keep)} layers in float" if keep else "")
        passed.append((apart, (Quantised(model, channels, how, scheme), judged)))
        if apart <= MAX_SET_DIFFERENCE:
            break
        log.info("but a rate that has a bar differs by %.2f points", 100 * apart)
    if passed:
        return min(passed, key=lambda pair: pair[0])[1]
    raise min(refused, key=lambda pair: pair[0])[1]


def _files_of(folder: Path) -> tuple[onnx.ModelProto, Quantised]:
    """The graphs of a bundle, as they are.

    Raises:
        ExportError: it is no bundle, or not one of both files.
        CheckpointError: a file is not the one that the manifest names.
    """
    if not folder.is_dir():
        raise ExportError(f"{folder}: {KEEP_FILES} needs a bundle's folder, a checkpoint has no files to keep")
    manifest = read_manifest(folder)
    missing = {"fp32", "int8"} - manifest.files.keys()
    if missing:
        raise ExportError(
            f"{folder}: {KEEP_FILES} needs both files of a bundle, {', '.join(sorted(missing))} is not there"
        )
    models = {key: onnx.load_model_from_string(read_model(folder, file)) for key, file in manifest.files.items()}
    file = manifest.files["int8"]
    how = str(manifest.parity.get("quantisation", "not known"))
    return models["fp32"], Quantised(models["int8"], file.channels, how, file.scheme)


def _worst_difference(
    as_float: Sequence[Scored], as_int8: Sequence[Scored], threshold_logit: float, bars: Sequence[Bar]
) -> float:
    """Largest difference on any rate that has a bar (0..1); a single tile of a small set does not count."""
    worst = 0.0
    for first, second in zip(as_float, as_int8, strict=True):
        for bar in bars:
            of = first.of_kind(bar.kind)
            if bar.set != first.name or not of.any():
                continue
            tiles = abs(
                int((first.logits[of] >= threshold_logit).sum()) - int((second.logits[of] >= threshold_logit).sum())
            )
            if tiles > 1:
                worst = max(worst, tiles / int(of.sum()))
    return worst


def _rank_methods(
    core: onnx.ModelProto,
    scaling: Scaling,
    histograms: dict[str, Histogram],
    check: npt.NDArray[np.uint8],
    wanted: npt.NDArray[np.float32],
    channels: Literal[3, 4],
    options: ExportOptions,
    step: Step,
) -> list[Method]:
    """Rules for the ranges, best first: by the spread of the logit's error on training tiles (shifts get corrected)."""
    spread: dict[str, float] = {}
    with step("rules for the ranges", len(METHODS)) as advance:
        for method in METHODS:
            model = quantise(core, scaling, histograms, method=method, channels=channels)
            error = OnnxScorer(model, threads=options.threads).logits(check) - wanted
            spread[method.name] = float(error.std())
            log.info("ranges by %s: spread of the logit's error %.4f", method.name, spread[method.name])
            advance(1)
    return sorted(METHODS, key=lambda method: spread[method.name])


def _faster_channels(
    core: onnx.ModelProto, scaling: Scaling, histograms: dict[str, Histogram], step: Step
) -> Literal[3, 4]:
    """3 or 4 input channels for the 8-bit file, whichever is faster here; 4 unless 3 is clearly so (5 %)."""
    with step("3 or 4 channels", 1) as advance:
        models = {
            str(channels): quantise(core, scaling, histograms, method=METHODS[0], channels=channels)
            for channels in (3, 4)
        }
        times = interleaved_s(models)
        advance(1)
    ratios = [row["4"] / row["3"] for row in times.values()]
    log.info("4 channels cost %s of 3", ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return 3 if float(np.mean(ratios)) > 1.05 else 4


def _sets(role: str, options: ExportOptions) -> list[EvaluationSet]:
    """All sets of a role."""
    return [
        thin(evaluation_tiles(name, split, options.root, options.cache, options.splits), options.limit)
        for name, splits in EVALUATION_SETS.items()
        for split in splits
        if role_of(name, split) == role
    ]


def _pairs(
    float_model: onnx.ModelProto,
    int8_model: onnx.ModelProto,
    as_float: Sequence[Scored],
    as_int8: Sequence[Scored],
    options: ExportOptions,
    step: Step,
) -> list[Pair]:
    """All sets as judged by both files; those for validation are judged already."""
    pairs = [Pair("val", "validation", *both) for both in zip(as_float, as_int8, strict=True)]
    scorers = OnnxScorer(float_model, threads=options.threads), OnnxScorer(int8_model, threads=options.threads)
    for split, role in ((PUBLISHED, "published"), ("test", "test"), ("test", "external")):
        for tiles in _sets(role, options):
            first = score_all(scorers[0], [tiles], step, f"{role}, float")[0]
            second = score_all(scorers[1], [tiles], step, f"{role}, 8 bit")[0]
            pairs.append(Pair(split, role, first, second))
    return pairs


def _differences(pairs: Sequence[Pair], threshold_logit: float) -> dict[str, dict[str, float]]:
    """Rates of the 8-bit file minus those of the float file (0..1), by set: recall, specificity and kinds of tiles."""
    found: dict[str, dict[str, float]] = {}
    for pair in pairs:
        kinds = ("recall", "specificity", *sorted(set(pair.fp32.kinds)))
        rates = [rates_at(item, threshold_logit, kinds) for item in (pair.fp32, pair.int8)]
        found[pair.key] = {kind: round(rates[1][kind] - rates[0][kind], 6) for kind in rates[0]}
    return found


def _manifest_metrics(row: SetResult) -> dict[str, Any]:
    metrics = row.metrics
    found: dict[str, Any] = {
        "n_positive": metrics.n_positive,
        "n_negative": metrics.n_negative,
        "n_groups": metrics.n_groups,
        "file": "int8",
        "role": row.role,
        "kinds": {key: value.as_list() for key, value in metrics.kinds.items()},
        "kinds_by_group": {
            key: value.as_list() for key, value in metrics.kinds_by_group.items() if not np.isnan(value.low)
        },
    }
    for key in ("recall", "specificity"):
        if key in metrics.by_tile:
            found[key] = metrics.by_tile[key].as_list()
            group = metrics.by_group[key]
            if not np.isnan(group.low):
                found[f"{key}_by_group"] = group.as_list()
    if "auroc" in metrics.by_group and not np.isnan(metrics.by_group["auroc"].low):
        found["auroc"] = metrics.by_group["auroc"].as_list()
    return found


def _reliability(calibration: Calibration, scored: Sequence[Scored]) -> list[Bin]:
    """The reliability diagram of the calibrated probabilities."""
    logits = np.concatenate([item.logits for item in scored])
    value = logits / calibration.temperature + calibration.bias
    p_crack = 1 / (1 + np.exp(-np.clip(value, -500, 500)))
    return reliability(p_crack, np.concatenate([item.labels for item in scored]), balanced_weights(scored))


def _speed(float_model: onnx.ModelProto, int8_model: onnx.ModelProto, step: Step) -> Speed:
    with step("speed", 1) as advance:
        times = interleaved_s({"fp32": float_model, "int8": int8_model})
        advance(1)
    flags = cpu_flags()
    return Speed(
        ratio={batch: row["int8"] / row["fp32"] for batch, row in times.items()},
        cpu=platform.machine(),
        vnni="avx512_vnni" in flags or "avx_vnni" in flags,
    )


def _layers(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Conv" for node in model.graph.node)

"""What a training step costs beside its network: our loop against forward, backward and optimiser alone; variants.

    python benchmarks/step.py loop --out benchmarks/step-loop-cpu.csv
    python benchmarks/step.py variants --out benchmarks/step-variants-cpu.csv

Both train on a few phantoms that went through ingestion, resampling and slicing. Inputs of the published systems are
smaller than at full scale (``SMALL``), which makes a step short and whatever does not grow with the input weigh more.

``loop`` runs the fit call as `vertfrac train-localizer` and `train-detector` do: samples, augmentation, targets, loss,
Lightning, logs, checkpoints. In turn with each of its steps, a copy of the network takes a bare step: forward, loss,
backward, optimiser, on samples and targets that were made before, of the same shape. Waiting for data is the time in
which samples and targets are made. ``ratio`` is that of the median steps; ``ratio_of_sums`` has the rows of the log in
it, and the checkpoints at the rate at which they come.

``variants`` takes bare steps as they are and with one thing changed, in turn. The first, which compiles, is not timed.
"""

from __future__ import annotations

import copy
import multiprocessing
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import pandas as pd
import torch
from torch import Tensor, nn
from training import CONFIG, prepare

SMALL: dict[tuple[str, str], dict[str, Any]] = {
    ("pisov2020", "localizer"): {"crop_mm": (120.0, 120.0, 120.0), "batch": 2},
    ("pisov2020", "detector"): {"batch": 3},
    ("zakharov2022", "localizer"): {"crop_mm": (64.0, 64.0, 128.0), "batch": 2},
    ("zakharov2022", "detector"): {"batch": 2},
}
SYSTEMS = ("vertfrac", "pisov2020", "zakharov2022")
RESIDENT = 4
WARM_UP = 3


class Training(NamedTuple):
    """What a stage hands to the fit call."""

    network: nn.Module
    sample: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]
    settings: Any
    keywords: dict[str, Any]


def training(name: str, stage: str, folder: Path, device: torch.device, **settings: Any) -> Training:
    """The training of a stage of a system, up to its call of ``fit``."""
    from vertfrac import tables
    from vertfrac.cli import trained_with
    from vertfrac.config import resolve
    from vertfrac.inference.weights import build_detector, build_localizer
    from vertfrac.training import detector, localizer

    raw = {"name": "benchmark", "cohort": {"kind": "phantom", "cases": 9}, "systems": [name]}
    system = resolve(raw, CONFIG, "benchmark").systems[name]
    annotations = tables.read_table(folder / "cohort/annotations.parquet", tables.ANNOTATIONS)
    section: Any = system.localizer if stage == "localizer" else system.detector
    small = SMALL.get((name, stage), {})
    batch = small.get("batch", section.training.batch)
    section = section.model_copy(
        update={
            "crop_mm": small.get("crop_mm", section.crop_mm),
            "training": section.training.model_copy(update={"batch": batch, **settings}),
        }
    )
    held: list[Training] = []

    def fit(network: nn.Module, sample: Any, loss: Any, settings: Any, **keywords: Any) -> None:
        held.append(Training(network, sample, loss, settings, keywords))

    shared = {**trained_with(section), "work": folder / f"{name}-{stage}", "device": device}
    cases = set(annotations["case"])
    if stage == "localizer":
        localizer.fit = fit  # type: ignore[attr-defined]  # handed over instead of run
        volumes = [folder / f"{name}.safetensors"]
        network: Any = build_localizer(section.network, 0)
        localizer.train_localizer(network, volumes, annotations, cases, edge_mm=section.input.edge_mm, **shared)
    else:
        detector.fit = fit  # type: ignore[attr-defined]  # likewise
        network = build_detector(section.network, 1.0, 0)
        detector.train_detector(network, [folder / "slices.safetensors"], cases, spacing_mm=1.0, **shared)
    held[0].network.to(device).train()  # the stage has put it back on the CPU
    return held[0]


def clock(device: torch.device) -> float:
    """Seconds, when all that was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Bare:
    """Steps on resident samples; the optimiser is the fit call's."""

    def __init__(self, run: Training, network: nn.Module, samples: list[Any], **optimiser: Any) -> None:
        kind = torch.optim.AdamW if run.settings.weight_decay > 0 else torch.optim.Adam
        self.network, self.samples, self.loss, self.done = network, samples, run.loss, 0
        self.optimiser = kind(network.parameters(), lr=1e-4, **optimiser)

    def step(self) -> None:
        self.optimiser.zero_grad()
        loss, _ = self.loss(self.network, self.samples[self.done % len(self.samples)])
        loss.backward()
        self.optimiser.step()
        self.done += 1


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def shape(sample: Any) -> str:
    return "x".join(str(n) for n in sample.images.shape)


def measure_loop(name: str, stage: str, folder: Path, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """The row of one stage."""
    import lightning

    from vertfrac.training import fit

    run = training(name, stage, folder, device, steps=steps + WARM_UP + 1, mixed_precision=False)
    every = run.settings.checkpoint_every
    run = run._replace(settings=copy.copy(run.settings))
    object.__setattr__(run.settings, "checkpoint_every", WARM_UP + steps // 2)  # one within the timed steps
    layout = torch.channels_last_3d if stage == "localizer" else torch.channels_last
    run.network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack memory_format
    bare = Bare(run, copy.deepcopy(run.network), [run.sample(step) for step in range(RESIDENT)])
    starts, ends, bares, data, saving = [], [], [], [], []

    def timed(into: list[float], function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        before = clock(device)
        result = function(*arguments, **keywords)
        into.append(clock(device) - before)
        return result

    step, save = fit.Stage.training_step, lightning.Trainer.save_checkpoint

    def alternating(self: Any, *arguments: Any) -> Any:
        ends.append(clock(device))
        timed(bares, bare.step)
        starts.append(clock(device))
        return step(self, *arguments)

    fit.Stage.training_step = alternating  # type: ignore[method-assign]  # timed from outside
    lightning.Trainer.save_checkpoint = lambda *a, **k: timed(saving, save, *a, **k)  # type: ignore[method-assign]
    shutil.rmtree(run.keywords["work"], ignore_errors=True)
    sample = lambda number: timed(data, run.sample, number)  # noqa: E731
    fit.fit(run.network, sample, run.loss, run.settings, **run.keywords)
    loop = [end - start for start, end in zip(starts[WARM_UP:], ends[WARM_UP + 1 :], strict=False)]
    bares, data = bares[WARM_UP : WARM_UP + len(loop)], data[WARM_UP : WARM_UP + len(loop)]
    total = sum(loop) - saving[0] + saving[0] * len(loop) / every
    ours, theirs = statistics.median(loop), statistics.median(bares)
    return [
        {
            "system": name, "stage": stage, "device": device_name(device), "input": shape(bare.samples[0]),
            "timed_steps": len(loop), "loop_s": round(ours, 4), "bare_s": round(theirs, 4),
            "ratio": round(ours / theirs, 3), "ratio_of_sums": round(total / sum(bares), 3),
            "data_s": round(statistics.median(data), 4),
            "waiting_for_data": round(statistics.median(d / s for d, s in zip(data, loop, strict=True)), 3),
            "checkpoint_s": round(saving[0], 3), "checkpoint_every": every,
            "gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None,
        }
    ]  # fmt: skip


def relaid(value: Any, layout: torch.memory_format) -> Any:
    """A sample with its images in another memory layout."""
    return value._replace(images=value.images.contiguous(memory_format=layout))


def measure_variants(name: str, stage: str, folder: Path, steps: int, device: torch.device) -> list[dict[str, Any]]:
    """One row per variant of one stage."""
    run = training(name, stage, folder, device)
    last = torch.channels_last_3d if stage == "localizer" else torch.channels_last
    samples = [run.sample(step) for step in range(RESIDENT)]
    threads = torch.get_num_threads()

    def network(layout: torch.memory_format = last) -> Any:
        return copy.deepcopy(run.network).to(memory_format=layout)  # type: ignore[call-overload]  # as above

    def compiled() -> Any:
        changed = network()
        unet = changed.unet
        unet.features = torch.compile(unet.features)
        return changed

    plain = Bare(run, network(), samples)
    first = Bare(run, network(torch.contiguous_format), [relaid(s, torch.contiguous_format) for s in samples])
    variants: dict[str, Callable[[], None]] = {"as it is": plain.step, "no channels_last": first.step}
    half = Bare(run, network(), samples)

    def in_half() -> None:
        half.optimiser.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, _ = half.loss(half.network, half.samples[half.done % RESIDENT])
        loss.backward()
        half.optimiser.step()
        half.done += 1

    variants["bfloat16 autocast"] = in_half
    variants["torch.compile"] = Bare(run, compiled(), samples).step
    variants["fused optimiser"] = Bare(run, network(), samples, fused=True).step
    if device.type == "cpu":
        single = Bare(run, network(), samples)

        def alone() -> None:
            torch.set_num_threads(1)
            single.step()

        if threads > 1:
            variants["1 thread"] = alone
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    warm: dict[str, float] = {}
    peak: dict[str, float] = {}
    for turn in range(steps + 1):
        for variant, step in variants.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            before = clock(device)
            step()
            took = clock(device) - before
            torch.set_num_threads(threads)
            if turn:
                seconds[variant].append(took)
                peak[variant] = max(peak.get(variant, 0.0), torch.cuda.max_memory_allocated() / 2**30)
            else:
                warm[variant] = took
    base = statistics.median(seconds["as it is"])
    return [
        {
            "system": name, "stage": stage, "device": device_name(device), "input": shape(samples[0]),
            "variant": variant, "timed_steps": len(taken), "seconds": round(statistics.median(taken), 4),
            "of_as_it_is": round(statistics.median(taken) / base, 3), "first_step_s": round(warm[variant], 2),
            "gpu_gib": round(peak[variant], 2) if device.type == "cuda" else None,
        }
        for variant, taken in seconds.items()
    ]  # fmt: skip


def measure(what: str, name: str, stage: str, folder: Path, steps: int, wanted: str, results: Any) -> None:
    """Put the rows of one stage into the queue."""
    from vertfrac.models.device import pick_device

    device = pick_device(wanted)  # type: ignore[arg-type]  # click checks it
    results.put({"loop": measure_loop, "variants": measure_variants}[what](name, stage, folder, steps, device))


@click.command()
@click.argument("what", type=click.Choice(["loop", "variants"]))
@click.option("--system", "systems", multiple=True, default=SYSTEMS, show_default=True)
@click.option("--stage", "stages", multiple=True, default=("detector", "localizer"), show_default=True)
@click.option("--steps", default=10, show_default=True, help="timed steps")
@click.option("--cases", default=4, show_default=True, help="phantoms to train on")
@click.option("--device", default="auto", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="folder that keeps the prepared phantoms")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="CSV; rows of other stages in it stay")
def main(
    what: str, systems: tuple[str, ...], stages: tuple[str, ...], steps: int, cases: int, device: str,
    data: Path | None, out: Path,
) -> None:  # fmt: skip
    """Time training steps and what surrounds them."""
    from vertfrac.cohorts.cache import cache_volumes
    from vertfrac.config import resolve

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        folder = data or Path(temporary)
        if not (folder / "slices.safetensors").is_file():
            prepare(folder, cases)
        for name in systems:
            raw = {"name": "benchmark", "cohort": {"kind": "phantom", "cases": 9}, "systems": [name]}
            spacing = resolve(raw, CONFIG, "benchmark").systems[name].localizer.input.spacing_mm
            if not (folder / f"{name}.safetensors").is_file():
                cache_volumes(folder / "cohort/cases.parquet", folder / f"{name}.safetensors", spacing_mm=spacing)
            for stage in stages:
                results = context.Queue()
                process = context.Process(target=measure, args=(what, name, stage, folder, steps, device, results))
                process.start()
                process.join()
                if process.exitcode != 0:
                    raise click.ClickException(f"{name} {stage}: the process ended with {process.exitcode}")
                rows = pd.DataFrame(results.get()).assign(machine=platform.machine())
                click.echo(rows.drop(columns=["machine"]).to_string(index=False))
                if out.is_file():
                    kept = pd.read_csv(out)
                    rows = pd.concat([kept[(kept["system"] != name) | (kept["stage"] != stage)], rows])
                rows.to_csv(out, index=False)


if __name__ == "__main__":
    main()

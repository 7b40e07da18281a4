"""The tables of what `benchmarks.accelerator` has measured so far."""

from typing import Any

from benchmarks import detector, harness
from benchmarks.harness import OURS
from benchmarks.problem import PAPER_STEPS
from landmarks_jax.system.tables import DASH, Table


def to_markdown(result: dict[str, Any]) -> str:
    """The tables of a summary: steps against PyTorch's and lower bounds, long runs, kernels."""
    stages = result["stages"]
    header = ["c", "Arithmetic", "Batch", "Contender", "ms a step", "Images/s", "Ours over it"]
    header += ["Of peak", "Of roofline", "MiB"]
    rows = []
    for row in result["rows"]:
        memory = row["memory_mib"].get("device_peak")
        contender = row["contender"] + ("" if row["alternated"] else " (alone)")
        cells = [str(row["channels"]), row["dtype"], str(row["batch"]), contender]
        cells += [f"{row['quartiles_ms'][1]:,.2f}", f"{row['images_per_second']:,.0f}"]
        over = None if row["contender"] == OURS else row["over_ours"]
        cells += [DASH if over is None else f"{over[1]:.2f}"]
        cells += [_share(row["of_peak"]), _share(row["of_roofline"])]
        rows.append([*cells, DASH if memory is None else f"{memory:,.0f}"])
    notes = ["The stage `machine` has no whole result."]
    if stages.get("machine", {}).get("complete"):
        machine = stages["machine"]
        rates = [f"{rate / 1e12:,.4g} TFLOP/s in {d}" for d, rate in machine["peak"].items()]
        copy = f"a copy {machine['bandwidth'] / 1e9:,.4g} GB/s"
        notes = [harness.provenance(machine), f"Measured there: {', '.join(rates)}; {copy}."]
    differences = [
        difference
        for stage in stages.values()
        for variants in stage.get("loss_differences", {}).values()
        for difference in variants.values()
    ]
    if differences:
        notes.append(harness.loss_differences(differences))
    if not all(row["alternated"] for row in result["rows"]):
        notes.append("Alone: not in turn with the others, but in a process before or after them.")
    partial = [name for name, stage in stages.items() if not stage["complete"]]
    if partial:
        notes.append(f"Cut off, with what they had measured: {', '.join(partial)}.")
    notes += harness.left_out(result)
    pages = [Table(header, rows, "On an accelerator", notes).to_markdown(1)]
    header = ["c", "Batch", "Steps", "ms a step", f"Minutes of {PAPER_STEPS:,}"]
    rows = [
        [
            str(stage["channels"]),
            str(stage["batch"]),
            f"{stage['steps']:,}",
            f"{stage['quartiles_ms'][1]:,.2f}",
            f"{stage['minutes_of_85000']:,.1f}",
        ]
        for name, stage in stages.items()
        if name.startswith("steps_")
    ]
    if rows:
        title = "Steps in a row, batches sent from the host"
        pages.append(Table(header, rows, title).to_markdown(2))
    pages += [_profile(s) for n, s in stages.items() if n.startswith(("step_", "profile_"))]
    if "detector" in stages:
        pages.append(detector.to_markdown(stages["detector"], level=2))
    return "\n".join(pages)


def _share(share: float | None) -> str:
    return DASH if share is None else f"{share:.0%}"


def _profile(stage: dict[str, Any]) -> str:
    """The table of a step's time and profile; of the time alone if it was cut off before that."""
    title = f"Profile, c = {stage['channels']}, {stage['dtype']}, batch {stage['batch']}"
    milliseconds = stage["quartiles_ms"][1]
    note = (
        f"{milliseconds:,.2f} ms a step, {1e3 * stage['batch'] / milliseconds:,.1f} images/s; "
        f"compiled in {stage['compile_seconds']:,.1f} s."
    )
    if stage.get("of_peak"):
        note += f" {stage['of_peak']:.0%} of peak, {stage['of_roofline']:.0%} of the roofline."
    if "config" in stage:
        title = f"The step of the configuration, {title[len('Profile, ') :]}"
    if "longest" not in stage:
        return Table(["Kernel"], [], title, [note]).to_markdown(2)
    header = ["Kernel", "ms a step", "Share", "Calls a step", "Mostly for"]
    rows = [
        [
            f"`{kernel['kernel'][:80]}`",
            f"{kernel['ms']:,.3f}",
            f"{kernel['share']:.1%}",
            f"{kernel['calls']:,.1f}",
            f"`{kernel['mostly'][-90:]}`",
        ]
        for kernel in stage["longest"]
    ]
    parts = [
        f"{part} {direction} {ms:,.2f}"
        for part, directions in stage["parts_ms"].items()
        for direction, ms in directions.items()
    ]
    note += (
        f" {stage['kernels']:,.0f} kernels a step take {stage['kernel_ms']:,.2f} ms of it. By "
        f"part, in ms: {', '.join(parts)}."
    )
    return Table(header, rows, title, [note]).to_markdown(2)

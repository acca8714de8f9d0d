"""Compares hwcompile with its peers on generated networks, one process a measurement, and writes RESULTS.md.

benchmarks/run.py [--only a,c] [--quick] [--output FILE]; peers run in .venv-peers, never in the product's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers" / "bin" / "python"
DATA = Path("build") / "bench"
TOOLS = ROOT / DATA / "verilator"
LIMIT_S = 120.0
EVENTS = 10_000
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB", "DA_DEFAULT")
} | {"DA_DEFAULT_THREADS": "1", "KERAS_BACKEND": "torch"}


@dataclass(frozen=True)
class Measurement:
    """One process: `script` and its arguments before the network, by hwcompile's Python or the peers'.

    `runs`: processes whose median is kept (compile times); rates repeat within one process instead. `pinned`: to one
    core. `cold`: with an empty cache folder of its own. `tools`: but with Verilator's run-time library in it, which is
    compiled once for a machine. `after`: not tried where that measurement failed, since it does the same and more.
    """

    name: str
    script: tuple[str, ...]
    peer: bool = False
    runs: int = 1
    pinned: bool = True
    cold: bool = False
    tools: bool = False
    after: str = ""


MEASUREMENTS: tuple[Measurement, ...] = (
    Measurement("software", ("ours.py", "software"), runs=3, cold=True),
    Measurement("rtl", ("ours.py", "rtl"), runs=3, cold=True),
    Measurement("command", ("-m", "hwcompile"), runs=3, pinned=False, cold=True, after="rtl"),
    Measurement("command_again", ("-m", "hwcompile"), runs=3, pinned=False, cold=True, tools=True, after="command"),
    Measurement("rates", ("ours.py", "rates")),
    Measurement("onnxruntime", ("peers_float.py", "onnxruntime"), peer=True),
    Measurement("numpy", ("peers_float.py", "numpy"), peer=True),
    Measurement("solver", ("ours.py", "solver")),
    Measurement("alkaid_solver", ("peers_alkaid.py", "solver"), peer=True),
    Measurement("alkaid", ("peers_alkaid.py", "compile"), peer=True, after="alkaid_solver"),
    Measurement("hls4ml", ("peers_hls4ml.py",), peer=True),
)
"""In this order: `rates` writes the outputs that the peers must equal."""


def arguments(m: Measurement, net: str, repeats: int) -> list[str]:
    """The command line of one measurement."""
    python = str(PEERS if m.peer else sys.executable)
    if m.name.startswith("command"):
        events = ["--data", f"{DATA / net}_events.npz", "--events", str(EVENTS)]
        words = [python, *m.script, f"{DATA / net}.onnx", *events, "--json"]
    else:
        script, *rest = m.script
        words = [python, str(Path("benchmarks") / script), *rest, net, str(DATA), str(repeats)]
    core = max(os.sched_getaffinity(0))
    return ["taskset", "-c", str(core), *words] if m.pinned and shutil.which("taskset") else words


def one_run(m: Measurement, net: str, repeats: int, limit_s: float) -> dict[str, Any]:
    """What the process said, its wall_s, process_cpu_s and peak_mb (children included), and why it `failed` if it did."""
    with (
        tempfile.TemporaryDirectory() as cache,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        environment = {**os.environ, **ONE_THREAD, **({"XDG_CACHE_HOME": cache} if m.cold else {})}
        library = Path(cache) / "hwcompile" / "verilator"
        if m.tools and TOOLS.exists():
            shutil.copytree(TOOLS, library)
        started = time.perf_counter()
        process = subprocess.Popen(
            arguments(m, net, repeats), cwd=ROOT, env=environment, stdout=out, stderr=err, start_new_session=True
        )
        timer = threading.Timer(limit_s, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:  # an interrupted run leaves nothing behind
            os.killpg(process.pid, signal.SIGKILL)
            raise
        wall_s = time.perf_counter() - started
        timed_out = not timer.is_alive() and wall_s >= limit_s
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)  # already waited for
        if m.name == "command" and library.exists():
            shutil.copytree(library, TOOLS, dirs_exist_ok=True)
        out.seek(0)
        err.seek(0)
        found = said(out.read()) if m.script[0] != "-m" else {}
        reason = err.read().strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
    found |= {"wall_s": wall_s, "process_cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}
    if timed_out:
        found["failed"] = f"not done in {limit_s:g} s"
    elif process.returncode:
        found["failed"] = reason[0].removeprefix("hwcompile.ir.errors.CompileError: ").partition(" (estimate")[0][:160]
    return found


def said(output: str) -> dict[str, Any]:
    """The values of all lines that begin with BENCH."""
    found: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("BENCH "):
            found |= json.loads(line.removeprefix("BENCH "))
    return found


def measure(m: Measurement, net: str, quick: bool) -> dict[str, Any]:
    """The median of each number over `m.runs` processes, fewer where one takes long or fails."""
    runs: list[dict[str, Any]] = []
    for _ in range(1 if quick else m.runs):
        runs.append(one_run(m, net, 3 if quick else 7, LIMIT_S))
        if "failed" in runs[-1] or runs[-1]["wall_s"] > LIMIT_S / 4:
            break
    if "failed" in runs[-1] or len(runs) == 1:
        return runs[-1]
    kept = {}
    for key, value in runs[0].items():
        values = [r[key] for r in runs]
        kept[key] = sorted(values)[len(values) // 2] if isinstance(value, int | float) else value
    return kept | {"runs": len(runs)}


def written(names: list[str]) -> dict[str, str]:
    """Generate the networks (all without names); their labels. In a process of its own: this one stays small, since a
    child's peak memory begins with its parent's.
    """
    command = [sys.executable, "benchmarks/nets.py", str(DATA), *names]
    made = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        raise SystemExit(made.returncode)  # it has said why
    return json.loads(made.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="networks, comma separated; all without it")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument(
        "--output", type=Path, help="the file to write; without it, and with all networks and repeats, RESULTS.md"
    )
    options = parser.parse_args()
    if not PEERS.exists():
        parser.error("the peers are not installed: run 'make peers'")
    whole = not options.only and not options.quick
    target = options.output or (ROOT / "benchmarks" if whole else ROOT / DATA) / "RESULTS.md"
    labels = written([n for n in options.only.split(",") if n])
    machine, started = results.machine(PEERS), time.perf_counter()
    found: dict[str, dict[str, Any]] = {}
    for net in labels:
        found[net] = {}
        for m in MEASUREMENTS:
            before = found[net].get(m.after, {})
            skip = {"failed": f"not tried ({m.after}: {before.get('failed')})"}
            found[net][m.name] = skip if "failed" in before else measure(m, net, options.quick)
            print(net, m.name, json.dumps(found[net][m.name]), flush=True)
    machine["load average"] += f", {os.getloadavg()[0]:.1f} at the end (1 minute; this run alone makes about 1)"
    machine["run took"] = f"{(time.perf_counter() - started) / 60:.0f} minutes"
    (ROOT / DATA / "results.json").write_text(json.dumps({"machine": machine, "nets": found}, indent=1))
    target.write_text(results.markdown(found, labels, machine, " ".join(["benchmarks/run.py", *sys.argv[1:]]), LIMIT_S))
    print(f"written: {target}")


if __name__ == "__main__":
    main()

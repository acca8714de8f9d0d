"""The whole loop on jets: search, choose, compile, verify, synthesize, report.

    python examples/search_jet_tagger.py [TIME] [DATA.npz]

Without data the 4,000 jets beside this file, which are enough to see it work; DATA has arrays x and label. TIME, such as 1h, is
that of the search. Started again it goes on; build/search holds every trial, and frontier.html the page.
"""

import sys
from pathlib import Path

import numpy as np

import hwcompile as hc
from hwcompile import optimize as opt
from hwcompile.explore import Methods

LUTS = 3000
FOLDER = Path("build/search")


def main(time: str = "90s", path: str = str(Path(__file__).with_name("jet_tagger.npz"))) -> None:
    with np.load(path) as data:
        x, y = data["x"].astype(np.float32), data["label"].astype(np.int64)
    half, most = len(x) * 6 // 10, len(x) * 8 // 10
    task = opt.Task(x[:half], y[:half], (x[half:most], y[half:most]))

    # Prune, quantize with trained or uniform widths, shrink, quantize after training, trees: all on one frontier.
    methods = Methods(
        task, epochs=40, batch=256, luts=(300, 2 * LUTS), test=(x[most:], y[most:]),
        methods=("learned", "uniform", "pruned", "shrunk", "trees"),
    )  # fmt: skip
    found = hc.search(
        methods.space, methods, ["accuracy", "lut", "latency_ns"], ["latency_ns<=100"], target="vu9p", budget=time,
        name="jets", folder=FOLDER, page=FOLDER / "frontier.html",
    )  # fmt: skip
    print("\n".join(f"{f.values['accuracy']:.4f} {f.values['lut']:8,.0f} LUT  {f.method}" for f in found.frontier))

    choice = max((f for f in found.frontier if f.values["lut"] <= LUTS), key=lambda f: f.values["accuracy"])
    print(f"\nchosen, of at most {LUTS} LUTs: {choice.method}, {found.command(choice)}")
    design = found.design(choice, backends=("rtl", "hls", "cpu"))
    print(design.verify(x[most:]))
    design.synthesize()
    accuracy = (np.asarray(design.predict(x[most:])).argmax(1) == y[most:]).mean()
    print(design.report)
    print(f"accuracy of the hardware on {len(x) - most} events that nothing was chosen by: {accuracy:.4f}")
    design.write(FOLDER / "design", overwrite=True)
    print(f"{FOLDER}/design: the project; {FOLDER}/frontier.html: the frontier")


if __name__ == "__main__":
    main(*sys.argv[1:])

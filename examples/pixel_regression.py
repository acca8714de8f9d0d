"""The smart-pixel CNN that measures tracks, through quantization-aware training to streaming HLS: python
examples/pixel_regression.py [EVENTS] [EFFORT].

Without EVENTS the sample of clusters that ships. The HLS stream takes one pixel a cycle; its C++ is compiled and run here.
"""

import sys

import hwcompile as hc
from hwcompile import models
from hwcompile.codegen.schedule import Schedule


def main(events: str = "", effort: str = "1") -> None:
    found = models.run("pixel_regression", events=int(events) if events else None, seed=0, effort=float(effort))
    x = found.x
    design = hc.compile(
        found.module, example_inputs=x[:1000], target="vu9p", backends=("hls", "cpu"), schedule=Schedule("stream")
    )
    print(design.verify(x, events=200))
    print(design.report)
    hardware, floats = found.metrics(design.predict(x)), found.float_metrics()
    for name, value in hardware.items():
        print(f"{name:<40} {value:10.4f}   float {floats[name]:10.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

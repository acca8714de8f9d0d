"""The smart-pixel filter on the sensor: train, quantize, compile, prove: python examples/pixel_filter.py [EVENTS].

Without EVENTS the sample of clusters that ships; with 100000 the figures of docs/models.md.
"""

import sys

import hwcompile as hc
from hwcompile import models


def main(events: str = "") -> None:
    found = models.run("pixel_filter", events=int(events) if events else None, seed=0)
    design = hc.compile(found.module, example_inputs=found.x[:1000], target="vu9p", clock_ns=25)
    print(design.verify(found.x))
    design.synthesize()
    print(design.report)
    hardware, floats = found.metrics(design.predict(found.x)), found.float_metrics()
    for name, value in hardware.items():
        print(f"{name:<40} {value:8.4f}   float {floats[name]:8.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

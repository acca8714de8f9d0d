"""An autoencoder for unexpected events at the Level-1 trigger; what is compiled is its encoder and the sum of squared means:
python examples/anomaly_score.py [EVENTS].

Without EVENTS the sample of events that ships.
"""

import sys

import hwcompile as hc
from hwcompile import models


def main(events: str = "") -> None:
    found = models.run("anomaly_vae", events=int(events) if events else None, seed=0)
    design = hc.compile(found.module, example_inputs=found.x[:1000], target="vu9p", clock_ns=5)
    print(design.verify(found.x))
    print(design.report)
    hardware, floats = found.metrics(design.predict(found.x)), found.float_metrics()
    for name, value in hardware.items():
        print(f"{name:<40} {value:10.4f}   float {floats[name]:10.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Milliseconds of a training step of HGQ2 on the Keras backend that is set, [median, least]: peers_hgq_steps.py KIND REPEATS."""

from __future__ import annotations

import json
import sys
import time

import keras
import numpy as np
from hgq.config import LayerConfigScope, QuantizerConfigScope
from hgq.layers import QConv2D, QDense
from tasks import BATCH, TASKS

LAYERS = TASKS["jets"].layers
INNER = 10


def model(kind: str) -> keras.Model:
    with (
        QuantizerConfigScope(place="all", default_q_type="kbi", overflow_mode="SAT_SYM", round_mode="RND"),
        QuantizerConfigScope(place="datalane", default_q_type="kif", overflow_mode="WRAP", round_mode="RND"),
        LayerConfigScope(enable_ebops=True, beta0=1e-7),
    ):
        if kind == "mlp":
            hidden = [QDense(n, activation="relu") for n in LAYERS[1:-1]]
            return keras.Sequential([keras.Input((LAYERS[0],)), *hidden, QDense(LAYERS[-1])])
        pool, flat = keras.layers.MaxPooling2D, keras.layers.Flatten()
        first, second = QConv2D(8, 3, activation="relu"), QConv2D(16, 3, activation="relu")
        return keras.Sequential(
            [keras.Input((13, 21, 1)), first, pool(), second, pool(), flat, QDense(32, activation="relu"), QDense(14)]
        )


def main(kind: str, repeats: int) -> None:
    net = model(kind)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(1e-3), loss)
    rng = np.random.default_rng(0)
    shape, classes = ((LAYERS[0],), LAYERS[-1]) if kind == "mlp" else ((13, 21, 1), 14)
    x = rng.random((BATCH, *shape), np.float32)
    y = rng.integers(0, classes, BATCH)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tx, ty = tf.constant(x), tf.constant(y)

        @tf.function
        def step() -> None:
            with tf.GradientTape() as tape:
                total = loss(ty, net(tx, training=True)) + sum(net.losses)
            variables = net.trainable_variables
            net.optimizer.apply_gradients(zip(tape.gradient(total, variables), variables))

    else:

        def step() -> None:
            net.train_on_batch(x, y)

    spent = []
    for k in range(repeats + 5):
        started = time.process_time()
        for _ in range(INNER):
            step()
        if k >= 5:
            spent.append((time.process_time() - started) / INNER * 1e3)
    print(json.dumps([float(np.median(spent)), min(spent)]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

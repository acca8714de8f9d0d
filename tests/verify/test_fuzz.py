"""The fuzzer finds a planted fault and shrinks it to the op that has it."""

import numpy as np

from hwcompile.ir.evaluate import evaluate, evaluate_all
from hwcompile.ir.graph import Graph
from hwcompile.verify.fuzz import fuzz


def healthy(graph):
    return {"twin": lambda x: evaluate(graph, x)}


def ill(graph: Graph):
    """An engine that is one off wherever a subtraction is on the way."""

    def run(x):
        values = evaluate_all(graph, x)
        reached = [False] * len(graph.nodes)
        for i, n in enumerate(graph.nodes):
            reached[i] = n.op.name == "sub" or any(reached[j] for j in n.operands)
        return {o.name: values[o.node] + reached[o.node] for o in graph.outputs}

    return {"ill": run}


def test_healthy_engines_run_until_time_is_up():
    seen = []
    done = fuzz(healthy, minutes=0.02, progress=lambda networks, vectors: seen.append((networks, vectors)))
    assert done.failure is None
    assert done.networks == seen[-1][0] > 0
    assert done.vectors == seen[-1][1] > 200 * done.networks


def test_a_fault_is_shrunk_to_its_op():
    done = fuzz(ill, minutes=1, seed=3)
    assert done.failure is not None
    assert done.failure.engine == "ill"
    work = [n.op.name for n in done.failure.graph.nodes if n.op.name not in ("input", "constant")]
    assert work == ["sub"]
    assert "sub(" in str(done.failure)
    assert np.array_equal(done.failure.graph.outputs[0].node, len(done.failure.graph.nodes) - 1)

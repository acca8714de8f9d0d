"""The command group prints what the store says, and refuses with exit code 2 by CompileError."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import hwcompile as hc
from hwcompile.lineage import Step, Store
from hwcompile.lineage.commands import lineage


@pytest.fixture
def folder(tmp_path):
    with Store(tmp_path / "runs") as store:
        root = store.add({"w": np.arange(3.0)}, method="float", metrics={"accuracy": 0.75, "lut": 900}, tags=["start"])
        for i in range(3):
            step = Step("Prune", {"amount": i / 4}, seed=i)
            metrics = {"accuracy": 0.7 + i / 100, "lut": 500 - i}
            store.add(
                {"w": np.arange(3.0) * i}, parents=root, step=step, method=f"p{i}", metrics=metrics, tags=[f"t{i}"]
            )
        store.add(parents=root, error="diverged [nan]")
    return tmp_path / "runs"


@pytest.fixture
def ran(folder):
    def run(*arguments, code=0):
        done = CliRunner().invoke(lineage, [*arguments, "--store", str(folder)], standalone_mode=False)
        if isinstance(done.exception, hc.CompileError):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    return run


def column(table, number):
    return [line.split("│")[number].strip() for line in table.splitlines() if line.startswith("│")]


def test_list(ran):
    assert column(ran("list"), 3) == ["float", "p0", "p1", "p2", ""]
    assert "diverged [nan]" in ran("list", "has(error)")
    assert column(ran("list", "lut < 600", "--sort", "lut"), 3) == ["p2", "p1", "p0"]
    assert column(ran("list", "--sort", "accuracy", "--descending", "--limit", "2"), 3) == ["float", "p2"]
    assert "only the first 2; --limit shows more" in ran("list", "--limit", "2")
    with pytest.raises(hc.CompileError, match="no state has a metric 'luts'; known: accuracy, lut"):
        ran("list", "luts < 3")


def test_the_list_shows_what_was_asked_for(folder, ran):
    with Store(folder) as store:
        store.add(metrics={"zeta": 1.0, "accuracy": 0.7, "lut": 3.0, **{f"a{k}": k for k in range(9)}}, method="wide")
    header = next(line for line in ran("list", "zeta > 0", "--sort", "a7").splitlines() if "created" in line)
    assert [c.strip() for c in header.split("┃")[6:-2]] == ["a7", "zeta", "accuracy", "lut", "a0", "a1", "a2", "a3"]
    assert ran("list", "zeta > 5") == "no state\n"


def test_show_path_children(ran, folder):
    with Store(folder) as store:
        spec = {"type": "Spec", "weights": {"bits": 6, "rounding": "RND"}, "note": "n" * 300}
        made = store.add(parents="t1", step=Step("Quantize, Train", {"1 Quantize": {"spec": spec}}), tags=["quantized"])
    shown = [line.split() for line in ran("show", "quantized").splitlines()]  # nested options, each whole
    assert ["parameters.1", "Quantize.spec.weights.bits", "6"] in shown
    assert column(ran("parents", "quantized"), 3) == ["p1"]
    assert ran("parents", "start") == "no state\n"
    assert column(ran("path", made.id), 3) == ["float", "p1", ""]
    shown = ran("show", "t1")
    for line in ("method", "p1", "parameters.amount", "0.25", "accuracy", "0.71", "float64 [3]"):
        assert line in shown
    assert column(ran("path", "t2"), 3) == ["float", "p2"]
    assert column(ran("children", "start"), 3) == ["p0", "p1", "p2", ""]


def test_report(ran, folder):
    with Store(folder) as store:
        store.add(report={"lut": 17, "layers": []}, tags=["compiled"])
    assert json.loads(ran("report", "compiled")) == {"lut": 17, "layers": []}
    with pytest.raises(hc.CompileError, match="state start: has no report; only compiled states have one"):
        ran("report", "start")


def test_tag_untag_fork_compare(ran, folder):
    assert "is tagged best" in ran("tag", "t2", "best")
    assert "begins the branch asic" in ran("fork", "best", "asic")
    assert "is no longer tagged best" in ran("untag", "t2", "best")
    compared = ran("compare", "t1", "t2")
    assert "parameters.amount  0.25  0.5" in compared
    assert "tensors: 0 equal, 1 not; graphs: equal" in compared
    with Store(folder) as store:
        ids = [
            store.add(properties={"params": {"lr": lr, "hidden": [64, 32], "note": "n" * 99 + str(lr)}}).id
            for lr in (0.1, 0.2)
        ]
    lines = ran("compare", *ids).splitlines()
    assert next(line.split() for line in lines if "params" in line) == ["properties.params.lr", "0.1", "0.2"]
    assert not any("hidden" in line for line in lines)  # it is the same
    assert max(map(len, lines)) < 140
    assert column(ran("list", "branch = 'asic'"), 3) == ["p2"]


def test_export(ran, tmp_path):
    assert "1 tensors written" in ran("export", "t2", str(tmp_path / "out.safetensors"))
    assert load_file(tmp_path / "out.safetensors")["w"].tolist() == [0.0, 2.0, 4.0]
    (tmp_path / "file").touch()
    with pytest.raises(hc.CompileError, match="cannot be written"):
        ran("export", "t2", str(tmp_path / "file" / "out"))
    failed = column(ran("list", "has(error)"), 1)[0]
    with pytest.raises(hc.CompileError, match="has no weights to export"):
        ran("export", failed, str(tmp_path / "out"))


def test_remove_collect_check(ran, folder):
    ran("untag", "t0", "t0")
    assert ran("remove", "lut >= 500 or has(error)", "--dry-run").startswith("2 states would be removed and 0 emptied")
    assert ran("remove", "--keep-tagged").startswith("2 states were removed and 0 emptied")
    assert ran("remove", "--below", "start").startswith("0 states were removed")
    assert ran("collect") == "0 files deleted, 0 bytes\n"  # they are too young
    assert ran("check").startswith("3 states, 2 files, ")
    with Store(folder) as store:
        digest = store._database.value("SELECT digest FROM objects JOIN tensors ON object = number")
    (folder / "objects" / digest[:2] / f"{digest}.safetensors").write_bytes(b"")
    assert "1 problems" in ran("check", code=1)


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    done = CliRunner().invoke(lineage, ["list", "--store", str(tmp_path / "typo")], standalone_mode=False)
    assert str(done.exception) == f"store {tmp_path / 'typo'}: there is no such folder; give the folder of a store"
    assert not (tmp_path / "typo").exists()

"""What may be another when a search goes on, and what may not; and a disk that was full."""

import dataclasses
import errno
import os
from pathlib import Path

import pytest
from search_models import searched, train

import hwcompile as hc
from hwcompile.explore import Integer


def test_another_plan_under_the_same_name_is_refused(tmp_path):
    searched(tmp_path / "runs", trials=2)
    with pytest.raises(hc.CompileError, match="search search: was begun with another space"):
        searched(tmp_path / "runs", space={"bits": Integer(2, 5), "terms": 1}, trials=2)
    with pytest.raises(hc.CompileError, match="was begun with another objectives"):
        searched(tmp_path / "runs", objectives=["accuracy", "ff"], trials=2)
    with pytest.raises(hc.CompileError, match="was begun with another halving"):
        searched(tmp_path / "runs", halving=3, trials=2)
    searched(tmp_path / "runs", space={"bits": Integer(2, 5), "terms": 1}, trials=2, name="other")


@dataclasses.dataclass(frozen=True)
class WithData:
    epochs: int = 3
    data_digest: str = "abc"

    def __call__(self, trial):
        return train(trial)


def test_other_data_and_another_training_are_refused(tmp_path):
    searched(tmp_path / "runs", train=train, trials=1)  # says neither, as older journals do
    searched(tmp_path / "runs", train=WithData(), trials=2)
    with pytest.raises(hc.CompileError, match="was begun with another data_digest; give another name"):
        searched(tmp_path / "runs", train=WithData(data_digest="def"), trials=3)
    with pytest.raises(hc.CompileError, match=r"was begun with another train\.epochs"):
        searched(tmp_path / "runs", train=WithData(epochs=4), trials=3)
    assert len(searched(tmp_path / "runs", train=WithData(), trials=3).candidates) == 3


@pytest.mark.parametrize("sampler", ["frontier", "nsga2", "tpe"])
def test_constraints_may_be_widened(tmp_path, sampler):
    options = {"sampler": sampler, "workers": 1}
    with pytest.raises(hc.CompileError, match="widen the constraints"):
        searched(tmp_path / "runs", constraints=["latency_ns<=1"], trials=4, **options)
    found = searched(tmp_path / "runs", constraints=["lut<=200"], trials=4, **options)
    assert len(found.candidates) == 4  # what was measured stays
    assert all(f.values["lut"] <= 200 for f in found.frontier)
    assert searched(tmp_path / "runs", trials=8, **options).frontier


@pytest.mark.parametrize("full_after", [0, 3, 17, 30, 44])
def test_a_full_disk_ends_the_search_in_one_sentence_and_it_goes_on(tmp_path, monkeypatch, full_after):
    """Also where half of a line was written."""
    synced = os.fsync
    left = [full_after]

    def fsync(number):
        written = Path(f"/proc/self/fd/{number}").resolve()
        if written.name == "journal.log":
            left[0] -= 1
            if left[0] < 0:
                os.truncate(written, written.stat().st_size - 5)
                raise OSError(errno.ENOSPC, "No space left on device")
        synced(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(hc.CompileError, match=r"search search: its journal cannot be written \(No space left"):
        searched(tmp_path / "runs", trials=8, workers=1, sampler="random")
    monkeypatch.undo()
    found = searched(tmp_path / "runs", trials=8, workers=1, sampler="random")
    assert [f.trial for f in found.candidates] == list(range(8))

"""What a run says of the machine it ran on."""

from __future__ import annotations

import pytest

from fedrounds_common.study.check import study_of
from fedrounds_server.record import record_of


def test_a_record_holds_what_chooses_the_kernels_of_the_linear_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    study, faults = study_of({"format": 1, "name": "small", "seed": 3})
    assert study is not None, faults
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("SOME_PASSWORD", "nobody's business")
    said = record_of("0001-small", "2026-01-01T00:00:00+00:00", study, study.build_task())
    assert said["machine"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert "nobody's business" not in str(said)
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    without = record_of("0001-small", "2026-01-01T00:00:00+00:00", study, study.build_task())
    assert "OPENBLAS_CORETYPE" not in without["machine"]

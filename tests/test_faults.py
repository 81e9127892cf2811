"""A few of every fault of `faults.py`; `make faults` tries many."""

import sys

import faults
import pytest

FEW = {
    faults.kill: 3,
    faults.interrupt: 2,
    faults.full_disk: 3,
    faults.read_only: 3,
    faults.damaged: 1_000,
    faults.forged: 1_000,
    faults.locks: 4,
    faults.rush: 3,
    faults.poisoned: 40,
    faults.dead: 2,
    faults.repeated: 1,  # of the others test_train.py says it, where it resumes
    faults.soak: 500,
}


@pytest.mark.parametrize("fault", FEW, ids=lambda fault: fault.__name__)
def test_nothing_is_lost(fault, tmp_path):
    if fault is faults.full_disk and not faults.can_mount():
        pytest.skip("this system lets no ordinary process make a file system")
    if fault is faults.soak and not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells how much memory is held in /proc")
    assert fault(FEW[fault], tmp_path, seed=1) == FEW[fault]

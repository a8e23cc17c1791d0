"""The benchmarks of faults and of the driver run, in miniature, and what they print can be read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def printed(*command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.ray
def test_a_fault_is_a_row():
    (row,) = printed(HERE / "chaos.py", "--only", "storage_fails", "--tries", "1", "--json")
    counted = {"tried": 1, "survived": 1, "rows_lost": 0, "units_repeated": 0, "computed_twice": 0, "silent": 0}
    assert row == {"fault": "storage_fails", **counted}


@pytest.mark.slow
@pytest.mark.ray
def test_the_driver_records_every_unit():
    found = printed(HERE / "driver.py", "--units", "100", "--json")
    assert found["units"] == 100
    assert found["units_per_s"] > 0
    assert len(found["rows"]) == 10

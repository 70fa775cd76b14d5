"""The doctor under the launchers that users have."""

import re

import pytest

from tests.distributed.launching import run
from tests.doctor_report import complaints
from tests.shard_folder import small_shards


@pytest.mark.parametrize(
    ("processes", "launcher"),
    [
        pytest.param(2, "accelerate", id="accelerate"),
        pytest.param(3, "torchrun", id="torchrun", marks=pytest.mark.slow),
    ],
)
def test_the_doctor_sees_the_whole_job(processes, launcher, tmp_path):
    shards = small_shards(tmp_path / "shards")
    done = run(processes, "train.doctor", "--data", shards, "--out", tmp_path, "--workers", 0)
    assert re.search(rf"^  launcher +{launcher}, {processes} ranks; they meet at ", done.stdout, re.MULTILINE)
    assert re.search(rf"^  all-reduce {processes} ranks sum 100 MiB", done.stdout, re.MULTILINE)
    # Ranks that measure the same number share a line, which names none where it is of all.
    named = re.findall(r"^  loader +\d+ augmented.*?(?:  \(rank ([\d, ]+)\))?$", done.stdout, re.MULTILINE)
    told = [rank for ranks in named for rank in (map(int, ranks.split(", ")) if ranks else range(processes))]
    assert sorted(told) == list(range(processes)), done.stdout
    assert not complaints(done.stdout), done.stdout

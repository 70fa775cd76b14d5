"""The launch files say what they should, without a cluster: tests/cluster and tests/distributed run them."""

import json
import math
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.paths import ROOT
from train.engine.batch_plan import check_processes, plan_phases
from train.options import parse_fields
from train.presets import PRESETS

LAUNCH = ROOT / "launch"
README = (LAUNCH / "README.md").read_text()
MANIFESTS = list(yaml.safe_load_all((LAUNCH / "kubernetes" / "train.yaml").read_text()))
SCHEMA = Draft7Validator(json.loads((Path(__file__).parent / "kubernetes_schema.json").read_text()))


def problems(manifest: dict) -> list[str]:
    return [f"{e.json_path}: {e.message}" for error in SCHEMA.iter_errors(manifest) for e in error.context or [error]]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_kubernetes_manifests_follow_the_published_schema(manifest):
    assert not problems(manifest)


def test_the_schema_sees_a_mistake():
    job = json.loads(json.dumps(MANIFESTS[1]))
    job["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    assert any("'resource'" in problem for problem in problems(job))


def test_the_kubernetes_job_agrees_with_itself():
    service, job = MANIFESTS
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = container["args"][0]
    nodes = int(re.search(r"--nnodes=(\d+)", command)[1])
    assert spec["completions"] == spec["parallelism"] == nodes
    assert int(re.search(r"--nproc-per-node=(\d+)", command)[1]) == container["resources"]["limits"]["nvidia.com/gpu"]
    name = service["metadata"]["name"]
    assert pod["subdomain"] == name
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert f"--rdzv-endpoint={job['metadata']['name']}-0.{name}:" in command
    rule = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert rule["containerName"] == container["name"]
    assert f"""*'"state": "interrupted"'*) exit {rule["values"][0]} ;;""" in command
    subprocess.run(["bash", "-n"], input=command, text=True, check=True)


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        (None, None, 1),
        (None, ("interrupted", 1), 75),
        (None, ("failed", 1), 1),
        (("interrupted", 1), ("interrupted", 1), 1),  # it fails before the run begins, which leaves what is there
        (("interrupted", 1), ("interrupted", 2), 75),
        (("interrupted", 1), ("running", 2), 1),
        (("interrupted", 1), ("failed", 2), 1),
        (("running", 1), ("finished", 1), 0),
        (("finished", 1), ("finished", 1), 0),
    ],
)
def test_a_kubernetes_pod_starts_again_uncounted_only_if_its_own_run_was_interrupted(
    before: tuple[str, int] | None, after: tuple[str, int] | None, code: int, tmp_path: Path
):
    """The launcher replaced by one that exits with 2, whatever became of the run."""
    out = tmp_path / "run"
    out.mkdir()
    for name, status in (("status.json", before), ("later.json", after)):
        if status is not None:
            (out / name).write_text(json.dumps({"state": status[0], "attempt": status[1]}, indent=1) + "\n")
    with pod(out, '[ -e "$OUT/later.json" ] && mv "$OUT/later.json" "$OUT/status.json"\nexit 2') as ended:
        _, said = ended.communicate(timeout=60)
    assert (ended.returncode, said) == (code, "")


@contextmanager
def pod(out: Path, launcher: str) -> Iterator[subprocess.Popen[str]]:
    """What the container runs, with a launcher of these lines."""
    python = out.parent / "python"
    python.write_text(f"#!/bin/sh\n{launcher}\n")
    python.chmod(0o755)
    container = MANIFESTS[1]["spec"]["template"]["spec"]["containers"][0]
    where = {"PATH": f"{python.parent}:{os.environ['PATH']}", "DATA": "shards", "OUT": str(out)}
    line = [*container["command"], *container["args"]]
    with subprocess.Popen(line, env=where, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("before", ["", '{"state": "interrupted", "attempt": 1}'])
def test_a_kubernetes_pod_that_is_stopped_before_its_run_begins_starts_again_uncounted(before: str, tmp_path: Path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "status.json").write_text(before)
    with pod(out, 'sleep 1\ntouch "$OUT/starting"\nexec sleep 60') as stopped:  # by then the shell awaits the signal
        while stopped.poll() is None and not (out / "starting").exists():
            time.sleep(0.05)
        stopped.terminate()
        assert stopped.wait(60) == 75


@pytest.mark.parametrize(
    "script", [*LAUNCH.glob("slurm/*"), *LAUNCH.glob("torchrun/*"), *(ROOT / "tests").glob("cluster/*.sh")], ids=str
)
def test_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("file", [*LAUNCH.glob("accelerate/*.yaml")], ids=lambda file: file.stem)
def test_accelerate_reads_its_files(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    expected = {"cpu2": (2, 1), "gpu1": (1, 1), "ddp8": (8, 1), "multinode": (16, 2)}
    assert (config.num_processes, config.num_machines) == expected[file.stem]


@pytest.mark.parametrize(
    ("file", "presets"),
    [("cpu2", ("demo", "smoke")), ("gpu1", PRESETS), ("ddp8", sorted(PRESETS.keys() - {"demo", "smoke"}))],
)
def test_presets_have_micro_batches_for_the_processes_that_they_are_started_with(file: str, presets: Iterable[str]):
    processes = yaml.safe_load((LAUNCH / "accelerate" / f"{file}.yaml").read_text())["num_processes"]
    for name in presets:
        config = PRESETS[name]
        lengths = [640] * len(config.phases)
        plan_phases(config.phases, lengths, config.validation.every_epochs, rank=0, world=processes)


def shipped_launches() -> list[tuple[str, int, str]]:
    """(file, ranks, command) of the Kubernetes job and of each command in launch/README.md that says how many ranks."""
    job = MANIFESTS[1]["spec"]["template"]["spec"]["containers"][0]["args"][0].replace("\\\n", " ")
    told = re.findall(
        r"`([^`]*launch/(?:accelerate|slurm|torchrun)/(?:[^`]*train\.fit|train|crossval)\b[^`]* SHARDS [^`]*)`", README
    )
    files = [re.search(r"launch/(\S+\.(?:yaml|sbatch|sh))", command)[1] for command in told]
    return [
        (file, ranks_of(command, (LAUNCH / file).read_text()), command)
        for file, command in [("kubernetes/train.yaml", job), *zip(files, told, strict=True)]
    ]


def ranks_of(command: str, file: str) -> int:
    """What the command says, else the file, its comments left out."""
    text = "\n".join([command, *(line for line in file.splitlines() if not line.startswith("# "))])
    if command.startswith("accelerate"):
        return int(re.search(r"num_processes[: ] *(\d+)", text)[1])
    if command.startswith("NODES"):  # machines of eight GPUs, as in the other rows
        return 8 * int(re.search(r"NODES=\d+:(\d+)", text)[1])
    nodes, each = (("nnodes", "nproc-per-node"), ("nodes", "ntasks-per-node"))["sbatch" in command]
    return math.prod(int(re.search(rf"--{name}=(\d+)", text)[1]) for name in (nodes, each))


@pytest.mark.parametrize(
    ("file", "ranks", "command"), shipped_launches(), ids=[file for file, *_ in shipped_launches()]
)
def test_every_shipped_launch_gives_each_of_its_ranks_a_micro_batch(file: str, ranks: int, command: str):
    preset = re.search(r"(?:--preset |\.sbatch |\.sh )([\w-]+)", command)[1]
    words = " ".join(re.findall(r"--phases\.\S+ \d+", command)).split()
    check_processes(parse_fields("train.fit", PRESETS[preset], words).phases, ranks)


def test_the_shipped_launches_are_found_with_their_ranks():
    assert [(file, ranks) for file, ranks, _ in shipped_launches()] == [
        ("kubernetes/train.yaml", 16),
        ("accelerate/cpu2.yaml", 2),
        ("accelerate/gpu1.yaml", 1),
        ("accelerate/ddp8.yaml", 8),
        ("accelerate/multinode.yaml", 16),
        ("torchrun/train.sh", 32),
        ("slurm/train.sbatch", 16),
        ("slurm/crossval.sbatch", 8),
        ("slurm/crossval.sbatch", 1),
    ]


def run_resumable(folder: Path, srun: str, **environment: str) -> tuple[int, bool]:
    """The exit code of a job whose tasks do what `srun` says, and whether it went back to the queue."""
    programs = {"srun": srun, "scontrol": f"touch {folder}/requeued", "grep": 'exec /bin/grep "$@"'}
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "requeued").unlink(missing_ok=True)
    for name, does in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    script = f"source launch/slurm/resumable.sh; run_resumable {folder}/run train.fit"
    path = f"{folder}/bin:{os.environ['PATH']}"
    given = os.environ | {"PATH": path, "SLURM_JOB_ID": "7"} | environment
    done = subprocess.run(["bash", "-euc", script], cwd=ROOT, env=given, capture_output=True, text=True)
    return done.returncode, (folder / "requeued").exists()


def test_a_slurm_job_starts_again_so_often_after_a_failure_whatever_brought_it_back_before(tmp_path: Path):
    """Twelve returns after a time limit are none of them."""
    for _ in range(2):
        given = {"MAX_RESTARTS": "2", "SLURM_RESTART_COUNT": "12"}
        assert run_resumable(tmp_path, "sleep 0.1; exit 5", **given) == (5, True)
    assert run_resumable(tmp_path, "exit 5", MAX_RESTARTS="2", SLURM_RESTART_COUNT="14") == (5, False)
    assert run_resumable(tmp_path, "exit 5", MAX_RESTARTS="2", SLURM_JOB_ID="8") == (5, True)  # of another job
    assert run_resumable(tmp_path, "exit 2", SLURM_JOB_ID="9") == (2, False)
    finished = f"""echo '{{"state": "finished"}}' > {tmp_path}/run/status.json"""
    assert run_resumable(tmp_path, finished) == (0, False)
    assert run_resumable(tmp_path, "exit 1") == (0, False)  # an end that is rough at the last
    assert run_resumable(tmp_path, "exit 2") == (2, False)  # other options on a finished run, which they leave as it is
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".restarts-8", "status.json"]


def test_a_slurm_step_that_ends_at_once_is_no_success(tmp_path: Path):
    assert {run_resumable(tmp_path, "exit 3", MAX_RESTARTS="0")[0] for _ in range(10)} == {3}


@pytest.mark.parametrize(
    ("gpus", "launch"), [(0, "cpu2.yaml"), (1, "gpu1.yaml"), *((n, "ddp8.yaml --num_processes 2") for n in (2, 8))]
)
def test_the_demo_starts_no_more_processes_than_its_preset_allows(gpus: int, launch: str, tmp_path: Path):
    """Its programs replaced by ones that write down how they are called."""
    (tmp_path / "bin").mkdir()
    programs = {"python": f'[ "$1" = -c ] && echo {gpus}; exit 0', "accelerate": 'echo "$@" >> "$OUT/called"'}
    for name in ("steel", "cp", "ls"):
        programs[name] = "exit 0"
    for name, body in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    where = {"VENV": str(tmp_path), "OUT": str(tmp_path / "out"), "PATH": os.environ["PATH"]}
    subprocess.run(["sh", LAUNCH / "demo.sh"], env=where, check=True, cwd=ROOT, capture_output=True)
    fit, evaluate = (tmp_path / "out" / "called").read_text().splitlines()
    given = f"launch --config_file launch/accelerate/{launch} -m"
    assert fit.startswith(f"{given} train.fit --preset demo ") and evaluate.startswith(f"{given} train.evaluate ")

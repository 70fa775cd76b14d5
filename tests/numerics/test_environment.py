"""Environment variables, as `accelerate launch` and `accelerate config` set them, change no digit of a step."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch
from accelerate.utils import DistributedType

from steel.distributed.accelerate_environment import settle_environment
from steel.distributed.runtime import start
from steel.errors import InputError, SharedError
from tests.distributed.launching import environment, run
from tests.paths import ROOT

WITHOUT_EFFECT = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_GRADIENT_CLIPPING": "0.001",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "perhaps",
    "ACCELERATE_FP8_BACKEND": "TE",
    "ACCELERATE_FP8_FORMAT": "E4M3",
    "ACCELERATE_DOWNCAST_BF16": "true",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_ALLOW_CP_STANDALONE": "true",
    "ACCELERATE_BYPASS_DEVICE_MAP": "true",
    "ACCELERATE_USE_SAGEMAKER": "true",
    "ACCELERATE_DEBUG_MODE": "true",
    "ACCELERATE_CPU_AFFINITY": "true",
    "ACCELERATE_USE_CPU": "false",
    "FSDP_OFFLOAD_PARAMS": "true",
    "MEGATRON_LM_TP_DEGREE": "4",
    "PARALLELISM_CONFIG_TP_SIZE": "4",
    "XLA_USE_BF16": "1",
}
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": ("true", "DeepSpeed"),
    "ACCELERATE_USE_FSDP": ("true", "FSDP"),
    "ACCELERATE_USE_MEGATRON_LM": ("1", "Megatron-LM"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("true", "tensor, sequence or context parallelism"),
    "ACCELERATE_MIXED_PRECISION": ("fp8", "precision 'fp8' is unknown"),
}


@pytest.fixture(scope="module")
def outcomes() -> list[str]:
    """Of an empty environment, of `WITHOUT_EFFECT`, and of each of `REFUSED`."""
    asked = [{}, WITHOUT_EFFECT, *({name: value} for name, (value, _) in REFUSED.items())]
    clean = {name: value for name, value in environment().items() if not name.startswith("ACCELERATE_")}
    script = [sys.executable, "tests/numerics/programs/environments.py"]
    done = subprocess.run(
        script, input=json.dumps(asked), cwd=ROOT, env=clean, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 has no effect" in done.stderr
    return json.loads(done.stdout)


def test_what_may_have_no_effect_has_none(outcomes: list[str]) -> None:
    assert re.fullmatch("[0-9a-f]{64}", outcomes[0]), outcomes[0]
    assert outcomes[1] == outcomes[0]


def test_another_way_of_training_is_refused_in_one_line(outcomes: list[str]) -> None:
    for outcome, (_, said) in zip(outcomes[2:], REFUSED.values(), strict=True):
        assert outcome.startswith("error: accelerate") and said in outcome and "\n" not in outcome, outcome


def test_nothing_is_said_of_what_the_launcher_always_sets() -> None:
    """`accelerate launch` without any option sets these."""
    set_by_default = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
        "ACCELERATE_USE_CPU": "False",
        "OMP_NUM_THREADS": "1",
    }
    assert settle_environment(set_by_default) == []
    assert set_by_default == {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_USE_CPU": "False",
        "OMP_NUM_THREADS": "1",
    }


def test_sagemaker_is_welcome_without_its_own_way_of_training() -> None:
    own = {"ACCELERATE_USE_SAGEMAKER": "true", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "DATA_PARALLEL"}
    with pytest.raises(SharedError, match="SageMaker's DATA_PARALLEL"):
        settle_environment(own)
    assert settle_environment(own | {"ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "NO"}) == []


@pytest.mark.parametrize(("kind", "device"), [("XLA", "xla"), ("MULTI_XPU", "xpu"), ("NO", "mps")])
def test_other_devices_are_refused(monkeypatch: pytest.MonkeyPatch, kind: str, device: str) -> None:
    """Accelerate takes them by itself where it finds them, as torch_xla beside a GPU."""
    chosen = SimpleNamespace(distributed_type=DistributedType(kind), device=torch.device(device))
    monkeypatch.setattr("steel.distributed.runtime.Accelerator", lambda **options: chosen)
    with pytest.raises(InputError, match=f"accelerate chose {kind} on {device}; .* CPUs or CUDA GPUs"):
        start("no")


def test_every_variable_of_the_installed_accelerate_is_known() -> None:
    """A switch that a later version brings needs a decision: `ACCELERATE_USE_...` turns on another way of training."""
    source = Path(accelerate.__file__).parent.rglob("*.py")
    switches = {found for path in source for found in re.findall(r"ACCELERATE_USE_[A-Z0-9_]+", path.read_text())}
    assert switches == {name for name in REFUSED if "_USE_" in name} | {
        "ACCELERATE_USE_CPU",
        "ACCELERATE_USE_SAGEMAKER",
    }


@pytest.mark.slow
def test_accelerates_default_configuration_with_fsdp(tiny_shards: Path, tmp_path: Path) -> None:
    """As `accelerate config` writes it where it is not told otherwise; two ranks, one line, no folder."""
    home = tmp_path / "home"
    (home / "accelerate").mkdir(parents=True)
    (home / "accelerate" / "default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 2\nnum_machines: 1\n"
        "machine_rank: 0\nmain_process_port: 0\nmixed_precision: bf16\nuse_cpu: false\ngpu_ids: '-1,-1'\n"
        "fsdp_config:\n  fsdp_sharding_strategy: FULL_SHARD\n  fsdp_state_dict_type: FULL_STATE_DICT\n"
    )
    line = ["accelerate.commands.launch", "-m", "train.fit", "--preset", "smoke", "--data", tiny_shards]
    done = run(1, *line, "--out", tmp_path / "run", check=False, HF_HOME=str(home))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(errors) == 1 and "asks for FSDP" in errors[0], done.stderr
    assert not (tmp_path / "run").exists()

"""What accelerate reads from the environment: it may say how a run is carried out, never what it computes.

Accelerator takes from environment variables whatever its caller leaves open, and `accelerate launch` fills them from
the defaults of `accelerate config`. So before it looks, each variable is kept, refused by name, or taken away.
"""

from collections.abc import MutableMapping

from steel.errors import SharedError

_KEPT = frozenset(
    {
        "ACCELERATE_MIXED_PRECISION",  # what `runtime.precision auto` takes
        "ACCELERATE_USE_CPU",
        "ACCELERATE_CPU_AFFINITY",
        "ACCELERATE_DEBUG_MODE",
        "ACCELERATE_LOG_LEVEL",
        "ACCELERATE_ENABLE_RICH",
    }
)
"""Where a run is computed and what is said of it."""

_OTHER_TRAINING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, sequence or context parallelism",
}
"""Another way to train, with other results, that nobody may get unawares."""

_OPTIONS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--phases.N.batch-size and --phases.N.micro-batch"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "--runtime.compile"),
    "ACCELERATE_TORCH_DEVICE": ("", "CUDA_VISIBLE_DEVICES or ACCELERATE_USE_CPU=true"),
}
"""What has no effect here, unless it says the same as saying nothing: that value, and what to use instead."""


def settle_environment(environment: MutableMapping[str, str]) -> list[str]:
    """Take away what accelerate would read there, all but what is harmless.

    Returns:
        A line for each variable that was meant to have an effect and has none.

    Raises:
        SharedError: accelerate was configured for another way of training; names it.
    """
    for name, way in _OTHER_TRAINING.items():
        if _is_on(environment.get(name, "")):
            raise _refusal(f"{way} ({name}={environment[name]})")
    sagemaker = environment.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "NO")
    if _is_on(environment.get("ACCELERATE_USE_SAGEMAKER", "")) and sagemaker.upper() != "NO":
        raise _refusal(f"SageMaker's {sagemaker} (ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE)")
    ignored = [
        f"{name}={environment[name]} has no effect; use {instead}"
        for name, (nothing, instead) in _OPTIONS.items()
        if environment.get(name, nothing).lower() not in (nothing, "")
    ]
    for name in [name for name in environment if name.startswith("ACCELERATE_") and name not in _KEPT]:
        del environment[name]
    return ignored


def _refusal(asked: str) -> SharedError:
    return SharedError(
        f"accelerate's configuration asks for {asked}; here ranks share the data and nothing else: launch with "
        "--config_file launch/accelerate/gpu1.yaml or another of that folder, or take it out with `accelerate config`"
    )


def _is_on(value: str) -> bool:
    return value.lower() in ("1", "true", "yes", "on", "y", "t")


def says_cpu(environment: MutableMapping[str, str]) -> bool:
    """Whether the launcher was told to stay on CPUs."""
    return _is_on(environment.get("ACCELERATE_USE_CPU", ""))

"""A training step under each of some environments:  python tests/numerics/programs/environments.py < JSON

Reads a list of {name: value}; writes what became of each: a digest of the gradients, the error's line, or a traceback.
"""

import hashlib
import json
import os
import sys
import traceback

import torch

from steel.distributed.runtime import start
from steel.errors import InputError
from tests.numerics.one_step import config_of, take_step


def step_under(environment: dict[str, str]) -> str:
    """The digest of a step's gradients, in this process."""
    os.environ |= environment
    try:
        gradients, _ = take_step(start("auto"), config_of())
    except InputError as error:
        return f"error: {error}"
    except BaseException:
        return traceback.format_exc()
    return hashlib.sha256(b"".join(g.numpy().tobytes() for _, g in sorted(gradients.items()))).hexdigest()


def forked(environment: dict[str, str]) -> str:
    """`step_under` in a process of its own: an Accelerator is made once in a process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            pipe.write(step_under(environment))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([forked(environment) for environment in json.load(sys.stdin)]))

"""The subcommand that puts a model behind HTTP: serve."""

import argparse
import ipaddress
import sys

from steel.commands.common import add_inference, require_torch
from steel.errors import InputError, told_url
from steel.machine import keep_freed_memory
from steel.option_values import milliseconds, positive, whole
from steel.serving.limits import Limits
from steel.views import parse_tta


def add_serve(commands: argparse._SubParsersAction) -> None:
    """Add `steel serve`."""
    parser = commands.add_parser(
        "serve",
        help="predict images over HTTP",
        description="Serve a model over HTTP: POST an image to /predict for JSON, a label map or an overlay; /health, "
        "/info and /metrics for machines, and a page at / for people. SIGTERM finishes what is under way.",
    )
    default = Limits()
    add = parser.add_argument
    add("checkpoint", metavar="FILE", help="model.safetensors, or model.onnx of `steel export`; a path or URL")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every network of this machine")
    add("--port", type=_port, default=8000, help="0 takes any that is free")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    add("--tta", metavar="VIEWS", help="flips averaged, such as hflip,vflip,hvflip, or none; by default the decision's")
    add_inference(parser)
    add("--max-megabytes", type=positive, default=default.body_bytes // 10**6, metavar="N", help="of an image file")
    add("--max-megapixels", type=positive, default=default.pixels // 10**6, metavar="N", help="of an image")
    add(
        "--max-requests",
        type=positive,
        default=default.places,
        metavar="N",
        help="under way at once; others are refused with 503",
    )
    add(
        "--batch-wait",
        type=milliseconds,
        default=1000 * default.batch_wait_s,
        metavar="MS",
        help="milliseconds that an image may wait for others to share its forward pass",
    )
    parser.set_defaults(run=_run_serve)


def _run_serve(arguments: argparse.Namespace) -> None:
    from steel.inference.load import is_onnx, load_predictor

    try:
        from steel.serving.server import listen, serve, url_of
    except ImportError as error:
        raise InputError(f"serving needs the package {error.name}: pip install 'steel-defects[serve]'") from error
    if not is_onnx(arguments.checkpoint):
        require_torch()
        keep_freed_memory()  # onnxruntime does so by itself
    limits = _limits(arguments)
    with listen(arguments.host, arguments.port, limits) as listener:
        predictor = load_predictor(
            arguments.checkpoint,
            tta=None if arguments.tta is None else parse_tta(arguments.tta),
            device=arguments.device,
            precision=arguments.precision,
            pixels_per_pass=arguments.pixels_per_pass,
        )
        if not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
            print(  # noqa: T201
                f"warning: whoever reaches {arguments.host} can send images here; there are no passwords",
                file=sys.stderr,
            )
        line = f"{told_url(arguments.checkpoint)}: served at {url_of(listener)}"
        serve(predictor, arguments.checkpoint, listener, limits, lambda: print(line, flush=True))  # noqa: T201


def _limits(arguments: argparse.Namespace) -> Limits:
    default = Limits()
    body_bytes, pixels = 10**6 * arguments.max_megabytes, 10**6 * arguments.max_megapixels
    return Limits(
        body_bytes=body_bytes,
        pixels=pixels,
        places=arguments.max_requests,
        upload_bytes=max(default.upload_bytes, 2 * body_bytes),
        pixels_held=max(default.pixels_held, 2 * pixels),
        batch_wait_s=arguments.batch_wait / 1000,
    )


def _port(text: str) -> int:
    value = whole(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 65535")
    return value

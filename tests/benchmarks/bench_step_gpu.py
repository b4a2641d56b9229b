"""One train step of CLIP ViT-B/16 on a GPU: mmjax with each attention beside open_clip, compiled by torch.

    python tests/benchmarks/bench_step_gpu.py --torch-python=/path/to/python

Images a second, the most memory that was in use, the share of the card's peak that the model's operations
make up, which leaves out what is computed twice, and the ratio to open_clip's speed. Each runs in a process
of its own, for the memory's sake; open_clip under `--torch-python`, since torch is no dependency of mmjax.
The model and its optimizer are those of `bench_step.py`; bfloat16 is mmjax's `dtype` and torch's autocast.

Without a GPU the CPU is timed, torch not compiled, to see that it runs: `--size=tiny --rounds=2`.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from bench_step import B1, B2, EPS, LR, WEIGHT_DECAY, let_torchvision_import, mmjax_step, spread  # noqa: E402
from clip_sizes import SIZES, ClipSize  # noqa: E402

# The last line of a failure is then its reason.
ENV = {**os.environ, "JAX_TRACEBACK_FILTERING": "off"}
WARM_UP = 5
ATTENTION = ("auto", "pallas_gpu", "cudnn", "xla")
NAMES = ("open_clip", *(f"mmjax {name}" for name in ATTENTION))
SHAPES = {
    "B/16": dataclasses.replace(SIZES["B/32"], patch=16, batch=512),
    "tiny": dataclasses.replace(SIZES["tiny"], batch=8),
}


def measured_mmjax(size: ClipSize, implementation: str, args):
    """(seconds of every step, bytes in use at most)"""
    import jax

    step, _ = mmjax_step(size, "bfloat16", unroll=args.unroll, remat=args.remat, attention=implementation)
    seconds = timed(step, args.rounds)
    memory = jax.local_devices()[0].memory_stats() or {}  # of a CPU there are none
    return seconds, memory.get("peak_bytes_in_use", 0)


def measured_open_clip(size: ClipSize, args):
    """The same of open_clip as its training loop takes a step, the model compiled."""
    import torch  # noqa: TID251

    let_torchvision_import(torch)
    import open_clip

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    image, text = size.image, size.text
    model = open_clip.CLIP(
        embed_dim=size.embed,
        vision_cfg=dict(
            image_size=size.pixels,
            patch_size=size.patch,
            width=image.width,
            layers=image.depth,
            head_width=image.width // image.heads,
        ),
        text_cfg=dict(
            context_length=size.length,
            vocab_size=size.vocab,
            width=text.width,
            layers=text.depth,
            heads=text.heads,
        ),
    )
    model = model.to(device).train()
    model.set_grad_checkpointing(args.remat != "none")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=others, weight_decay=0.0), dict(params=decayed, weight_decay=WEIGHT_DECAY)]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(B1, B2), eps=EPS, fused=True)
    compiled = torch.compile(model) if device == "cuda" else model  # which takes a CPU minutes
    infonce = open_clip.ClipLoss()
    pixels = torch.randn(size.batch, 3, size.pixels, size.pixels, device=device)
    tokens = torch.randint(1, size.vocab - 1, (size.batch, size.length), device=device)
    tokens[:, -1] = size.vocab - 1  # open_clip pools at the largest id

    def step():
        adamw.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            z_image, z_text, scale = compiled(pixels, tokens)
        infonce(z_image.float(), z_text.float(), scale).backward()
        adamw.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return timed(step, args.rounds), torch.cuda.max_memory_allocated() if device == "cuda" else 0


def timed(step, rounds):
    seconds = []
    for _ in range(WARM_UP + rounds):
        start_s = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start_s)
    return seconds[WARM_UP:]


def report(name, seconds, peak_bytes, size, peak_flops, base_s):
    """`base_s` is open_clip's median; None where it has none."""
    images = [size.batch / s for s in seconds]
    median_s = statistics.median(seconds)
    used = size.step_flops / median_s / peak_flops
    ratio = "" if base_s is None else f"{base_s / median_s:.2f}"
    print(f"| {name} | {spread(images)} | {peak_bytes / 2**30:.1f} | {used:.1%} | {ratio} |", flush=True)


def peak_flops():
    """Of this machine's first device, asked in a process that ends and so frees its memory."""
    code = "import jax; from mmjax import flops; print(flops.peak(jax.devices()[0]))"
    root = pathlib.Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    return float(found.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="B/16")
    parser.add_argument("--batch", type=int, help="else that of the size")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--remat", choices=["none", "dots", "full"], default="none")
    parser.add_argument("--unroll", action="store_true", help="mmjax without scan over the layers")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--worker", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = SHAPES[args.size]
    size = dataclasses.replace(size, batch=args.batch or size.batch)
    if args.worker:
        kind, _, implementation = args.worker.partition(" ")
        found = (
            measured_mmjax(size, implementation, args) if implementation else measured_open_clip(size, args)
        )
        return print(json.dumps(found))
    peak = peak_flops()
    print(f"CLIP {args.size}, batch {size.batch}, bfloat16, remat {args.remat}; ", end="")
    print(f"peak {peak / 1e12:,.1f} TFLOP/s, {datetime.date.today()}\n")
    print("| | images/s: median [range] | GiB | model FLOPs utilisation | speed of open_clip's |")
    print("|---|---:|---:|---:|---:|", flush=True)
    base_s = None
    for name in args.names:
        python = args.torch_python if name == "open_clip" else sys.executable
        command = [python, __file__, *sys.argv[1:], "--worker", name]
        done = subprocess.run(command, capture_output=True, text=True, env=ENV)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["failed"])[-1][:80]
            print(f"| {name} | {why} | | | |", flush=True)
            continue
        seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
        if name == "open_clip":
            base_s = statistics.median(seconds)
        report(name, seconds, peak_bytes, size, peak, base_s)


if __name__ == "__main__":
    main()

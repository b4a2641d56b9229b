"""One train step of CLIP on a CPU: mmjax beside open_clip on torch, in turns, in one run.

    python tests/benchmarks/bench_step.py --size=tiny --dtype=bfloat16 --torch-python=/path/to/python

Each implementation runs in a process of its own, open_clip under `--torch-python`, since torch is no
dependency of mmjax. After both have warmed up every round takes one step of each, so that a busy machine
slows both. With one thread a process is pinned to `--core` and the clock is its CPU time, which other work
on the machine disturbs little; with more threads it is wall time, which wants an idle machine.

Both train the same model: class token, exact GELU, causal text pooled at its end, no dropout; InfoNCE in
float32, AdamW, weights in float32, no clipping. bfloat16 is mmjax's `dtype` and torch's autocast.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from clip_sizes import SIZES, ClipSize, Transformer  # noqa: E402

LR, B1, B2, EPS, WEIGHT_DECAY = 5e-4, 0.9, 0.98, 1e-6, 0.2
WARM_UP = 4  # steps after the first one
# What launch/local.sh sets, for both.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def mmjax_step(size: ClipSize, dtype: str, unroll: bool, **encoder):
    """A function that takes one step and returns its loss, and the number of parameters.

    `encoder` are further fields of both towers' encoders.
    jax reads its flags when it starts, so the imports wait until the process has its core.
    """
    import jax
    import numpy as np

    from mmjax import sharding
    from mmjax.contrastive.step import compile_step, init_state

    cfg = _mmjax_config(size, dict(dtype=dtype, scan=not unroll, **encoder))
    rng = np.random.default_rng(0)
    text = rng.integers(2, size.vocab, (size.batch, size.length), dtype=np.int32)
    text[:, -1] = 1  # the end of text
    picture = (size.batch, size.pixels, size.pixels, 3)
    batch = {"image": rng.integers(0, 256, picture, dtype=np.uint8), "text": text}
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:1])
    with jax.set_mesh(mesh):
        batch = sharding.put_batch(mesh, batch)
        shapes = jax.eval_shape(lambda: init_state(cfg, 1))
        layout = sharding.shardings(mesh, shapes)
        state = jax.jit(lambda: init_state(cfg, 1), out_shardings=layout)()
        compiled = compile_step(cfg, mesh, layout, shapes, batch)

    def step():
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return step, sum(leaf.size for leaf in jax.tree.leaves(state["params"]))


def _mmjax_config(size: ClipSize, fields: dict):
    from mmjax.data.geometry import Preprocess, Resize
    from mmjax.data.pipeline import Data
    from mmjax.data.sources.scenes import Scenes
    from mmjax.data.tokenizers.sentencepiece import SentencePiece
    from mmjax.objectives.infonce import InfoNCE
    from mmjax.optim import AdamW, Optim
    from mmjax.pretrain import Pretrain
    from mmjax.towers.layers import Encoder
    from mmjax.towers.text import TextTransformer
    from mmjax.towers.vit import ViT

    def encoder(shape: Transformer, causal: bool):
        return Encoder(
            depth=shape.depth,
            heads=shape.heads,
            causal=causal,
            activation="gelu",
            norm_eps=1e-5,
            **fields,
        )

    image = ViT(
        width=size.image.width,
        patch=size.patch,
        embed=size.embed,
        encoder=encoder(size.image, causal=False),
        pool="class",
        patch_bias=False,
        norm_before=True,
    )
    text = TextTransformer(
        vocab=size.vocab,
        length=size.length,
        width=size.text.width,
        embed=size.embed,
        encoder=encoder(size.text, causal=True),
    )
    return Pretrain(
        towers={"image": image, "text": text},
        objective=InfoNCE(),
        # The source is never read: the batch is made up.
        data=Data(train=Scenes(split="train"), batch_size=size.batch, geometry=(Resize(size=size.pixels),)),
        preprocess=Preprocess(size=size.pixels),
        tokenizer=SentencePiece(vocab=size.vocab, length=size.length),
        steps=10_000,
        optim=Optim(
            rule=AdamW(b1=B1, b2=B2, eps=EPS), lr=LR, weight_decay=WEIGHT_DECAY, clip=None, warmup_steps=100
        ),
    )


def open_clip_step(size: ClipSize, dtype: str, fused: bool):
    """The same of open_clip, eager, as its training loop takes a step."""
    import torch  # noqa: TID251

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    let_torchvision_import(torch)
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=size.embed,
        vision_cfg=dict(
            image_size=size.pixels,
            patch_size=size.patch,
            width=size.image.width,
            layers=size.image.depth,
            head_width=size.image.width // size.image.heads,
        ),
        text_cfg=dict(
            context_length=size.length,
            vocab_size=size.vocab,
            width=size.text.width,
            layers=size.text.depth,
            heads=size.text.heads,
        ),
    ).train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=others, weight_decay=0.0), dict(params=decayed, weight_decay=WEIGHT_DECAY)]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(B1, B2), eps=EPS, fused=fused)
    infonce = open_clip.ClipLoss()
    image = torch.randn(size.batch, 3, size.pixels, size.pixels)
    text = torch.randint(1, size.vocab - 1, (size.batch, size.length))
    text[:, -1] = size.vocab - 1  # open_clip pools at the largest id

    def step():
        adamw.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            z_image, z_text, scale = model(image, text)
        loss = infonce(z_image.float(), z_text.float(), scale)
        loss.backward()
        adamw.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)  # log 100
        return float(loss.detach())

    return step, sum(p.numel() for p in model.parameters())


def let_torchvision_import(torch):
    """open_clip imports torchvision, whose wheel for CUDA wants two operators that torch for CPUs lacks."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        let_torchvision_import.keeps = library  # its operators go when it does


STEPS = {
    "mmjax": (functools.partial(mmjax_step, unroll=False), ("jax", "jaxlib", "flax", "optax")),
    "mmjax, unrolled": (functools.partial(mmjax_step, unroll=True), ("jax", "jaxlib", "flax", "optax")),
    "open_clip": (functools.partial(open_clip_step, fused=False), ("torch", "open_clip_torch")),
    "open_clip, fused AdamW": (functools.partial(open_clip_step, fused=True), ("torch", "open_clip_torch")),
}


def work(name: str, size: ClipSize, dtype: str, threads: int):
    """Sets up one implementation, then answers every line of standard input with the seconds of a step."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    make, packages = STEPS[name]
    start_s = time.perf_counter()
    step, params = make(size, dtype)
    losses = [step()]
    setup_s = time.perf_counter() - start_s
    losses += [step() for _ in range(WARM_UP)]
    versions = {package: importlib.metadata.version(package) for package in packages}
    versions["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    answers.write(json.dumps(dict(setup_s=setup_s, params=params, losses=losses, versions=versions)) + "\n")
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in sys.stdin:
        start_s = clock()
        step()
        answers.write(json.dumps(clock() - start_s) + "\n")


class Worker:
    """A process that runs one implementation; None of `first` where it could not start."""

    def __init__(self, name: str, python: str, args):
        self.name = name
        command = [python, __file__, "--worker", name]
        command += [f"--size={args.size}", f"--dtype={args.dtype}", f"--threads={args.threads}"]
        threads = str(args.threads)
        env = {**MALLOC, **os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        cores = {args.core} if args.threads == 1 else os.sched_getaffinity(0)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            # jax sizes its thread pool by the cores that it may use.
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self.about = json.loads(self.process.stdout.readline() or "null")
        self.seconds = []

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def spread(values, unit="") -> str:
    return f"{statistics.median(values):.3g}{unit} [{min(values):.3g}-{max(values):.3g}]"


def report(worker: Worker, size: ClipSize):
    median_s = statistics.median(worker.seconds)
    print(
        f"{worker.name:24s} {spread(worker.seconds):24s} {size.batch / median_s:10.1f} "
        f"{size.step_flops / median_s / 1e9:10.1f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--unroll", action="store_true", help="mmjax without scan over the layers")
    parser.add_argument("--fused", action="store_true", help="also open_clip with torch's fused AdamW")
    parser.add_argument("--worker", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = SIZES[args.size]
    if args.worker:
        return work(args.worker, size, args.dtype, args.threads)
    peers = ["open_clip", *(["open_clip, fused AdamW"] if args.fused else [])]
    workers = [Worker("mmjax, unrolled" if args.unroll else "mmjax", sys.executable, args)]
    workers += [Worker(name, args.torch_python, args) for name in peers]
    for w in workers:
        print(w.name, w.about)
    for i in range(args.rounds):
        for w in workers[i % len(workers) :] + workers[: i % len(workers)]:
            w.step()
    for w in workers:
        report(w, size)
    for w in workers[1:]:
        print("ratio", spread([b / a for a, b in zip(workers[0].seconds, w.seconds, strict=True)]))


if __name__ == "__main__":
    main()

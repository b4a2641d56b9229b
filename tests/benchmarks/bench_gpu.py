"""All that is measured on a GPU, in one run, shown and written to one file as it comes.

    python tests/benchmarks/bench_gpu.py --out=gpu.md --torch-python=/path/to/python

First whether attention is right, then every split of the Hopper kernels, from which their table is made, then
a train step of CLIP ViT-B/16 beside open_clip, then attention in all shapes. What one of them fails at does
not keep the others from running. On a CPU, to see that it runs: `--tiny`, which leaves the splits out.
"""

import argparse
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PARTS = {
    "numbers": ("bench_attention.py", "numbers", "--heads=192"),
    "splits": ("bench_attention.py", "sweep"),
    "step": ("bench_step_gpu.py",),
    "attention": ("bench_attention.py", "gpu"),
}
TINY = {
    "numbers": ("--heads=24", "--lengths", "17", "--widths", "64"),
    "step": ("--size=tiny", "--rounds=2"),
    "attention": ("--heads=12", "--lengths", "17", "--widths", "64", "--rounds=2"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    with args.out.open("w") as out:
        for part in [part for part in args.parts if part in TINY or not args.tiny]:
            script, *rest = PARTS[part]
            command = [sys.executable, str(HERE / script), *rest, *(TINY[part] if args.tiny else ())]
            if part in ("step", "attention"):
                command.append(f"--torch-python={args.torch_python}")
            out.write(f"\n## {part}\n\n")
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    out.write(line)
                    out.flush()
            if process.returncode:
                out.write(f"\nended with {process.returncode}\n")


if __name__ == "__main__":
    main()

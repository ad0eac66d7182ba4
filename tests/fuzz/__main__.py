"""Feeds damaged files to every reader of splax, and tells what happened.

    cd tests && python -m fuzz --inputs 200000

Inputs are the same for the same seed and target. An input that a reader handles badly is kept in ``--keep``.
"""

import argparse
import collections
import random
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from helpers import write_image

from fuzz.judge import judge
from fuzz.targets import TARGETS, Target

MEASURED = 100  # one of as many inputs is measured for memory


def main() -> int:
    """Number of readers that failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, help="in all, shared among the targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    parser.add_argument(
        "--part", default="1/1", help="2/3: the second third of the targets, for several processes"
    )
    parser.add_argument("--keep", type=Path, default=None, help="a folder for inputs that were handled badly")
    options = parser.parse_args()
    total = sum(target.share for target in TARGETS.values())
    part, parts = map(int, options.part.split("/"))
    names = [name for name in TARGETS if options.only in name][part - 1 :: parts]
    print("| reader | inputs | read | refused | failed | slowest, s | seconds | peak, MB |")
    print("|---|---|---|---|---|---|---|---|")
    failed = 0
    for name in names:
        count = max(1, round(options.inputs * TARGETS[name].share / total))
        failed += bool(fuzz(name, TARGETS[name], count, options.seed, options.keep))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"The process took {peak:,.0f} MB at most.")
    return failed


def put_bait(folder: Path) -> None:
    """Files beside the folder, which no name in it may lead to."""
    for name in ("x.png", "data.png", "data.ply"):
        write_image(folder.parent / name, size=(8, 6)) if name.endswith("png") else (
            folder.parent / name
        ).touch()


def fuzz(name: str, target: Target, count: int, seed: int, keep: Path | None) -> collections.Counter[str]:
    """Runs ``count`` inputs and prints a row; returns the failures by what happened."""
    outcomes: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    slowest, peak, begun = 0.0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "data"
        folder.mkdir()
        target.make(folder)
        put_bait(folder)
        originals = {file: (folder / file).read_bytes() for file in target.damage}
        target.read(folder / (target.entry or next(iter(target.damage))))  # good, and all is imported
        for index in range(count):
            rng = random.Random(f"{seed} {name} {index}")
            file = rng.choice([*target.damage])
            data = target.damage[file](originals[file], rng)
            (folder / file).write_bytes(data)
            try:
                verdict = judge(
                    target.read, folder / (target.entry or file), folder, measure=index % MEASURED == 0
                )
            except AssertionError as error:
                reason = str(error).replace(temporary, "")[:300]
                failures[reason.split("\n")[0][:120]] += 1
                if keep is not None and len(failures) < 20:
                    shutil.copytree(
                        folder, keep / f"{name} {index}".replace(" ", "_"), symlinks=True, dirs_exist_ok=True
                    )
            else:
                outcomes[verdict.outcome] += 1
                slowest, peak = max(slowest, verdict.seconds), max(peak, verdict.peak)
            (folder / file).write_bytes(originals[file])
    seconds = time.perf_counter() - begun
    numbers = f"{count:,} | {outcomes['read']:,} | {outcomes['refused']:,} | {sum(failures.values()):,}"
    print(f"| {name} | {numbers} | {slowest:.2f} | {seconds:.0f} | {peak / 1e6:.0f} |", flush=True)
    for reason, number in failures.most_common():
        print(f"  {number} x {reason}", flush=True)
    return failures


if __name__ == "__main__":
    sys.exit(main())

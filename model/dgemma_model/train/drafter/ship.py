"""Put a trained drafter into the package, with what it was made from.

    python -m dgemma_model.train.drafter.ship RUN STATES --data .train --packages MANIFEST [--packages MANIFEST]

`RUN` and `STATES` are the folders of `fit` and `read`, `--data` that of the corpus, and each `--packages` a list that
`eval/fetch_fresh.py` got. Writes `drafter.safetensors` and `manifest.json` to the package's folder for the writer.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dgemma_model.checkpoint import converted, selection
from dgemma_model.checkpoint.causal_code import directory_name
from dgemma_model.checkpoint.drafters.stored import DRAFTER, SHIPPED, WRITER


def sources(corpus: Path, packages: list[Path]) -> list[dict[str, str]]:
    """Name, version, licence and hash of all that the drafter has learnt from."""
    own = json.loads(corpus.read_text("utf-8"))
    found = [{"name": name} | entry for name, entry in own.items() if not entry["held_out"]]
    for manifest in packages:
        found += json.loads(manifest.read_text("utf-8"))
    return [{name: entry[name] for name in ("name", "version", "licence", "sha256")} for entry in found]


def tokens_read(states: Path) -> int:
    """Tokens of all texts in a folder of `read`."""
    total = 0
    for path in states.glob("*.safetensors"):
        if path.stem.isdecimal():
            with safe_open(path, framework="pt") as file:
                total += int(file.get_tensor("lengths").sum())
    return total


def manifest_of(run: Path, writer: str, tokens: int, learnt_from: list[dict[str, str]]) -> dict[str, Any]:
    """What the package says of the drafter in a folder; `writer` is the name of the checkpoint that it drafts for."""
    with safe_open(run / DRAFTER, framework="pt") as file:
        writer_sha256 = file.metadata()[WRITER]
    *_, last = map(json.loads, (run / "log.jsonl").read_text("utf-8").splitlines())
    return {
        "writer": {"name": writer, "sha256": writer_sha256},
        "sha256": converted.sha256(run / DRAFTER),
        "steps": last["step"],
        "tokens_read": tokens,
        "on_texts_left_out": {"nats": round(last["loss"], 3), "tokens_a_pass": round(last["tokens_a_pass"], 3)},
        "sources": learnt_from,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("states", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--packages", type=Path, action="append", default=[])
    parser.add_argument("--checkpoint", default=None)
    args = parser.parse_args()
    name = directory_name(selection.find(args.checkpoint, "cpu"))
    folder = SHIPPED / name
    folder.mkdir(exist_ok=True)
    learnt_from = sources(args.data / "manifest.json", args.packages)
    manifest = manifest_of(args.run, name, tokens_read(args.states), learnt_from)
    shutil.copy(args.run / DRAFTER, folder / DRAFTER)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

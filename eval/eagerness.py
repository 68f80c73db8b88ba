"""How often each `eagerness` shows something, and how often that is right: measured, and put into the settings' text.

    python eval/eagerness.py measure   # fills holes of the fresh set, and adds a row each to eval/eagerness.csv
    python eval/eagerness.py write     # what those rows say, into dgemma_lsp/eagerness.py and the settings' texts

The holes are those that an editor should fill, in Python and 12 other languages. They are filled with the default
checkpoint as the server fills them, on one thread, some seconds each. Where it was interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from dgemma_lsp import settings
from dgemma_lsp.command.eval_fill import fill_case
from dgemma_lsp.command.eval_run import read_cases
from dgemma_lsp.command.loading import load_infiller
from dgemma_lsp.eagerness import LEVELS
from dgemma_model.checkpoint.catalogue import DEFAULT
from dgemma_model.checkpoint.config import Policy
from dgemma_model.evaluation.calibration import Judged, ThresholdOutcome, at_threshold
from dgemma_model.evaluation.held_out import SHOWN_KINDS, Case
from dgemma_model.evaluation.report import DEFAULT_WAY

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "eval" / "eagerness.csv"
LEVELS_FILE = ROOT / "dgemma_lsp" / "eagerness.py"
EDITORS = ROOT / "editors"
POLICY = ROOT / "model" / "dgemma_model" / "checkpoint" / "qwen2.json"
COLUMNS = ("case", "kind", "score", "right")
HOLES, SEED = 520, 20


def measure() -> None:
    """Fill the holes that have no row yet. The score is empty where nothing passed the server's other checks."""
    known = {row["case"] for row in rows()} if ROWS.exists() else set()
    infiller = load_infiller(DEFAULT, "cpu", cache_bytes=0)
    with ROWS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(COLUMNS)
        for case in chosen():
            if case.id in known:
                continue
            fill = fill_case(case, DEFAULT_WAY, {}, infiller)
            score = "" if fill.proposed is None or fill.score is None else f"{fill.score:.5f}"
            writer.writerow((case.id, case.kind, score, int(fill.is_proposal_right)))
            file.flush()


def chosen() -> Iterator[Case]:
    """The holes, the same ones every time, in an order of their own."""
    cases = [case for case in read_cases(None, "fresh") if case.kind.partition(".")[0] in SHOWN_KINDS]
    random.Random(SEED).shuffle(cases)
    return iter(cases[:HOLES])


def rows() -> list[dict[str, str]]:
    """What was measured."""
    with ROWS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shares(measured: Iterable[dict[str, str]]) -> dict[str, ThresholdOutcome]:
    """What each level shows at these holes, and how much of it is right."""
    found = list(measured)
    judged = [Judged(float(row["score"]), row["right"] == "1") for row in found if row["score"]]
    threshold = Policy.from_json(json.loads(POLICY.read_text("utf-8"))).threshold
    return {name: at_threshold(judged, len(found), level.factor * threshold) for name, level in LEVELS.items()}


def languages(measured: Iterable[dict[str, str]]) -> int:
    """Of how many languages these holes are."""
    return len({row["kind"].partition(".")[2] for row in measured})


def write() -> None:
    """Put the shares where users read them."""
    measured = rows()
    text = LEVELS_FILE.read_text("utf-8")
    text = re.sub(r"(PLACES, LANGUAGES =) .*", rf"\1 {len(measured)}, {languages(measured)}", text)
    for name, found in shares(measured).items():
        assert found.right is not None, f"nothing is shown at {name}"
        told = f"offered={100 * found.offered:.0f}, right={100 * found.right:.0f}"
        text = re.sub(rf'("{name}": Level\([\d.]+), [^)]*\)', rf"\1, {told})", text)
        print(f"{name}: {told}, {found.threshold:.3f} nats")
    LEVELS_FILE.write_text(text, "utf-8")
    subprocess.run([sys.executable, __file__, "texts"], check=True)  # with what has just been written


def write_texts() -> None:
    """Put the descriptions of all settings into the documentation, the schema and the extension's manifest."""
    readme = EDITORS / "README.md"
    is_table = r"\| setting \| default \| meaning \|\n(?:\|.*\n)+"
    readme.write_text(re.sub(is_table, lambda _: settings.table(), readme.read_text("utf-8")), "utf-8")
    (EDITORS / "settings.schema.json").write_text(json.dumps(settings.schema(), indent=2) + "\n", "utf-8")
    subprocess.run(["node", "scripts/settings.mjs"], cwd=EDITORS / "vscode", check=True)


def main() -> None:
    """Do what the command line says."""
    steps = {"measure": measure, "write": write, "texts": write_texts}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=steps)
    steps[parser.parse_args().step]()


if __name__ == "__main__":
    main()

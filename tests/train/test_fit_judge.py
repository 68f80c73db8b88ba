"""The judge's weights: from holes of packages that are not otherwise used, each text right or not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from model_fixtures import SOURCE, tiny_infiller

from dgemma_model.project.judge import FIGURES, WRITTEN
from dgemma_model.train.corpus import SourceFile
from dgemma_model.train.fit_judge import Judgement, chosen, crossed, cut_holes, fitted, judgement, unseen_packages


def judgements(weights: torch.Tensor, count: int, seed: int = 0) -> list[Judgement]:
    """Texts that are right as often as these weights say, in packages in turn."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        texts = []
        for _ in range(3):
            figures = (1.0, *(rng.gauss(0, 1) for _ in range(FIGURES - 1)))
            chance = torch.sigmoid(torch.tensor(figures, dtype=torch.float64) @ weights).item()
            texts.append((figures, rng.random() < chance))
        found.append(Judgement("line", f"package{number % 6}", texts))
    return found


def test_the_weights_that_made_the_odds_are_found() -> None:
    made_with = torch.linspace(-1.0, 1.5, FIGURES, dtype=torch.float64)
    assert torch.allclose(fitted(judgements(made_with, 4000)), made_with, atol=0.15)


def test_better_weights_choose_better_and_are_surer_of_it() -> None:
    made_with = torch.linspace(-1.0, 1.5, FIGURES, dtype=torch.float64)
    some = judgements(made_with, 900)
    by_fit, by_none = crossed(some), chosen(some, torch.zeros(FIGURES, dtype=torch.float64))
    assert len(by_fit) == len(by_none) == len(some)

    def share(taken: list[tuple[float, str, bool]]) -> float:
        return sum(is_right for *_, is_right in taken) / len(taken)

    assert share(by_fit) > share(by_none) + 0.1
    assert share(sorted(by_fit, reverse=True)[:90]) > share(by_fit) + 0.1


def test_a_figure_that_never_changes_weighs_nothing() -> None:
    texts = [((1.0, *(0.0,) * (FIGURES - 1)), number % 4 == 0) for number in range(400)]
    weights = fitted([Judgement("line", "p", texts)])
    assert weights[0].item() == pytest.approx(-1.0986, abs=0.01)  # one in four
    assert not weights[1:].any()


def test_holes_are_cut_and_judged_with_their_package_at_hand() -> None:
    texts = {f"p/{name}.py": SOURCE.replace("balance", name) for name in ("balance", "amount", "sum")}
    packages = {"p": [SourceFile("p", "1", "MIT", path, text) for path, text in texts.items()]}
    holes = cut_holes(packages, {"line": 12, "rest_of_line": 6}, seed=0)
    assert [hole.kind for _, hole in holes] == ["line"] * 12 + ["rest_of_line"] * 6
    assert holes == cut_holes(packages, {"line": 12, "rest_of_line": 6}, seed=0)
    judged = [judgement(tiny_infiller(), texts, path, hole) for path, hole in holes]
    for each in judged:
        assert each.package == "p"
        assert [figures[WRITTEN] for figures, _ in each.texts][:1] == [True]
    assert any(is_right for each in judged for _, is_right in each.texts)  # the other files have most of its lines


def test_packages_are_taken_that_nothing_else_has_seen(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    data.mkdir()

    def install(name: str, licence: str, files: int, text: str = "def f_{}():\n    return {}\n\n") -> None:
        lines = []
        for number in range(files):
            path = site / name / f"m{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(text.format(f"{name}{number}", f"{name}_{i} + {number} * {i}") for i in range(20)))
            lines.append(f"{name}/m{number}.py,,\n")
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nLicense: {licence}\n")
        (info / "RECORD").write_text("".join(lines))

    install("taken", "MIT", 3)
    install("known", "MIT", 3)
    install("bound", "GPL-3.0", 3)
    install("small", "MIT", 2)
    install("copied", "MIT", 3)
    (data / "manifest.json").write_text(json.dumps({"known": {}}))
    repeated = [{"text": path.read_text()} for path in sorted((site / "copied").glob("*.py"))]
    (data / "corpus.jsonl").write_text("".join(json.dumps(file) + "\n" for file in repeated))
    (data / "held_out.jsonl").write_text("")
    found = unseen_packages(site, data, data / "manifest.json")
    assert list(found) == ["taken"]
    assert [file.path for file in found["taken"]] == ["taken/m0.py", "taken/m1.py", "taken/m2.py"]

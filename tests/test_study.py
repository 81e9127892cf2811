"""The recipe study of chapter 5: the table is whole, and its runs can be made again."""

import csv
import json

import pytest
from conftest import load_script

from nca_lib.lab.config import read_config

study = load_script("book/experiments/study.py")


@pytest.fixture(scope="module")
def curves():
    """{(factor, value, seed): [(rollouts, loss), ...]}."""
    curves = {}
    with (study.FOLDER / "study.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            what = row["factor"], row["value"], int(row["seed"])
            curves.setdefault(what, []).append((int(row["rollouts"]), float(row["loss"])))
    return curves


def test_every_variant_was_run_with_every_seed_at_equal_rollouts(curves):
    wanted = {(f, v, s) for f in study.STUDY for v in study.STUDY[f] for s in range(study.SEEDS)}
    assert set(curves) == wanted
    for (factor, value, _), points in curves.items():
        changes = study.STUDY[factor][value]
        spent = study.ROLLOUTS * (8 if factor == "first recipe" else 1)
        step = spent // study.POINTS
        population = changes.get("population", study.DEFAULT.population)
        for number, (rollouts, loss) in enumerate(points, start=1):
            assert abs(rollouts - number * step) < population
            assert 0 < loss < 1
        assert len(points) == study.POINTS


def test_the_table_is_of_the_study_that_the_script_describes():
    about = json.loads((study.FOLDER / "study.json").read_text(encoding="utf-8"))
    assert about["study"] == json.loads(json.dumps(study.STUDY))
    assert read_config(about["default"]) == study.DEFAULT
    assert about["rollouts"] == study.ROLLOUTS


def test_a_run_begins_as_the_table_says(curves):
    factor, value = "strategy", "OpenAI-ES, no pairs"
    (rollouts, loss), *_ = study.evolve_variant(study.STUDY[factor][value], seed=1, points=1)
    assert (rollouts, pytest.approx(loss, rel=1e-3)) == curves[factor, value, 1][0]

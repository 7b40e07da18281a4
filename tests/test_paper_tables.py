"""The tables: numbers of runs written by hand, beside the published ones, in every form."""

import csv
import io
import json
import re
from statistics import stdev

import pytest

from landmarks_jax.studies import paper_grids, paper_render, paper_tables, published_numbers
from landmarks_jax.studies.paper_cells import CELLS, TABLES
from landmarks_jax.system.errors import ConfigError, WorkdirError
from landmarks_jax.weights.vgg_weights import VggWeights
from tests.cell_runs import NOTE, base_of, entries, result_of, write_run
from tests.running import ROOT

CENTER, BOX = ("aflw-995", "center"), ("aflw-995", "box")
PAPER = {  # the paper's Tables I and III, read again
    "baseline-k10": (3.41, 6.59),
    "inter-k10": (3.10, 6.24),
    "cycle-k10": (3.12, 6.28),
    "all-k10": (3.08, 6.20),
    "all-k30": (2.89, 6.08),
    "all-k50": (2.85, 6.04),
    "vgg19-k10": (3.23, 6.42),
    "pixel-only-k10": (7.87, 14.98),
    "perceptual-only-k10": (3.25, 6.28),
}


def made(tmp_path, base, *, tables=(), cells=(), seeds=(), protocols=("aflw-995",)):
    """The JSON of a table of `tmp_path / "runs"`; its other forms are made from it."""
    out = tmp_path / "out"
    paper_tables.write_tables(base, str(tmp_path / "runs"), tables=tables, cells=cells, seeds=seeds,
                         protocols=protocols, out=str(out))  # fmt: skip
    (path,) = out.glob("*.json")
    return json.loads(path.read_text())


def numbers_of(grid, *labels):
    """The numbers of the row with these first labels."""
    (actual,) = [row for row in grid["rows"] if row["labels"][: len(labels)] == list(labels)]
    return actual["numbers"]


@pytest.fixture
def ablation(tmp_path):
    """Two cells of two seeds, one of one, one begun and two not; the third is not scored on box."""
    runs, base = tmp_path / "runs", base_of(train__steps=400)
    for cell, means in (("all-k10", (11.0, 11.4)), ("inter-k10", (11.3, 11.5))):
        for seed, mean in enumerate(means):
            results = [result_of(key, (40, 20, mean + plus), steps=400, batch=(40, 21, 12.0))
                       for key, plus in ((CENTER, 8.0), (BOX, 0.0))]  # fmt: skip
            write_run(runs, cell, base, *results, seed=seed)
    write_run(runs, "cycle-k10", base, result_of(CENTER, (40, 20, 18.5), steps=400))
    write_run(runs, "baseline-k10", base, steps=40)
    return base


def test_published_numbers_are_the_papers():
    rows = (*published_numbers.TABLE_1, *published_numbers.TABLE_3)
    assert {row.cell: (row.mafl, row.aflw) for row in rows if row.cell} == PAPER
    for row in rows:
        if row.cell:
            assert row.num_landmarks == CELLS[row.cell].num_landmarks
    assert len(published_numbers.TABLE_1) == 21
    assert sum(row.mafl or 0 for row in published_numbers.TABLE_1) == pytest.approx(82.24)
    assert sum(row.aflw or 0 for row in published_numbers.TABLE_1) == pytest.approx(114.33)
    assert published_numbers.TABLE_1[3] == published_numbers.Published(
        "Thewlis [28]", None, 5.83, 8.80
    )
    assert [row.mafl for row in published_numbers.LATER] == [3.19, 3.50, 2.19, 2.09]
    # At N = all Table II agrees with Table I.
    (ours,) = [
        values for name, values in published_numbers.TABLE_2.items() if name.startswith("Ours")
    ]
    assert ours[-1] == 3.08
    assert published_numbers.TABLE_2["Sanchez [12], K = 10"][-1] == 3.99


def test_an_ablation_has_means_deviations_and_the_commands_of_what_is_missing(tmp_path, ablation):
    table = made(tmp_path, ablation, tables=("ablation",))
    main = table["grids"][0]
    assert [(c["protocol"], c["crop"]) for c in main["columns"]] == [
        ("", ""), ("", ""), CENTER, BOX]  # fmt: skip
    kinds = [(row["kind"], row["cell"], row["labels"][2]) for row in main["rows"]]
    measured = "measured, running statistics", "measured, batch statistics"
    assert kinds[:8] == [
        ("published", "baseline-k10", "published, box crop"),
        ("measured", "baseline-k10", measured[0]),
        ("published", "inter-k10", "published, box crop"),
        ("measured", "inter-k10", measured[0]),
        ("measured", "inter-k10", measured[1]),
        ("published", "cycle-k10", "published, box crop"),
        ("measured", "cycle-k10", measured[0]),
        ("published", "all-k10", "published, box crop"),
    ]
    assert kinds[-2:] == [("control", None, "control, batch statistics"),
                          ("control", None, "control")]  # fmt: skip
    for row in main["rows"]:
        if row["kind"] == "published":
            pair = tuple(number["mean"] for number in row["numbers"][:2])
            assert pair == PAPER[row["cell"]]
            assert row["numbers"][2:] == [None, None]
    running = numbers_of(main, "all-k10", "10", measured[0])
    assert running[:2] == [None, None]
    deviation = round(stdev((11.0, 11.4)), 4)
    assert running[3] == {
        "mean": 11.2,
        "std": deviation,
        "draws_std": None,
        "seeds": [0, 1],
        "values": [11.0, 11.4],
    }
    assert running[2]["mean"] == 19.2
    assert numbers_of(main, "all-k10", "10", measured[1])[3]["mean"] == 12.0
    one = numbers_of(main, "cycle-k10")
    assert (one[2]["mean"], one[2]["std"], one[3]) == (18.5, None, {"missing": 2})
    assert numbers_of(main, "baseline-k10")[2:] == [{"missing": 1}] * 2
    assert numbers_of(main, "mean shape")[2:] == [{"mean": 24.1}] * 2
    assert numbers_of(main, "untrained detector")[3]["mean"] == 23.9

    runs = f"--config configs/paper.py --runs {tmp_path / 'runs'}"
    rest = "--protocol aflw-995 --config.train.steps=400"
    start = "landmarks-jax reproduce train --cells"
    whys = {entry["cell"]: (entry["why"], entry["command"]) for entry in table["missing"]}
    assert list(whys) == ["baseline-k10", "cycle-k10", "pixel-only-k10", "perceptual-only-k10"]
    assert whys["baseline-k10"] == (
        "seed 0 trained for 40 steps (0.4 minutes) of 400 steps; seed 1 not trained",
        f"{start} baseline-k10 {runs} --seeds 0,1 {rest}",
    )
    assert whys["cycle-k10"][0] == "seed 0 not scored under aflw-995 (box); seed 1 not trained"
    trainings = table["grids"][-1]
    assert numbers_of(trainings, "all-k10", "0, 1", "Caffe VGG-16, 3 taps", "1 x H200")[0][
        "values"] == [400, 400]  # fmt: skip
    others = table["grids"][1]
    assert others["title"] == "All errors: aflw-995, center crop"
    assert [n["mean"] for n in numbers_of(others, "cycle-k10")] == [18.5, 12.5, 8.25, 100.0, 4.5]


def test_the_order_of_the_cells_and_their_deviation(tmp_path, ablation):
    table = made(tmp_path, ablation, tables=("ablation",))
    # Pooled: the variances of 11.0, 11.4 and of 11.3, 11.5 are 0.08 and 0.02.
    assert table["remarks"][:5] == [
        "aflw-995, center crop, running statistics, from best to worst: cycle-k10 18.50, all-k10 "
        "19.20, inter-k10 19.40.",
        "aflw-995, center crop, running statistics: the deviation between seeds is 0.22 (pooled "
        "over 2 cells); neighbours that differ by less, and cannot be told apart: all-k10 and "
        "inter-k10.",
        "aflw-995, box crop, running statistics, from best to worst: all-k10 11.20, inter-k10 "
        "11.40.",
        "aflw-995, box crop, running statistics: the deviation between seeds is 0.22 (pooled over "
        "2 cells); neighbours that differ by less, and cannot be told apart: all-k10 and "
        "inter-k10.",
        "The paper's order on AFLW, as published: all-k10 6.20, inter-k10 6.24, cycle-k10 6.28, "
        "perceptual-only-k10 6.28, baseline-k10 6.59, pixel-only-k10 14.98.",
    ]
    assert table["remarks"][5].startswith("aflw-995, center crop: Of one seed: cycle-k10-seed0. ")
    assert paper_tables.order_sentences("x", {"a": [1.0]}) == []
    assert paper_tables.order_sentences("x", {"a": [2.0], "b": [1.0]}) == [
        "x, from best to worst: b 1.00, a 2.00.",
        "x: one seed each, so differences have no scale.",
    ]
    assert paper_tables.order_sentences("x", {"a": [2.0, 2.1], "b": [1.0]})[1] == (
        "x: the deviation between seeds is 0.07 (pooled over 1 cells); all neighbours differ by "
        "more."
    )
    # Squares of 0.02 and 0.5 about the means, over one and two degrees of freedom.
    uneven = paper_tables.order_sentences("x", {"a": [3.0, 3.2], "b": [1.0, 1.5, 2.0]})[1]
    assert f"is {(0.52 / 3) ** 0.5:.2f} (pooled over 2 cells)" in uneven


def test_notes_say_the_network_the_faces_and_the_terms_that_are_not_the_papers(tmp_path):
    base = base_of(objective__equivariance_weight=5.0, perceptual__balance=True)
    for cell, notes in (("all-k10", (NOTE,)), ("pixel-only-k10", ())):
        write_run(tmp_path / "runs", cell, base,
                  result_of(BOX, (40, 20, 10), steps=85_000, notes=notes))  # fmt: skip
    notes = made(tmp_path, base, cells=("all-k10", "pixel-only-k10"))["notes"]
    assert notes == [
        "aflw-995: fitted on 99 faces (fit.txt), scored on 9 (score.txt).",
        f"all-k10: {NOTE}.",
        "The cells' base is `configs/paper.py --config.objective.equivariance_weight=5.0 "
        "--config.perceptual.balance=True`; it trains on views of the center crop.",
        "The loss has terms that the paper does not have: equivariance 5.",
        "The taps' losses are balanced, which the paper does not do.",
    ]
    taps = ("relu1_2", "relu3_3")
    for weights, words in (
        (VggWeights({}, None, None, "caffe", taps), "Caffe VGG-16, 2 taps"),
        (VggWeights({}, None, None, "torchvision", taps, "vgg19"), "torchvision VGG-19, 2 taps"),
        (VggWeights({}, None, None, "torchvision", ("relu1_2", "relu2_2", "relu3_3", "relu4_3")),
         "torchvision VGG-16, 4 taps"),
    ):  # fmt: skip
        assert paper_grids.network_of({"notes": weights.notes()}, "digest") == words
    assert paper_grids.network_of({"notes": []}, "") == "none"


def test_table_1_and_3_have_all_published_rows_in_order(tmp_path):
    base = base_of()
    keys = [("mafl", "center"), ("mafl", "box"), ("aflw", "center"), ("aflw", "box")]
    results = [result_of(key, (40, 20, 2 + i), steps=85_000) for i, key in enumerate(keys)]
    write_run(tmp_path / "runs", "all-k50", base, *results)
    table = made(tmp_path, base, tables=("1",), protocols=("mafl", "aflw"))
    main = table["grids"][0]
    assert [c["title"] for c in main["columns"][2:]] == [
        "mafl, center", "mafl, box", "aflw, center", "aflw, box"]  # fmt: skip
    rows = [row["labels"][:2] for row in main["rows"] if row["kind"] == "published"]
    printed = [[row.method, str(row.num_landmarks or "-")]
               for row in (*published_numbers.TABLE_1, *published_numbers.LATER)]  # fmt: skip
    assert rows == printed
    assert [n["mean"] for n in numbers_of(main, "all-k50")[2:]] == [2, 3, 4, 5]
    assert [entry["cell"] for entry in table["missing"]] == list(TABLES["1"][:-1])
    assert "--protocol" not in table["missing"][0]["command"]
    (backward,) = [grid for grid in table["grids"] if grid["title"].startswith("Backward")]
    assert numbers_of(backward, "Sanchez")[0]["mean"] == 14.74
    (tmp_path / "out" / "table1.json").unlink()
    table = made(tmp_path, base, tables=("3",), protocols=("mafl", "aflw"))
    assert [row["cell"] for row in table["grids"][0]["rows"] if row["kind"] == "published"] == list(
        TABLES["3"]
    )


def test_table_2_is_over_the_number_of_labels(tmp_path):
    base = base_of(train__steps=4)
    for seed, plus in enumerate((0.0, 1.0)):
        results = [result_of(key, (32.0 + plus, 20.0 + plus, 9.0 + plus), steps=4)
                   for key in (CENTER, BOX)]  # fmt: skip
        write_run(tmp_path / "runs", "all-k10", base, *results, seed=seed)
    table = made(tmp_path, base, tables=("2",))
    main, controls = table["grids"][:2]
    assert [row["labels"][0] for row in main["rows"]] == [
        "1", "5", "10", "100", "500", "1000", "5000", "all"]  # fmt: skip
    for column, values in enumerate(published_numbers.TABLE_2.values()):
        actual = [row["numbers"][column] for row in main["rows"]]
        assert tuple(number and number["mean"] for number in actual) == values
    ten = numbers_of(main, "10")[4]
    assert (ten["mean"], ten["values"]) == (20.5, [20.0, 21.0])
    assert ten["std"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert ten["draws_std"] == pytest.approx(2.05)
    assert numbers_of(main, "5")[4] is None
    everything = numbers_of(main, "all")[4]
    assert (everything["mean"], everything["draws_std"]) == (9.5, None)
    column = main["columns"][4]
    assert (column["title"], column["statistics"]) == (
        "all-k10, aflw-995, center, running statistics", "running")  # fmt: skip
    assert numbers_of(main, "10")[5] is None  # no batch statistics were measured
    assert [n and n["mean"] for n in numbers_of(controls, "10")] == [30.0, 26.0] * 2
    text = paper_render.to_markdown(table)
    assert "| 10 | 8.49 | 7.13 | 7.19 | 7.09 | 20.50 ± 2.05 (± 0.71) | - |" in text
    assert "our numbers at N = 1 are a control" in text


def test_table_2_without_a_run_names_its_command(tmp_path):
    table = made(tmp_path, base_of(), tables=("2",), protocols=("mafl",))
    assert table["grids"][0]["rows"][0]["numbers"][4:] == [{"missing": 1}] * 4
    assert len(table["grids"]) == 1
    assert table["missing"][0]["command"].endswith(
        f"train --cells all-k10 --config configs/paper.py --runs {tmp_path / 'runs'} --seeds 0 "
        "--protocol mafl"
    )


def test_every_form_says_the_same(tmp_path, ablation):
    table = made(tmp_path, ablation, tables=("ablation",))
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "ablation.csv", "ablation.json", "ablation.md", "ablation.tex"]  # fmt: skip
    markdown, latex = (out / "ablation.md").read_text(), (out / "ablation.tex").read_text()
    lines = list(csv.DictReader(io.StringIO((out / "ablation.csv").read_text())))
    for text, start, separator in ((markdown, "| ", " | "), (latex, "", " & ")):
        for grid in table["grids"]:
            for row in grid["rows"]:
                cells = [paper_render.number_text(n, c)
                         for n, c in zip(row["numbers"], grid["columns"], strict=True)]  # fmt: skip
                words = [*row["labels"], *cells]
                if text is latex:
                    words = [word.replace("±", r"$\pm$").replace("_", r"\_") for word in words]
                assert start + separator.join(words) in text
    assert "| 0, 1 | - | - | 19.20 ± 0.28 | 11.20 ± 0.28 |" in markdown
    for place, entry in enumerate(table["missing"], 1):
        assert f"{place}. {entry['cell']} ({entry['why']}): `{entry['command']}`" in markdown
    count = sum(number is not None for grid in table["grids"] for row in grid["rows"]
                for number in row["numbers"])  # fmt: skip
    assert len(lines) == count
    (line,) = [line for line in lines if line["cell"] == "all-k10" and line["crop"] == "box"
               and line["grid"] == "Forward errors" and "running" in line["row"]]  # fmt: skip
    assert (line["mean"], line["std"], line["seeds"], line["values"], line["kind"]) == (
        "11.2", "0.2828", "0; 1", "11.0; 11.4", "measured")  # fmt: skip
    sources = {line["source"] for line in lines if line["kind"] == "published"}
    assert sources == {
        f"{published_numbers.PAPER}, Table I",
        f"{published_numbers.PAPER}, Table III",
    }
    missing = [line for line in lines if line["command"]]
    assert {line["cell"] for line in missing} == {entry["cell"] for entry in table["missing"]}
    assert not any(line["mean"] for line in missing)


def test_latex_is_whole_and_escaped(tmp_path, ablation):
    table = made(tmp_path, ablation, tables=("ablation",))
    table["notes"].append(r"50 % & #1 {a_b} $x ~ ^ \cmd")
    table["notes"].append("--out <a|b>")
    latex = paper_render.to_latex(table)
    assert r"\par -{}-out $<$a$|$b$>$" in latex
    assert (
        r"50 \% \& \#1 \{a\_b\} \$x \textasciitilde{} \textasciicircum{} \textbackslash{}cmd"
        in (latex)
    )
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    for character in "%#&$_{}":
        body = body.replace(f"\\{character}", "")
    assert not set("%#_~^") & set(body.replace(r"\textasciitilde{}", ""))
    assert body.count("{") == body.count("}")
    assert body.isascii()
    opened = re.findall(r"\\(begin|end)\{(\w+)\}", latex)
    stack = []
    for verb, name in opened:
        if verb == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    # As many cells in every line as the table has columns.
    for alignment, body in re.findall(
        r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}\n", latex, re.DOTALL
    ):
        plain = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "", body)
        for line in plain.splitlines():
            if line.endswith(r" \\"):
                assert line.replace(r"\&", "").count("&") == len(alignment) - 1


def test_what_cannot_be_collected_is_refused(tmp_path, ablation):
    runs = str(tmp_path / "runs")
    asked = {"tables": (), "cells": ("all-k10",), "protocols": ("aflw-995",)}
    with pytest.raises(ConfigError, match=r"name a --table \(1, 2, 3, ablation\) or --cells"):
        paper_tables.write_tables(ablation, runs, tables=(), cells=(), protocols=("aflw-995",))
    changed = base_of(train__steps=400, views__shift_std=0.1)
    with pytest.raises(WorkdirError, match=r"config.views.shift_std = 0.04, the cell needs 0.1"):
        paper_tables.write_tables(changed, runs, **asked)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(WorkdirError, match=f"{file}/cells.json: cannot be written"):
        paper_tables.write_tables(ablation, runs, **asked, out=str(file))
    # Seeds asked for stand in for those that are there.
    table = made(tmp_path, ablation, cells=("all-k10",), seeds=(1, 7))
    assert numbers_of(table["grids"][0], "all-k10", "10", "measured, running statistics")[3][
        "values"] == [11.4]  # fmt: skip
    assert table["missing"][0]["seeds"] == [7]
    assert entries((1, 2, 3))[-1]["mean"] == 3
    for damaged in (
        {"results": {"a": 1}},
        {"protocol": "b", "crop": "c", "results": {"running": {}}},
    ):
        path = tmp_path / "runs" / "all-k10-seed1" / "evaluation" / "damaged.json"
        path.write_text(json.dumps({"format": 1, **damaged}))
        with pytest.raises(WorkdirError, match=r"damaged\.json: not an evaluation of format 1"):
            paper_tables.write_tables(ablation, runs, **asked)


def test_tables_in_documents_are_made_from_their_json_and_name_no_machines_places():
    for path in sorted((ROOT / "docs" / "results").rglob("*.json")):
        text = path.read_text()
        table = json.loads(text)
        if "grids" not in table:
            continue
        for ending, make in (
            ("md", paper_render.to_markdown),
            ("tex", paper_render.to_latex),
            ("csv", paper_render.to_csv),
        ):
            assert path.with_suffix(f".{ending}").read_text() == make(table), path
        commands = [entry["command"] for entry in table["missing"]]
        words = [word for line in (table["config"], *commands) for word in line.split()]
        assert not [word for word in words if word.partition("=")[2].startswith("/")]
        assert not [word for word in words if word.startswith("/")]

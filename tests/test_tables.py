"""Tables as Markdown, CSV and LaTeX."""

import pytest

from landmarks_jax.system.tables import DASH, Table, latex_text, to_csv


@pytest.fixture(name="table")
def make_table():
    return Table(
        header=("loss", "forward, %", "n"),
        rows=[("a|b & c", "9.1 ± 0.2", "3"), ("all_terms", DASH, "1")],
        title="Errors of 50 %",
        notes=("First note.", "", "flags --seed"),
    )


def test_markdown(table):
    assert (
        table.to_markdown().splitlines()
        == [
            "### Errors of 50 %",
            "",
            "| loss | forward, % | n |",
            "| --- | --- | --- |",
            r"| a\|b & c | 9.1 ± 0.2 | 3 |",
            "| all_terms | - | 1 |",
            "",
            "First note.",
            "",
            "flags --seed",
            "",
        ][:-1]
    )
    assert table.to_markdown(2).startswith("## Errors")
    assert Table(("a",), [("1",)]).to_markdown() == "| a |\n| --- |\n| 1 |\n"


def test_latex(table):
    assert table.to_latex().splitlines() == [
        r"\begin{table}",
        r"\caption{Errors of 50 \%}",
        r"\footnotesize",
        r"\begin{tabular}{lrr}",
        r"\hline",
        r"loss & \begin{tabular}[b]{@{}r@{}}forward\\\%\end{tabular}"
        r" & \begin{tabular}[b]{@{}r@{}}n\end{tabular} \\",
        r"\hline",
        r"a$|$b \& c & 9.1 $\pm$ 0.2 & 3 \\",
        r"all\_terms & - & 1 \\",
        r"\hline",
        r"\end{tabular}",
        r"\par First note.",
        r"\par flags -{}-seed",
        r"\end{table}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b {c} #1 $2 100%", r"a\_b \{c\} \#1 \$2 100\%"),
        ("x^2 ~ \\y", r"x\textasciicircum{}2 \textasciitilde{} \textbackslash{}y"),
        ("<1 | >2", "$<$1 $|$ $>$2"),
        ("----", "-{}--{}-"),
    ],
)
def test_latex_text_escapes(text, expected):
    assert latex_text(text) == expected


def test_a_ragged_row_is_refused():
    with pytest.raises(ValueError, match=r"T: row \('1',\) .*2 cells"):
        Table(("a", "b"), [("1", "2"), ("1",)], title="T")


def test_csv():
    rows = [{"a": 1, "b": None}, {"b": "x,y"}]
    assert to_csv(("a", "b"), rows) == 'a,b\n1,\n,"x,y"\n'
    with pytest.raises(ValueError, match="c"):
        to_csv(("a",), [{"c": 1}])

"""The published numbers against a second reading of the paper: sums and cells that were taken from its text on their own, not from the file.

Sums are in tenths of a percent, over the cells that hold a number.
"""

import csv
from collections import Counter

import pandas as pd
import pytest

from scdnet.paper.published import COLUMNS, published, published_cells
from scdnet.utils.files import InputError, shipped

# table -> (cells with a number, sums of the rows from top to bottom, sums of the columns from left to right)
SUMS = {
    1: (
        65,
        [
            2027,
            1464,
            1421,
            797,
            1583,
            2948,
            1451,
            2059,
            2589,
            4071,
            4134,
            3710,
            4474,
            3071,
            4553,
            4812,
        ],
        [10796, 11975, 5863, 6084, 7385, 3061],
    ),
    2: (25, [1542, 2083, 620, 2480, 2509, 2688, 2885], [4282, 4554, 2847, 3124]),
    3: (10, [884, 899, 910, 1097, 1302], [2489, 2603]),
    4: (
        30,
        [972, 983, 1341, 2122, 1266, 2514, 1411, 1455, 1435, 2605, 3039],
        [2758, 7520, 2122, 6743],
    ),
    5: (10, [1749, 1842, 1812, 1533, 1811], [3995, 4752]),
    6: (10, [854, 866, 866, 864, 858, 864, 862, 857, 857, 851], [8599]),
    7: (10, [1817, 1825, 1825, 1842, 1841], [4280, 4870]),
    8: (14, [1612, 1828, 1842, 1830, 1837, 1804, 1696], [5736, 6713]),
}
NAN = None
ROWS = {  # some rows as they are printed
    1: {
        "LongT GAN": [52.1, 56.4, NAN, NAN, 67.7, 26.5],
        "SeBiReNet": [NAN, 79.7, NAN, NAN, NAN, NAN],
        "MS²L": [52.6, NAN, NAN, NAN, 64.9, 27.6],
        "HYSP": [78.2, 82.6, 61.8, 64.6, 83.8, NAN],
        "SkeAttnCLR": [80.3, 86.1, 66.3, 74.5, 87.3, 52.9],
        "SCD-Net": [86.6, 91.7, 76.9, 80.1, 91.9, 54.0],
    },
    2: {"AimCLR": [62.0, NAN, NAN, NAN], "SCD-Net": [76.2, 86.8, 59.8, 65.7]},
    3: {"MS²L": [44.1, 45.8], "SCD-Net": [62.7, 67.5]},
    4: {
        "ISC": [35.7, 65.9, 38.1, 72.5],
        "MCC": [NAN, 60.8, NAN, 65.8],
        "HiCo-Transformer": [54.4, 73.0, 54.8, 78.3],
    },
    5: {("Non-Shared", "None"): [63.7, 89.6], ("Shared", "Projection & Refinement"): [85.2, 96.0]},
    6: {
        ("4", "64", "1", "8", "2048"): [86.6],
        ("3", "64", "1", "8", "4096"): [85.1],
        ("3", "32", "1", "8", "2048"): [86.4],
    },
    7: {
        ("S-T", "Interactive Loss"): [85.3, 97.2],
        ("S-T-G", "Interactive & Instance Loss"): [86.5, 97.6],
    },
    8: {("None", "Ours"): [76.0, 93.6], ("✓", "Temporal Only"): [83.7, 96.7]},
}
METHODS = {
    2: ["LongT GAN", "P&C", "AimCLR", "ISC", "SkeAttnCLR", "HiCo-Transformer", "SCD-Net"],
    3: ["LongT GAN", "MS²L", "ISC", "HiCo-Transformer", "SCD-Net"],
    4: [
        "LongT GAN",
        "MS²L",
        "ASSL",
        "ISC",
        "MCC",
        "Colorization",
        "CrosSCLR",
        "HI-TRS",
        "GL-Transformer",
        "HiCo-Transformer",
        "SCD-Net",
    ],
}


def tenths(values):
    return [round(10 * v) for v in values]


@pytest.mark.parametrize("number", SUMS)
def test_sums_of_a_second_reading(number):
    filled, rows, columns = SUMS[number]
    table = published(number)
    assert table.shape == (len(rows), len(columns)) and int(table.notna().sum().sum()) == filled
    assert tenths(table.sum(axis=1)) == rows
    assert tenths(table.sum(axis=0)) == columns


@pytest.mark.parametrize("number", ROWS)
def test_rows_as_printed(number):
    table = published(number)
    if number == 1:
        table = table.droplevel(["family", "venue", "encoder"])
    for name, printed in ROWS[number].items():
        assert [None if pd.isna(v) else v for v in table.loc[name]] == printed, name


def test_heads_as_printed():
    assert list(published(1)) == [
        ("NTU-60", "x-sub"),
        ("NTU-60", "x-view"),
        ("NTU-120", "x-sub"),
        ("NTU-120", "x-setup"),
        ("PKU-MMD I", "x-sub"),
        ("PKU-MMD II", "x-sub"),
    ]
    assert list(published(2)) == list(published(1))[:4]
    assert list(published(3)) == ["PKU-MMD I", "NTU-60"]
    assert list(published(4)) == [
        ("x-sub", "1%"),
        ("x-sub", "10%"),
        ("x-view", "1%"),
        ("x-view", "10%"),
    ]
    assert list(published(6).index.names) == [
        "GCN Layer",
        "GCN Channel",
        "Trans. Layer",
        "Trans. Head",
        "Trans. Channel",
    ]
    assert [list(published(number)) for number in (5, 6, 7, 8)] == [
        ["Top-1", "Top-5"],
        ["Top-1"],
        ["Top-1", "Top-5"],
        ["Top-1", "Top-5"],
    ]
    for number, methods in METHODS.items():
        assert list(published(number).index) == methods


def test_whose_numbers_table_1_holds():
    index = published(1).index
    assert Counter(index.get_level_values("family")) == {
        "Encoder-decoder": 6,
        "Hybrid learning": 2,
        "Contrastive-learning": 8,
    }
    assert Counter(index.get_level_values("encoder")) == {
        "GRU": 4,
        "LSTM": 1,
        "Transformer": 3,
        "GCN": 6,
        "GRU&CNN&GCN": 1,
        "GCN&Transformer": 1,
    }
    assert Counter(venue[-2:] for venue in index.get_level_values("venue")) == {
        "18": 1,
        "19": 1,
        "20": 1,
        "21": 6,
        "22": 2,
        "23": 4,
        "": 1,
    }


def test_every_number_says_where_it_was_read():
    rows = published_cells()
    of_paper = rows["table"] != "other"
    assert of_paper.sum() == 222 and rows["value"].notna()[of_paper].sum() == 174
    assert rows["source"][of_paper].str.startswith("SCD-Net (AAAI'24), Table ").all()
    assert (rows["source"][of_paper].str[-1] == rows["table"][of_paper]).all()
    later = rows[~of_paper & (rows["method"] != "SCD-Net")]
    assert later["value"].notna().all() and later["source"].str.endswith(", second hand").all()


BAD = {
    "a value above 100": ({"value": "521"}, "line 2: value '521', expected a number from 0 to 100"),
    "a word for a value": ({"value": "-"}, "line 2: value '-'"),
    "a split by another name": (
        {"split": "x-sub"},
        "line 2: split 'x-sub', expected one of xsub, xview, xset",
    ),
    "no source": ({"source": ""}, "line 2: source ''"),
    "a table of another paper": ({"table": "9"}, "line 2: table '9'"),
    "the same cell twice": (
        {"split": "xview"},
        "line 3: method 'LongT GAN', expected each cell once",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_slip_is_one_line(name, tmp_path):
    change, said = BAD[name]
    with open(shipped("published.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= change
    with open(tmp_path / "mine.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError) as caught:
        published_cells(tmp_path / "mine.csv")
    assert (
        said in str(caught.value)
        and "mine.csv" in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_a_file_of_another_shape(tmp_path):
    file = tmp_path / "mine.csv"
    for text in ("", "a,b\n1,2\n", "a,b\n1,2,3\n1\n1,2,3,4\n"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"mine\.csv"):
            published_cells(file)
    with pytest.raises(InputError, match="expected one of 1, 2, 3"):
        published(9)

"""The match of codes with labels: against tables worked out by hand."""

import json
from math import comb

import numpy as np
import pytest
from helpers.strategies import modest
from hypothesis import given
from hypothesis import strategies as st

from fastinfogan.evaluation import clustering
from fastinfogan.evaluation.clustering import match


def pairs(table) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and labels whose table [label, code] this is."""
    table = np.array(table)
    labels, codes = np.indices(table.shape)
    return codes.repeat(table.flatten()), labels.repeat(table.flatten())


def entropy(counts) -> float:
    p = np.array(counts, float).flatten() / np.sum(counts)
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def nmi(table) -> float:
    """Return mutual information over the mean of both entropies."""
    table = np.array(table)
    rows, columns = entropy(table.sum(1)), entropy(table.sum(0))
    return (rows + columns - entropy(table)) / ((rows + columns) / 2)


def ari(table) -> float:
    """Return Hubert and Arabie's index, by counting pairs."""
    table = np.array(table)

    def together(counts):
        return sum(comb(int(n), 2) for n in np.array(counts).flatten())

    both, rows, columns = together(table), together(table.sum(1)), together(table.sum(0))
    chance = rows * columns / comb(int(table.sum()), 2)
    return (both - chance) / ((rows + columns) / 2 - chance)


class TestMatch:
    @pytest.mark.parametrize(
        ("table", "accuracy", "purity"),
        [
            # best one-to-one: 5 + 6 + 1; largest of each column: 5 + 6 + 2
            ([[5, 1, 0], [2, 6, 2], [0, 3, 1]], 12 / 20, 13 / 20),
            # the largest cell is no part of the best matching: 9 + 9 beats 10 + 0
            ([[10, 9], [9, 0]], 18 / 28, 19 / 28),
            # more codes than labels: two codes stay without a label
            ([[5, 5, 0, 0], [0, 0, 3, 7]], 12 / 20, 20 / 20),
            # more labels than codes
            ([[5, 0], [5, 0], [0, 3], [0, 7]], 12 / 20, 12 / 20),
            # one code for all
            ([[4], [6], [10]], 10 / 20, 10 / 20),
            ([[3, 3], [3, 3]], 6 / 12, 6 / 12),
        ],
    )
    def test_tables_worked_out_by_hand(self, table, accuracy, purity):
        agreement = match(*pairs(table))
        assert agreement["code_accuracy"] == pytest.approx(accuracy, abs=1e-12)
        assert agreement["purity"] == pytest.approx(purity, abs=1e-12)
        assert agreement["nmi"] == pytest.approx(nmi(table), abs=1e-12)
        assert agreement["ari"] == pytest.approx(ari(table), abs=1e-12)

    def test_a_perfect_sorting_scores_1_whatever_its_codes_are_called(self):
        labels = np.random.default_rng(0).integers(0, 10, 500)
        names = np.array([17, 3, 99, 0, 5, 42, 8, 1, 2, 1000])
        agreement = match(names[labels], labels + 5)
        assert agreement == pytest.approx(dict.fromkeys(agreement, 1.0), abs=1e-12)

    @given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=2, max_size=4))
    @modest
    def test_any_table_keeps_the_order_of_the_scores(self, table):
        if sum(map(sum, table)) < 2:
            return
        agreement = match(*pairs(table))
        assert 0 <= agreement["code_accuracy"] <= agreement["purity"] <= 1 or (
            agreement["code_accuracy"] == agreement["purity"]
        )
        assert -1e-9 <= agreement["nmi"] <= 1 + 1e-9
        json.dumps(agreement, allow_nan=False)


class TestMatching:
    def test_a_table_worked_out_by_hand(self):
        codes, labels = pairs([[5, 1, 0], [2, 6, 2], [0, 3, 1]])
        table, names = clustering.contingency(codes, labels + 3, categories=4)
        assert table.tolist() == [[5, 1, 0, 0], [2, 6, 2, 0], [0, 3, 1, 0]]
        assert names.tolist() == [3, 4, 5]
        assert clustering.match_labels(table, names) == [3, 4, 5, None]

    @pytest.mark.parametrize(
        ("table", "matching"),
        [
            ([[10, 9], [9, 0]], [8, 7]),  # 9 + 9 beats 10 + 0
            ([[5, 5, 0, 0], [0, 0, 3, 7]], [7, None, None, 8]),  # two are left over
            ([[0, 5], [0, 9]], [7, 8]),  # a category that no image got has a label too
        ],
    )
    def test_each_category_gets_the_label_of_the_best_assignment(self, table, matching):
        names = np.array([7, 8])
        assert clustering.match_labels(np.array(table), names) == matching

    @given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5))
    @modest
    def test_its_images_are_those_that_code_accuracy_counts(self, table):
        if sum(map(sum, table)) == 0:
            return
        codes, labels = pairs(table)
        matching = clustering.match_labels(*clustering.contingency(codes, labels, 3))
        accuracy = clustering.obedience(codes, labels, matching)
        assert accuracy == pytest.approx(match(codes, labels)["code_accuracy"], abs=1e-12)
        labelled = [label for label in matching if label is not None]
        assert len(labelled) == len(set(labelled)) == min(3, len(np.unique(labels)))

    def test_categories_are_ordered_by_label_and_the_rest_comes_last(self):
        assert clustering.in_order([2, None, 0, 9, None, 1]) == [2, 5, 0, 3, 1, 4]

    def test_obedience_counts_a_category_without_a_label_as_wrong(self):
        categories, seen = np.array([0, 0, 1, 2, 2]), np.array([7, 8, 7, 8, 8])
        assert clustering.obedience(categories, seen, [7, None, 8]) == 3 / 5

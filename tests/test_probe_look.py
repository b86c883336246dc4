"""Colours and similarities of tokens."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from nnunet_dino.features.look import pca_colours, similarity
from nnunet_dino.features.look_picture import quantised

TOKENS = np.random.default_rng(0).normal(size=(2, 5, 7, 11)) * np.linspace(3, 0.1, 11) + 4


def test_colours_are_the_principal_components_of_scikit_learn():
    expected = PCA(3).fit_transform(TOKENS.reshape(-1, 11))
    found = pca_colours(TOKENS).reshape(-1, 3)
    inside = (found > 0.001) & (found < 0.999)
    for component in range(3):
        rows = inside[:, component]
        assert abs(np.corrcoef(expected[rows, component], found[rows, component])[0, 1]) > 1 - 1e-9
    assert (found.min(), found.max()) == (0, 1)
    assert 0.9 < inside.mean() < 1, "one percent at either end is cut off"


def test_the_sign_does_not_depend_on_chance():
    turned = np.concatenate([TOKENS[:, ::-1]])
    np.testing.assert_allclose(pca_colours(turned), pca_colours(TOKENS)[:, ::-1], atol=1e-9)


def test_equal_tokens_have_one_colour():
    assert np.isfinite(pca_colours(np.ones((1, 3, 4, 6)))).all()


def test_similarity_is_the_cosine():
    expected = cosine_similarity(TOKENS.reshape(-1, 11), TOKENS[1, 2, 3][None]).reshape(2, 5, 7)
    np.testing.assert_allclose(similarity(TOKENS, (1, 2, 3)), expected, atol=1e-12)


def test_whole_numbers_keep_cosines():
    tokens = np.random.default_rng(1).normal(size=(1, 4, 4, 384))
    error = similarity(quantised(tokens).astype(float), (0, 1, 2)) - similarity(tokens, (0, 1, 2))
    assert np.abs(error).max() < 0.005

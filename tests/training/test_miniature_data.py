"""Scenes of the miniature: reproducible, captions that tell the truth, novel words without masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.scenes import KINDS, class_names
from dedos_deploy.training.folders import open_folder, read_pair, union_words
from dedos_deploy.training.pretraining.scenes import (
    BASE_WORDS,
    NAMED_SHARE,
    NOVEL_REASONS,
    NOVEL_WORDS,
    WORDS,
    render_scenes,
    write_folders,
)

_SIZE = (48, 64)


def test_the_split_of_words_is_the_union_of_both_kinds_and_both_have_novel_ones() -> None:
    union = {word for kind in KINDS for word in class_names(kind)}
    assert set(WORDS) == union and len(WORDS) == len(union)
    assert WORDS[: len(BASE_WORDS)] == BASE_WORDS
    assert set(NOVEL_WORDS) == set(NOVEL_REASONS) <= union
    assert 0.2 <= len(NOVEL_WORDS) / len(WORDS) <= 0.25
    for kind in KINDS:
        assert len(set(NOVEL_WORDS) & set(class_names(kind))) >= 3


def test_novel_words_are_frequent_enough_to_be_scored() -> None:
    scenes = render_scenes(240, size_hw=_SIZE, seed=3)
    for word in NOVEL_WORDS:
        share = np.mean((scenes.labels == WORDS.index(word)).mean(axis=(1, 2)) > NAMED_SHARE)
        assert share > 0.02, word


def test_the_same_seed_gives_the_same_set_and_another_seed_other_scenes() -> None:
    first, again = (render_scenes(4, size_hw=_SIZE, seed=1) for _ in range(2))
    longer, other = render_scenes(6, size_hw=_SIZE, seed=1), render_scenes(4, size_hw=_SIZE, seed=2)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.images, longer.images[:4])
    assert all((a != b).any() for a, b in zip(first.images, other.images, strict=True))
    assert [first.caption(i) for i in range(4)] == [again.caption(i) for i in range(4)]


def test_labels_are_the_renderers_own_in_union_ids() -> None:
    from dedos_deploy.scenes import render_image

    scenes = render_scenes(2, size_hw=_SIZE, seed=0)
    for index, kind in enumerate(KINDS):
        image, found = render_image(kind, seed=index, size_hw=_SIZE)
        assert scenes.kind(index) == kind
        assert np.array_equal(scenes.images[index], image)
        names = np.array(class_names(kind))[found]
        assert (np.array(WORDS)[scenes.labels[index]] == names).all()


def test_a_caption_names_what_is_there_and_says_where() -> None:
    scenes = render_scenes(30, size_hw=_SIZE, seed=4)
    texts, sides = set(), 0
    for index in range(len(scenes)):
        for draw in range(4):
            caption = scenes.caption(index, draw=draw)
            texts.add(caption.text)
            assert 1 <= len(caption.words) <= 4
            for word in caption.words:
                mask = scenes.labels[index] == word
                assert mask.mean() >= NAMED_SHARE
                assert WORDS[word] in caption.text
                for place, low, high in (("left", 0, 1 / 3), ("right", 2 / 3, 1)):
                    if f"{WORDS[word]} on the {place}" in caption.text:
                        sides += 1
                        assert low <= np.nonzero(mask)[1].mean() / _SIZE[1] <= high
    assert len(texts) > 80 and sides > 10


def test_training_folders_hold_no_pixel_of_a_novel_word_and_scoring_folders_all(
    tmp_path: Path,
) -> None:
    train, val = (render_scenes(count, size_hw=_SIZE, seed=s) for count, s in ((12, 5), (6, 6)))
    base, everything = write_folders(tmp_path, train=train, val=val)
    for split, scenes in (("train", train), ("val", val)):
        folder = open_folder(str(base), split=split)
        assert union_words([folder]) == BASE_WORDS and len(folder.items) == len(scenes)
        for index in range(len(scenes)):
            image, raw = read_pair(folder, index)
            novel = scenes.labels[index] >= len(BASE_WORDS)
            assert (raw[novel] == 255).all()
            assert (raw[~novel] == scenes.labels[index][~novel]).all()
            assert np.abs(image.astype(int) - scenes.images[index]).mean() < 6  # JPEG
    scored = open_folder(str(everything), split="val")
    assert union_words([scored]) == WORDS
    assert all((read_pair(scored, i)[1] == val.labels[i]).all() for i in range(len(val)))
    assert (everything / "novel.txt").read_text().splitlines() == list(NOVEL_WORDS)
    captions = (base / "captions.txt").read_text().splitlines()
    assert captions == [train.caption(index).text for index in range(len(train))]


def test_bad_requests_are_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="must lie in"):
        render_scenes(0, size_hw=_SIZE, seed=0)
    (tmp_path / "taken").write_text("a file")
    scenes = render_scenes(1, size_hw=_SIZE, seed=0)
    with pytest.raises(BadInputError, match="choose another folder"):
        write_folders(tmp_path / "taken", train=scenes, val=scenes)


def test_label_files_are_plain_8_bit_pictures(tmp_path: Path) -> None:
    scenes = render_scenes(2, size_hw=_SIZE, seed=0)
    base, _ = write_folders(tmp_path, train=scenes, val=scenes)
    label = cv2.imread(str(base / "labels/train/000000.png"), cv2.IMREAD_UNCHANGED)
    assert label.dtype == np.uint8 and label.shape == _SIZE

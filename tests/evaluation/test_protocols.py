"""Class lists of published benchmarks: counts, order, sources, and the traps their users know."""

from __future__ import annotations

import re

import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.protocols import (
    MESS,
    MESS_DOMAINS,
    find_protocol,
    mess_means,
    protocols,
    words_of,
)
from dedos_deploy.training import coco_stuff
from dedos_deploy.vocabulary import canonical_word

COUNTS = {
    "A-150": 150,
    "A-847": 847,
    "PC-59": 59,
    "PC-459": 459,
    "PAS-20": 20,
    "PAS-20b": 59,
    "COCO-Stuff": 171,
    "Cityscapes-19": 19,
    "CamVid-11": 11,
    "VOC21": 21,
    "PC-60": 60,
    "COCO-Object": 81,
    "COCO-Stuff-171": 171,
    "MESS/bdd100k": 19,
    "MESS/dark_zurich": 20,
    "MESS/mhp_v1": 19,
    "MESS/foodseg103": 104,
    "MESS/atlantis": 56,
    "MESS/dram": 12,
    "MESS/isaid": 16,
    "MESS/isprs_potsdam": 6,
    "MESS/worldfloods": 3,
    "MESS/floodnet": 10,
    "MESS/uavid": 8,
    "MESS/kvasir_instrument": 2,
    "MESS/chase_db1": 2,
    "MESS/cryonuseg": 2,
    "MESS/paxray_lungs": 2,
    "MESS/paxray_bones": 2,
    "MESS/paxray_mediastinum": 2,
    "MESS/paxray_diaphragm": 2,
    "MESS/corrosion_cs": 4,
    "MESS/deepcrack": 2,
    "MESS/pst900": 5,
    "MESS/zerowaste": 5,
    "MESS/suim": 8,
    "MESS/cub_200": 201,
    "MESS/cwfid": 3,
}


def test_every_list_is_whole_and_says_where_it_is_from() -> None:
    assert {n: len(p.classes.classes) for n, p in protocols().items()} == COUNTS
    for protocol in protocols().values():
        classes = protocol.classes
        assert classes.digest == classes.sha256, classes.name
        assert classes.source.startswith("https://") and protocol.obtain
        # As whole names none occurs twice, even without letter case and outer spaces.
        assert len({name.strip().lower() for name in classes.classes}) == len(classes.classes)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("A-150", {0: "wall", 7: "bed ", 44: "chest of drawers", 141: "crt screen", 149: "flag"}),
        ("A-847", {0: "wall", 1: "building, edifice", 846: "adding machine, totalizer, totaliser"}),
        ("PC-59", {0: "aeroplane", 49: "diningtable", 58: "wood"}),
        ("PC-459", {2: "airconditioner", 458: "wool"}),
        ("PAS-20", {0: "aeroplane", 10: "diningtable", 19: "tvmonitor"}),
        ("PAS-20b", {19: "tvmonitor", 20: "bag", 41: "curtain", 51: "bedclothes", 58: "wood"}),
        ("COCO-Stuff", {0: "person", 79: "toothbrush", 80: "banner", 170: "wood"}),
        ("Cityscapes-19", {0: "road", 12: "rider", 18: "bicycle"}),
        ("VOC21", {1: "aeroplane", 4: "ship", 11: "table", 16: "pottedplant"}),
        ("PC-60", {0: "background", 1: "aeroplane", 50: "table", 59: "wood "}),
        ("COCO-Object", {2: "bicycle", 60: "bed", 80: "toothbrush"}),
        ("COCO-Stuff-171", {0: "person", 9: "trafficlight", 166: "water-other", 170: "wood"}),
    ],
)
def test_names_stand_where_label_values_expect_them(name: str, places: dict[int, str]) -> None:
    classes = find_protocol(name).classes.classes
    assert {index: classes[index] for index in places} == places


def test_lists_agree_where_they_must() -> None:
    assert find_protocol("COCO-Stuff").classes.classes == coco_stuff.NAMES
    twenty, with_background = find_protocol("PAS-20"), find_protocol("PAS-20b")
    assert with_background.classes.classes[:20] == twenty.classes.classes
    assert set(with_background.classes.classes) == set(find_protocol("PC-59").classes.classes)
    assert with_background.scored == (*twenty.scored, "background")
    assert find_protocol("pas-20B") is with_background


def test_words_to_ask_for() -> None:
    plain = dict(words_of(find_protocol("A-150").classes, synonyms=False))
    assert plain[7] == ("bed",) and len(plain) == 150
    first = dict(words_of(find_protocol("A-847").classes, synonyms=False))
    names = find_protocol("A-847").classes.classes
    # Ten classes share their first synonym with an earlier one, and can never win.
    missing = [names[index] for index in range(847) if index not in first]
    assert len(missing) == 10 and "screen, silver screen, projection screen" in missing
    assert all(len(words) == 1 for words in first.values())
    every = words_of(find_protocol("A-847").classes, synonyms=True)
    words = [canonical_word(word) for _, own in every for word in own]
    assert len(words) == len(set(words)) > 1200 and len(every) > 840
    assert dict(every)[names.index("sofa, couch, lounge")] == ("sofa", "couch", "lounge")


def test_training_free_papers_ask_for_every_word() -> None:
    voc, coco = find_protocol("VOC21"), find_protocol("COCO-Object")
    asked = dict(words_of(voc.classes, synonyms=None))
    assert len(asked[0]) == 26 and asked[0][:2] == ("sky", "wall") and asked[0][-1] == "fence"
    assert len(asked[15]) == 7 and asked[20][-1] == "screen" and asked[4] == ("ship",)
    assert voc.scored[0] == "background" and voc.scored[20] == "television monitor"
    # "bed" is a word of the background and a class: the first row of equal ones wins.
    both = dict(words_of(coco.classes, synonyms=None))
    assert coco.scored[60] == "bed" and 60 not in both and "bed" in both[0]
    apart = dict(words_of(coco.classes, synonyms=True))
    assert apart[60] == ("bed",) and "bed" not in apart[0]
    assert dict(words_of(voc.classes, synonyms=False))[0] == ("sky",)
    for protocol in (voc, coco, find_protocol("PC-60")):
        assert protocol.unlabelled == 0 and protocol.scored[0] == "background"
    published = {"VOC21": 0.15, "PC-60": 0.15, "COCO-Object": 0.35}
    assert {n: p.threshold for n, p in protocols().items() if p.threshold} == published


def test_unknown_names_and_their_neighbours() -> None:
    with pytest.raises(BadInputError, match=r"unknown protocol 'A-15', did you mean 'A-150'"):
        find_protocol("A-15")


def test_domain_means_are_messs() -> None:
    names = [name for name in protocols() if name.startswith(MESS)]
    assert len(names) == 25
    sets = {re.sub("paxray_.*", "paxray", name) for name in names}
    assert len(sets) == sum(MESS_DOMAINS.values()) == 22
    scores = {name: (index + 1) / 100 for index, name in enumerate(names)}
    found = mess_means(scores)
    general = [scores[name] for name in names if protocols()[name].domain == "General"]
    assert found["General"] == pytest.approx(sum(general) / 6)
    paxray = [scores[name] for name in names if "paxray" in name]
    medical = [scores[f"MESS/{n}"] for n in ("kvasir_instrument", "chase_db1", "cryonuseg")]
    assert found["Medical Sciences"] == pytest.approx((sum(paxray) / 4 + sum(medical)) / 4)
    by_sets = sum(found[domain] * count for domain, count in MESS_DOMAINS.items()) / 22
    assert found["Mean"] == pytest.approx(by_sets)
    del scores["MESS/paxray_bones"]
    assert set(mess_means(scores)) == set(MESS_DOMAINS) - {"Medical Sciences"}
    assert mess_means({"A-150": 0.3}) == {}

"""Words that a text tower spells out, with the tokenizer of the demo bundle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dedos_deploy.bundle import Bundle
from dedos_deploy.runtime.loading import tower_files
from dedos_deploy.text.spelling import Spelling
from dedos_deploy.text.tokenizer import Tokenizer

REAL = (
    "giraffe,umbrella,piano,submarine,volcano,zebra crossing,keyboard,forklift,pallet,excavator,"
    "scaffolding,wheelchair,suitcase,backpack,refrigerator,microwave,telescope,lighthouse,waterfall,"
    "penguin,elephant,strawberry,violin,parachute,stethoscope,hammock,chandelier,escalator,drone,"
    "conveyor belt"
).split(",")
MADE_UP = (
    "asdfgh,qwertz,xkcdq,blorptang,zzzzzz,hjkl,fgdsfg,wrtbnm,florbix,grumplet,qpwoei,vbnmxc,lkjhgf,"
    "snarfle,drobnik,tgbyhn,plokij,uhbygv,xxyyzz,mnbvcx,krelvatch,ziggum,trobble,ajskdl,eurwoq,pqowie,"
    "wugs zorp,flimbo,gnarpx,yuiopl"
).split(",")


@pytest.fixture(scope="module")
def demo() -> Iterator[Bundle]:
    with Bundle.open("demo") as bundle:
        yield bundle


def test_made_up_words_are_told_from_real_ones(demo: Bundle) -> None:
    spelling = Spelling(tower_files(demo).open_tokenizer, demo.base_words)
    assert len(REAL) == len(MADE_UP) == 30 and not {*REAL} & {*demo.base_words}
    assert spelling.spelled_out(REAL) == []
    found = spelling.spelled_out(MADE_UP)
    assert len(found) == 28 and {"trobble", "snarfle"}.isdisjoint(found)


def test_short_words_numbers_and_marks_are_not_spelled_out(demo: Bundle) -> None:
    spelling = Spelling(tower_files(demo).open_tokenizer, ())
    assert spelling.spelled_out(["tv", "gym", "bus 42", "t-shirt", "Traffic  Light", "4711"]) == []
    assert spelling.spelled_out(["red asdfgh", "道路"]) == ["red asdfgh", "道路"]


def test_known_words_need_no_tokenizer() -> None:
    def none() -> Tokenizer:
        raise AssertionError("opened")

    assert Spelling(none, ["asdfgh"]).spelled_out(["ASDFGH"]) == []

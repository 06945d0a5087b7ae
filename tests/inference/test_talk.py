"""Whose answers a conversation goes on from."""

from __future__ import annotations

from spinevl.config.options import History
from spinevl.inference.talk import Talk
from spinevl.schema.example import Example, Key

EXAMPLE = Example(Key("1", ""), (), (("a?", "A."), ("b?", "B."), ("c?", None)))


def test_given_answers_are_taken_as_they_are() -> None:
    talk = Talk(EXAMPLE, History.given)
    for _ in range(2):
        assert talk.next() == (("a?", "A."), ("b?", "B."), ("c?", None))
    talk.say("x")
    assert talk.next() is None
    assert talk.said == [("a?", "A."), ("b?", "B."), ("c?", "x")]


def test_or_each_is_written() -> None:
    talk = Talk(EXAMPLE, History.own)
    asked = []
    while (rounds := talk.next()) is not None:
        asked.append(rounds)
        talk.say(str(len(asked)))
    assert asked == [
        (("a?", None),),
        (("a?", "1"), ("b?", None)),
        (("a?", "1"), ("b?", "2"), ("c?", None)),
    ]
    assert talk.said == [("a?", "1"), ("b?", "2"), ("c?", "3")]

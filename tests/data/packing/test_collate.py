"""What a batch holds, and which examples are refused before one is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spinevl.data.images import ImageStore
from spinevl.data.packing.collate import Collator
from spinevl.models.llm import TinyLLM
from spinevl.schema.batch import FLEX_TILE
from spinevl.schema.errors import UserError
from spinevl.schema.example import Example, Key
from spinevl.schema.image_ref import ImageRef
from spinevl.schema.model_inputs import ModelInputs, VisionInputs

OPTIONS = ("A.normal", "B.bulging", "C.protrusion")
SAGITTAL = ImageRef("s6", patient="p", plane="sagittal", slice=6)
AXIAL = ImageRef("t2", patient="p", plane="axial", level="C2-C3")
CLOSED = Example(
    Key("p", "zjppt", "C2-C3"),
    (SAGITTAL, AXIAL),
    (("<image>\n<image>\nDisc C2-C3?", OPTIONS[1]),),
    kind="option",
    options=OPTIONS,
    label=1,
    truth=OPTIONS[1],
    weight=2.5,
)
BOX = Example(
    Key("p", "positioning", "C3"), (SAGITTAL,), (("<image>\nWhere?", "(1,2)"),), kind="box"
)
TALK = Example(
    Key("7", "report"),
    (ImageRef("x"),),
    (("<image>\nCurve?", "Straight."), ("Sure?", "Yes.")),
    source="file.json: record 3 (id 7)",
)
HEADS = {"sagittal/zjppt/C2-C3": 3, "sagittal/zjppt/C3-C4": 3, "axial/zjppt": 3}


def collator(*, max_length: int = 256, conversation: str = "chat", **options: object) -> Collator:
    def transform(pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels)[None].float()

    inputs = ModelInputs(
        tokenizer=TinyLLM(width=8, layers=1, heads=1).tokenizer,
        conversation=conversation,
        end_token=None,
        max_length=max_length,
        vision={"image": VisionInputs(3, transform)},
    )
    store = ImageStore(lambda image: np.full((4, 4), len(image.path), np.uint8))
    return Collator(inputs, store, **options)  # type: ignore[arg-type]


def test_to_learn_every_question_has_its_true_answer_and_weight() -> None:
    collate = collator(learn=True)
    batch = collate([[(4, CLOSED), (9, BOX)]])
    assert batch.questions == (4, 9)
    assert batch.sequence_label == (-1, -1)
    for number, weight in enumerate((2.5, 1.0)):
        weights = batch.target_weight[batch.target_sequence == number]
        assert weights.tolist() == pytest.approx([weight / len(weights)] * len(weights))
    assert batch.answer_divisor == 2
    each = collator(learn=True, loss="token")([[(4, CLOSED), (9, BOX)]])
    assert each.target_weight.tolist() == [[2.5, 1.0][k] for k in each.target_sequence.tolist()]
    assert each.answer_divisor == len(each.target_id)
    ids = collate.conversation.tokenizer.decode(batch.target_id[batch.target_sequence == 0])
    assert ids.startswith(OPTIONS[1])


def test_to_score_every_option_of_a_closed_question_is_laid_out() -> None:
    collate = collator(learn=True, heads=HEADS, scoring="full").to_score()
    batch = collate([[(4, replace(CLOSED, rounds=((CLOSED.rounds[0][0], None),), label=None))]])
    assert batch.sequence_label == (0, 1, 2)
    assert batch.sequence_question.tolist() == [0, 0, 0]
    assert len(batch.auxiliary_image) == 0
    decode = collate.conversation.tokenizer.decode
    for label, option in enumerate(OPTIONS):
        assert decode(batch.target_id[batch.target_sequence == label]).startswith(option)


def test_every_round_of_a_conversation_is_learned() -> None:
    collate = collator(learn=True)
    batch = collate([[(0, TALK)]])
    text = collate.conversation.tokenizer.decode(batch.target_id)
    assert text.index("Straight.") < text.index("Yes.")
    assert "Sure?" not in text


def test_an_image_stands_once_and_one_with_boxes_or_of_a_conversation_is_not_shifted() -> None:
    batch = collator(learn=True)([[(0, CLOSED), (1, BOX)], [(2, TALK)]])
    assert batch.pixel_values.shape == (3, 1, 4, 4)
    assert batch.shiftable.tolist() == [False, True, False]  # of s6, t2 and x
    assert sorted(set(batch.visual_index[batch.visual_index >= 0].tolist())) == list(range(9))


def test_parts_of_one_file_are_images_of_their_own() -> None:
    parts = tuple(ImageRef("s6", crop=(0, 0, 4, stop)) for stop in (4, 4))
    other = replace(CLOSED, images=(parts[0], ImageRef("s6", crop=(0, 0, 4, 4), plane="axial")))
    assert len(collator()([[(0, replace(CLOSED, images=parts))]]).pixel_values) == 1
    assert len(collator()([[(0, other)]]).pixel_values) == 2


def test_for_flex_attention_rows_are_whole_tiles_and_have_no_blocks() -> None:
    groups = [[(0, CLOSED)], [(1, TALK)]]
    blocks, flex = (
        collator(learn=True, packing="off", attention=kind)(groups) for kind in ("blocks", "flex")
    )
    assert blocks.subtree_end is None
    assert (flex.attention, flex.attention_order.numel()) == ((), 0)
    length = flex.input_ids.shape[1]
    assert (length % FLEX_TILE, flex.tokens) == (0, blocks.tokens)
    ends = [blocks.tokens, flex.subtree_end[:, 0].sum()]  # a row is one chain here
    assert ends[0] == ends[1]
    assert torch.equal(flex.input_ids[:, : blocks.input_ids.shape[1]], blocks.input_ids)
    padding = flex.subtree_end[0, flex.subtree_end[0, 0] :]
    assert torch.equal(padding, torch.arange(length - len(padding), length) + 1)
    assert torch.equal(flex.each(lambda one: one + 1).subtree_end, flex.subtree_end + 1)
    assert torch.equal(flex.blank().subtree_end, flex.subtree_end)
    assert flex.without_inputs().subtree_end is None


def test_auxiliary_targets_name_image_head_class_and_weight() -> None:
    batch = collator(learn=True, heads=HEADS)([[(0, BOX), (1, CLOSED)]])
    assert batch.auxiliary_image.tolist() == [0, 1]
    assert batch.auxiliary_head.tolist() == [0, 2]
    assert batch.auxiliary_label.tolist() == [1, 1]
    assert batch.auxiliary_weight.tolist() == [2.5, 2.5]
    assert batch.auxiliary_divisor == 2
    unknown = replace(CLOSED, label=None)
    assert len(collator(learn=True, heads=HEADS)([[(0, unknown)]]).auxiliary_image) == 0


def test_the_length_is_the_longest_options() -> None:
    collate = collator()
    for one in (CLOSED, BOX, TALK):
        waiting = replace(one, rounds=(*one.rounds[:-1], (one.rounds[-1][0], None)))
        longest = max(
            collator(packing="off", scoring="full")([[(0, one)]]).input_ids.shape[1]
            + 1,  # the end token's place
            collate.length(waiting) if one.kind != "option" else 0,
        )
        assert collate.length(one) == longest


@pytest.mark.parametrize(
    ("example", "options", "said"),
    [
        (
            replace(CLOSED, images=(SAGITTAL,)),
            {},
            ["record p zjppt C2-C3", "one <image> in the prompt for each of its 1 images", "2"],
        ),
        (
            replace(TALK, images=(ImageRef("v", modality="image3d"),)),
            {},
            ["file.json: record 3 (id 7)", "images of image alone", "<image3d>", "add encoder3d"],
        ),
        (BOX, {"max_length": 8}, ["record p positioning C3", "at most 8 tokens", "llm.max_length"]),
        (
            replace(TALK, images=(), rounds=(("Q?", "A"),)),  # one token, and nothing before it
            {"conversation": "pretrain"},
            ["file.json: record 3 (id 7)", "an answer with a token to learn"],
        ),
        (
            replace(CLOSED, rounds=((CLOSED.rounds[0][0], None),)),
            {"learn": True},
            ["record p zjppt C2-C3", "an answer with a token to learn", "found none"],
        ),
    ],
)
def test_an_example_that_does_not_fit_is_named(
    example: Example, options: dict[str, object], said: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        collator(**options).check([example, example])  # type: ignore[arg-type]
    assert len(caught.value.problems) == 2
    for words in said:
        assert words in str(caught.value.problems[0])


def test_room_for_an_answer_counts() -> None:
    waiting = replace(BOX, rounds=((BOX.rounds[0][0], None),))
    length = collator().length(waiting)
    collator(max_length=length + 48).check([waiting], room=48)
    message = (
        rf"record p positioning C3: .*{length + 47} tokens .*{length} and predict\.max_new_t.*=48"
    )
    with pytest.raises(UserError, match=message):
        collator(max_length=length + 47).check([waiting], room=48)


def test_questions_with_options_are_refused_where_the_question_is_dropped() -> None:
    with pytest.raises(UserError, match=r"llm\.conversation=pretrain: it drops the question"):
        collator(conversation="pretrain").check([CLOSED])


def test_an_unknown_packing_is_refused() -> None:
    with pytest.raises(ValueError, match="'dense' is not a valid Packing"):
        collator(packing="dense")
